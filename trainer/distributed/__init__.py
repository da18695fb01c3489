"""Ranks: communicators, the exchange of gradients, and the end of jobs that fail."""
