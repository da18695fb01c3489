"""Where tensors lie: the memory of the host, the only device that there is."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy.typing as npt

from .dtypes import FLOAT32, DType, as_dtype

Device: TypeAlias = "device | str | None"


class device:
    """The device "cpu", so that scripts may name it. ValueError for another one."""

    __slots__ = ("index", "type")

    def __init__(self, type: device | str = "cpu", index: int | None = None) -> None:
        name, _, number = str(type).partition(":")
        if name != "cpu" or number not in ("", "0") or index not in (None, 0):
            got = str(type) if index is None else f"{type}:{index}"
            raise ValueError(f"device: expected 'cpu', the only one that there is, got {got!r:.60}")
        self.type, self.index = name, 0 if number else index

    def __eq__(self, other: object) -> bool:
        return isinstance(other, device) and self.index == other.index

    def __hash__(self) -> int:
        return hash(("cpu", self.index))

    def __str__(self) -> str:
        return "cpu" if self.index is None else f"cpu:{self.index}"

    def __repr__(self) -> str:
        return f"device(type={str(self)!r})"


CPU = device()


def check_device(name: Device) -> None:
    """ValueError for another device than the CPU; None is the CPU."""
    if not (name is None or name is CPU):
        device(name)


def target_type(target: Any, dtype: npt.DTypeLike | None, name: Device) -> DType | None:
    """Return the type that the arguments of `to` ask for, None for any.

    `target` is a type, a device, something with a type such as a tensor, or None. ValueError for
    another device than the CPU, TypeError for what is no type."""
    check_device(name)
    if isinstance(target, device) or (isinstance(target, str) and target.startswith("cpu")):
        check_device(target)
    elif target is not None:
        dtype = getattr(target, "dtype", target) if hasattr(target, "spec") else target
    return None if dtype is None else as_dtype(dtype)


def layer_type(name: Device, dtype: npt.DTypeLike | None) -> DType:
    """Return the type of a layer's parameters, float32 for None. ValueError for another device than
    the CPU, TypeError for what is no type."""
    check_device(name)
    return FLOAT32 if dtype is None else as_dtype(dtype)
