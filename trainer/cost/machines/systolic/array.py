"""Cycles and memory traffic of a matrix product on a systolic array, in closed form.

The formulas reproduce SCALE-Sim 3.0.0 (Samajdar et al., ISPASS 2020), which steps through the same
arrays cycle by cycle; the tests compare both. All counts are exact Python integers of any size.
"""

from __future__ import annotations

from fractions import Fraction
from math import ceil
from operator import index
from typing import NamedTuple

DATAFLOWS = ("os", "ws", "is")


class GemmEstimate(NamedTuple):
    """The cost of one product; reads and writes are words between the array and its memories.

    `cycles` is the index of the last cycle, counted from 0, as SCALE-Sim prints it: one less than
    the number of cycles. `output_writes` includes partial sums, each time they leave the array.
    `utilization` is m k n / (rows columns (cycles + 1)), the share of unit-cycles that multiply:
    above 0, at most 1.
    """

    cycles: int
    input_reads: int
    filter_reads: int
    output_writes: int
    utilization: float


class Gemm(NamedTuple):
    """A product of (m, k) by (k, n) that runs `times` times: m k n times MACs in all."""

    m: int
    k: int
    n: int
    times: int


def estimate(m: int, k: int, n: int, rows: int, columns: int, dataflow: str) -> GemmEstimate:
    """Estimate the product of m output pixels, inner size k and n filters on rows x columns units.

    `dataflow` names the operand that stays in the array: "os" outputs (m down the rows, n across
    the columns), "ws" weights (k down, n across), "is" inputs (k down, m across). A product larger
    than the array is cut into folds that run one after the other. A fold of T steps takes
    T + R + C - 2 cycles on R x C units, however many of them it fills, and R more to load a
    stationary operand. Writing stationary outputs takes no cycles. ValueError for a size below 1
    and for an unknown dataflow.
    """
    m, k, n = _sizes(m=m, k=k, n=n)
    rows, columns = _sizes(rows=rows, columns=columns)
    if dataflow not in DATAFLOWS:
        raise ValueError(f"dataflow: expected one of {', '.join(DATAFLOWS)}, got {dataflow!r}")
    down, across, steps = {"os": (m, n, k), "ws": (k, n, m), "is": (k, m, n)}[dataflow]
    down, across = _divide_up(down, rows), _divide_up(across, columns)
    inputs, filters, outputs = {  # how many times each operand passes the edge of the array
        "os": (across, down, 1),
        "ws": (across, 1, down),
        "is": (1, across, down),
    }[dataflow]
    loading = 0 if dataflow == "os" else rows
    cycles = down * across * (loading + steps + rows + columns - 2)
    utilization = m * k * n / (rows * columns * cycles)
    return GemmEstimate(cycles - 1, m * k * inputs, k * n * filters, m * n * outputs, utilization)


def stalled_cycles(
    estimate: GemmEstimate, bandwidth: float | Fraction, words: int | None = None
) -> int:
    """Return the cycles of a product whose memory moves `bandwidth` words per cycle.

    This is max(cycles, words / bandwidth), rounded up: transfers overlap the arithmetic and each
    other perfectly. `words` cross the link, by default all reads and writes of the array; for DRAM
    pass the words that miss the memories on the chip. ValueError for a bandwidth that is not a
    positive number and for a negative number of words.
    """
    if not 0 < bandwidth < float("inf"):
        raise ValueError(f"bandwidth: expected words per cycle, more than 0, got {bandwidth}")
    if words is None:
        words = estimate.input_reads + estimate.filter_reads + estimate.output_writes
    if words < 0:
        raise ValueError(f"words: expected 0 or more, got {words}")
    # By its decimals: the float 0.7 is slightly less than 7/10, so 7 words would take 11 cycles.
    return max(estimate.cycles, ceil(words / Fraction(str(bandwidth))))


def gemms(
    n: int, m: int, c: int, r: int, s: int, e: int, f: int, groups: int = 1
) -> dict[str, Gemm]:
    """Return the products of a convolution by pass: forward, backward_data, backward_weights.

    n images, m filters of r x s over c channels, outputs e x f; a linear layer has r = s = e = f
    = 1. Each product covers one group and runs `groups` times; all passes have the same MACs. Skip
    backward_data for an input that needs no gradient, such as the first layer's. ValueError for a
    size below 1 and for groups that do not divide m and c.
    """
    n, m, c, r, s, e, f = _sizes(n=n, m=m, c=c, r=r, s=s, e=e, f=f)
    (groups,) = _sizes(groups=groups)
    if m % groups or c % groups:
        raise ValueError(f"groups: expected a divisor of m = {m} and c = {c}, got {groups}")
    pixels, window, filters = n * e * f, c // groups * r * s, m // groups
    return {
        "forward": Gemm(pixels, window, filters, groups),
        "backward_data": Gemm(pixels, filters, window, groups),
        "backward_weights": Gemm(window, pixels, filters, groups),
    }


def _sizes(**sizes: int) -> list[int]:
    # Python's integers: products of NumPy's would overflow.
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}: expected a size of at least 1, got {size}")
    return [index(size) for size in sizes.values()]


def _divide_up(size: int, part: int) -> int:
    return -(-size // part)
