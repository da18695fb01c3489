"""The phases that the ledger counts under, and their names in texts.

PASSES are those of a layer, PHASES those of a training step.
"""

from __future__ import annotations

PASSES = ("forward", "backward_data", "backward_weights")
PHASES = (*PASSES, "update")
NAMES = {
    "forward": "forward",
    "recompute": "forward again",
    "backward_data": "backward, data",
    "backward_weights": "backward, weights",
    "update": "update",
    "communicate": "exchange",
    "evaluate": "evaluation",
}
SHORT = {"forward": "fwd", "backward_data": "bwd data", "backward_weights": "bwd weights"}
REPEATED = ("recompute", "evaluate")  # phases that consist of forward passes
WHOLE = "(the model itself)"  # the name of work outside of all layers


def in_full(phase: str) -> str:
    """Return the name of a phase with what it is part of, such as "training: forward"."""
    name = NAMES[phase]
    return name if phase == "evaluate" else f"training: {name}"
