"""Reports: typed models, and their texts, pages and numbers.

The names below are what the rest of the trainer shares: the formats of numbers, and the layout of
tables and lines on a terminal. They load neither NumPy nor the engine.
"""

from .text_table import Column, fit, name_column, terminal_width, text_table
from .units import accuracy_text, duration, gigabytes, points_text, short

__all__ = [
    "Column", "accuracy_text", "duration", "fit", "gigabytes", "name_column", "points_text",
    "short", "terminal_width", "text_table",
]  # fmt: skip
