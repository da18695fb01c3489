"""What scripts with mixed precision import from torch.amp."""

from __future__ import annotations

from typing import Any, TypeVar

from .autocast import autocast

__all__ = ["GradScaler", "autocast"]

T = TypeVar("T")


class GradScaler:
    """A scaler with torch's methods that does not scale, as torch's with `enabled=False`: bfloat16
    has the range of float32, so that small gradients need no scaled loss. Arguments are ignored."""

    def __init__(self, *args: object, **options: object) -> None: ...

    def scale(self, outputs: T) -> T:
        """Return the loss, or the losses, as they are."""
        return outputs

    def unscale_(self, optimizer: object) -> None:
        """Leave gradients as they are."""

    def step(self, optimizer: Any, *args: Any, **options: Any) -> Any:
        """Return the result of `optimizer.step`."""
        return optimizer.step(*args, **options)

    def update(self, new_scale: object = None) -> None:
        """Do nothing: there is no scale."""

    def get_scale(self) -> float:
        """Return 1."""
        return 1.0

    def is_enabled(self) -> bool:
        """Return False."""
        return False

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Ignore a state, such as torch's."""
