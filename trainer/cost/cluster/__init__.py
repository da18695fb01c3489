"""Data-parallel steps on many ranks: links, collectives, predictions."""
