"""Machines that price work: one module or sub-package for each kind."""
