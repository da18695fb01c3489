"""Measure this host: its peaks, its links and the trainer's own steps."""
