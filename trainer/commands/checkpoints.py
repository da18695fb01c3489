"""The checkpoint that `eval` and `predict` are asked to apply, and the data to apply it to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """The options that `flags.add_checkpoint` adds; "" is what was not given, and 0 `threads` are
    those of the environment."""

    checkpoint: str
    model: str
    dataset: str
    split: str
    data_dir: str
    precision: str
    tta: str
    threads: int
