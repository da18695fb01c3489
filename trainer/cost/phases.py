"""The phases that work is counted under, and their names for people."""

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
REPEATED = ("recompute", "evaluate")  # phases that do what a forward pass does
WHOLE = "(the model itself)"  # the name of work outside of all layers


def in_full(phase: str) -> str:
    """Return a phase with what it belongs to: training: forward."""
    name = NAMES[phase]
    return name if phase == "evaluate" else f"training: {name}"
