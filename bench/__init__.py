"""Measurements of training and inference beside torch: `python -m bench`, see docs/bench.md."""
