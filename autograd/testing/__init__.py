"""Tools for testing operations, ours and yours."""

from .check import gradcheck, gradgradcheck
from .samples import Sample, samples

__all__ = ["Sample", "gradcheck", "gradgradcheck", "samples"]
