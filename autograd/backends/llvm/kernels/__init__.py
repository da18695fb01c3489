"""Generators of machine code."""
