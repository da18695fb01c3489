"""Ranks: communicators, the exchange of gradients, the end of jobs that fail, verified steps."""
