"""Primitives by family. Each declares its shape rule, cost rule, NumPy reference and derivative."""
