"""Ranks that end, hang or lose touch: noticed, named, and the job ended within bounded time."""
