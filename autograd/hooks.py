"""What registering a hook returns."""

from __future__ import annotations

from collections.abc import Callable


class RemovableHandle:
    """Removes a hook, by `remove()`, a call, or the end of a `with` block."""

    def __init__(self, remove: Callable[[], object]) -> None:
        self._remove: Callable[[], object] | None = remove

    def remove(self) -> None:
        """Remove the hook, if it is still there."""
        remove, self._remove = self._remove, None
        if remove is not None:
            remove()

    __call__ = remove

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()
