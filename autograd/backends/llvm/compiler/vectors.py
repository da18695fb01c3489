"""Vectors of numbers in a kernel, and variables that hold one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .language import KernelBuilder


class Vector:
    """A vector of numbers in a kernel. Operators emit instructions; a plain number stands for a
    vector of it."""

    __slots__ = ("kernel", "value")

    def __init__(self, kernel: KernelBuilder, value: Any) -> None:
        self.kernel, self.value = kernel, value

    def _with(self, other: Vector | float, instruction: str, swapped: bool = False) -> Vector:
        pair = [self.value, self.kernel.vector(other).value]
        result = getattr(self.kernel.builder, instruction)(*(pair[::-1] if swapped else pair))
        return Vector(self.kernel, result)

    def __add__(self, other: Vector | float) -> Vector:
        return self._with(other, "fadd")

    def __sub__(self, other: Vector | float) -> Vector:
        return self._with(other, "fsub")

    def __mul__(self, other: Vector | float) -> Vector:
        return self._with(other, "fmul")

    def __truediv__(self, other: Vector | float) -> Vector:
        return self._with(other, "fdiv")

    def __radd__(self, other: float) -> Vector:
        return self + other

    def __rmul__(self, other: float) -> Vector:
        return self * other

    def __rsub__(self, other: float) -> Vector:
        return self._with(other, "fsub", swapped=True)

    def __rtruediv__(self, other: float) -> Vector:
        return self._with(other, "fdiv", swapped=True)

    def __gt__(self, other: Vector | float) -> Any:
        return self._compare(">", other)

    def __lt__(self, other: Vector | float) -> Any:
        return self._compare("<", other)

    def __ge__(self, other: Vector | float) -> Any:
        return self._compare(">=", other)

    def __le__(self, other: Vector | float) -> Any:
        return self._compare("<=", other)

    def equals(self, other: Vector | float) -> Any:
        """Return a mask: where both are the same number."""
        return self._compare("==", other)

    def isnan(self) -> Any:
        """Return a mask: where it is not a number."""
        return self.kernel.builder.fcmp_unordered("uno", self.value, self.value)

    def _compare(self, how: str, other: Vector | float) -> Any:
        builder = self.kernel.builder
        return builder.fcmp_ordered(how, self.value, self.kernel.vector(other).value)


class Variable:
    """A vector that changes, such as a sum. LLVM keeps it in a register (its mem2reg pass)."""

    __slots__ = ("kernel", "slot")

    def __init__(self, kernel: KernelBuilder, slot: Any) -> None:
        self.kernel, self.slot = kernel, slot

    def get(self) -> Vector:
        """Return its value at this point of the kernel."""
        return Vector(self.kernel, self.kernel.builder.load(self.slot, typ=self.kernel.wide))

    def set(self, value: Vector) -> None:
        """Change it from this point on."""
        self.kernel.builder.store(value.value, self.slot)
