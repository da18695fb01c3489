"""Instruction sets that kernels are made for."""
