"""Tools for testing operations, ours and yours: gradient checks, and a table of sample calls."""

from .check import gradcheck, gradgradcheck
from .samples import Sample, samples

__all__ = ["Sample", "gradcheck", "gradgradcheck", "samples"]
