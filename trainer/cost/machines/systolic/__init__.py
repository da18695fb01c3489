"""Systolic arrays: cycles and traffic of matrix products in closed form."""
