"""Generators of machine code. They know registers, tiles and addresses, but no arrays."""
