"""Benchmarks of training and inference, compared with torch: `python -m bench`.

docs/bench.md describes options, method and results.
"""
