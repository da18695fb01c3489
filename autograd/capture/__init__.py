"""Observing the calls that dispatch makes: to trace, capture and replay them, or to measure."""
