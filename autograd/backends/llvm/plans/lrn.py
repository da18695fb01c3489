"""Local response normalisation of any array (N, C, ..), brought channels-last: plans."""

from __future__ import annotations

from ....array import NDArray, Spec
from ..compiler.isa.targets import Target
from ..compiler.jit import build
from ..kernels.lrn import MOST, STRIP, LrnRows, backward, forward
from ..registry import implements
from ..runtime.executable import Executable
from ..runtime.layout import ChannelsLast, address
from ..runtime.parallel import Scratch


class _LrnCall(ChannelsLast):
    """What the calls of a plan share: rows, their number, and zeros around STRIP of them."""

    def __init__(self, target: Target, x: Spec, before: int, after: int) -> None:
        super().__init__(x)
        channels = x.shape[1]
        most = channels - 1
        self.rows = LrnRows(x.dtype.name, channels, min(before, most), min(after, most))
        self.count = x.size // channels
        self.room = Scratch(STRIP * self.rows.room(target.lanes(x.dtype)), x.dtype)


def _takes(beta: float) -> bool:
    """Tell whether kernels have this power: a whole one is defined for negative numbers too."""
    return abs(beta) <= MOST or beta != int(beta)


@implements("local_response_norm")
def local_response_norm(
    target: Target, x: Spec, *, size: int, alpha: float, beta: float, k: float
) -> Executable | None:
    """Plan y and s."""
    if not _takes(beta):
        return None
    call = _LrnCall(target, x, size // 2, (size - 1) // 2)
    function = build(forward, target, call.rows, float(alpha / size), float(beta), float(k))

    def run(x: NDArray) -> tuple[NDArray, NDArray]:
        arrays = call.last(x), call.result(), call.result()
        function(*map(address, arrays), call.room.address(0), call.count)
        return arrays[1], arrays[2]

    return Executable(run, native=True)


@implements("lrn_dx")
def lrn_dx(
    target: Target, dy: Spec, x: Spec, s: Spec, *, size: int, alpha: float, beta: float
) -> Executable | None:
    """Plan the gradient of x."""
    if not _takes(beta) or not dy.dtype == x.dtype == s.dtype:
        return None
    call = _LrnCall(target, x, (size - 1) // 2, size // 2)
    function = build(backward, target, call.rows, float(2 * alpha * beta / size), float(beta))

    def run(dy: NDArray, x: NDArray, s: NDArray) -> NDArray:
        dx = call.result()
        arrays = call.last(dy), call.last(x), call.last(s), dx
        function(*map(address, arrays), call.room.address(0), call.count)
        return dx

    return Executable(run, native=True)
