"""How long compressing gradients takes on this host."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...autograd import backends, context, models, nn
from ...autograd.functional.create import zeros
from ...autograd.tape import Tape
from ...autograd.tensor import Tensor
from ..cost.cluster.compression import Compression
from ..distributed.comm import Request, SerialComm
from ..distributed.exchange import Reducer
from ..distributed.sync import GradientSync

ROUNDS, WARMING = 5, 2  # steps that are measured, and those before them
RANKS = 2, 4  # numbers of ranks through whose times the line is drawn


class Mirror(SerialComm):
    """A rank of several that all hold the same: what compressing takes, without messages."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def iallgather(self, array: NDArray[Any]) -> tuple[Request, NDArray[Any]]:
        """Return the array once for each rank."""
        request, _ = super().iallgather(array)
        return request, np.broadcast_to(array, (self.size, *array.shape))

    def ialltoall(self, array: NDArray[Any]) -> tuple[Request, NDArray[Any]]:
        """Return what all ranks send to this one."""
        request, _ = super().iallgather(array)
        return request, np.broadcast_to(array[:1], array.shape).copy()


def measure(
    option: tuple[str, float], model: str, input_shape: tuple[int, int, int], classes: int,
    names: Sequence[str], bucket_bytes: int,
) -> Compression:  # fmt: skip
    """Return the compression of a model's gradients, which are final in the order of the names, by
    a scheme and its share or rank."""
    with context.using(backend=backends.SHAPES_ONLY, tape=Tape()):
        made = models.create(model, input_shape=input_shape, classes=classes)
        by_name = {name: p.shape for name, p in made.named_parameters()}
    shapes = [by_name[name] for name in names]
    few, many = RANKS
    lower, upper = (_seconds(option, shapes, bucket_bytes, ranks) for ranks in RANKS)
    slope = max(0.0, (upper - lower) / (many - few))
    return Compression(*option, shapes, lower - few * slope, slope)


def _seconds(
    option: tuple[str, float], shapes: Sequence[tuple[int, ...]], bucket_bytes: int, ranks: int
) -> float:
    """Return the median seconds in which a rank of several compresses a step's gradients."""
    with context.using(backend="numpy", tape=None):
        flat = nn.flatten([nn.Parameter(zeros(*shape)) for shape in shapes])
        reducer = Reducer(Mirror(ranks), ranks)
        sync = GradientSync(flat, reducer, bucket_bytes, hooked=False, compress=option)
        draw, times = np.random.default_rng(0), []
        for _ in range(WARMING + ROUNDS):
            flat.grad.write(draw.standard_normal(flat.grad.spec.size, np.float32))
            for p in flat.parameters:
                p.grad = Tensor(p.slot) if p.slot else None
            begun = perf_counter()
            sync.wait()
            times.append(perf_counter() - begun)
    return median(times[WARMING:])
