"""Randomness that does not depend on who computes: keyed by seed, step, call and sample."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from . import backends, context
from .array import Array, NDArray, Spec, array
from .device import Device, check_device
from .dtypes import as_dtype, is_floating
from .splitmix64 import mix, output, words


class SampleKeys:
    """Keys for the samples of one step; `calls` distinguishes the uses within the step. `generator`
    draws what is not keyed by the sample, from the key of the first one on."""

    def __init__(self, keys: Array) -> None:
        self.keys = keys
        self.calls = 0

    @cached_property
    def generator(self) -> np.random.Generator:
        """The generator of these samples in this step."""
        return np.random.Generator(np.random.Philox(key=int(self.keys.value[:1].sum())))

    def rows(self, count: int) -> Array:
        """Return keys (count,) of rows: those of the samples where the rows can be these, else
        hashes of the first sample's key and of each row's number."""
        if self.keys.shape == (count,):
            return self.keys
        first = output(words([self.keys.value[:1].sum()]))
        return array(mix(first ^ mix(words(np.arange(count)))))


class Generator:
    """A stream of random numbers of its own, for the argument `generator` of functions that
    draw."""

    def __init__(self, device: Device = "cpu") -> None:
        check_device(device)
        self.manual_seed(0)

    def manual_seed(self, seed: int) -> Self:
        """Restart the stream. Return self. ValueError for a seed that is no integer from 0 up."""
        if not isinstance(seed, int | np.integer) or seed < 0:
            raise ValueError(f"manual_seed: expected an integer of at least 0, got {seed!r:.60}")
        self._seed = int(seed)
        self.numbers = np.random.Generator(np.random.Philox(self._seed))
        return self

    def initial_seed(self) -> int:
        """Return the seed that the stream began with."""
        return self._seed


DEFAULT = Generator()
_source: ContextVar[SampleKeys | None] = ContextVar("tallygrad_random", default=None)


def manual_seed(seed: int) -> Generator:
    """Restart the generator behind `randn`, `rand`, initialisers and dropout outside `keyed`, and
    return it. ValueError for a seed that is no integer from 0 up."""
    return DEFAULT.manual_seed(seed)


def initial_seed() -> int:
    """Return the seed of that generator, 0 before `manual_seed`."""
    return DEFAULT.initial_seed()


def numbers_of(generator: Generator | None = None) -> np.random.Generator:
    """Return what draws: a given generator, else that of the step within `keyed`, else the one that
    `manual_seed` restarts. TypeError for what is no generator."""
    if not isinstance(generator, Generator | None):
        kind = type(generator).__name__
        raise TypeError(f"generator: expected a Generator or None, got {kind}")
    source = _source.get()
    if generator is None and source:
        return source.generator
    return (generator or DEFAULT).numbers


@contextmanager
def keyed(samples: NDArray, seed: int, step: int) -> Iterator[SampleKeys]:
    """Key dropout masks within the block by (seed, step, use within the step, sample) alone, or
    where the first axis does not hold the samples by (seed, step, use, first sample, row); and the
    generator of all other draws by (seed, step, first sample).

    Any number of ranks then draws the same, as the micro-batches are the same. `samples`: (N,)
    global numbers of the batch's rows."""
    # Hashed at each stage: neighbouring seeds, steps and samples get unrelated keys.
    start = mix(output(words([seed])) ^ words([step]))
    source = SampleKeys(array(mix(start ^ mix(words(samples)))))
    token = _source.set(source)
    try:
        yield source
    finally:
        _source.reset(token)


def in_step() -> bool:
    """Tell whether a micro-batch of a step is under way, see `keyed`."""
    return _source.get() is not None


def sample_keys(count: int, generator: Generator | None = None) -> tuple[Array, int]:
    """Return (N,) uint64 keys for `count` rows, and the number of this use within the step.

    Rows that are as many as the step's samples have the samples' keys, others those of their number
    in the micro-batch. With a `generator` they are drawn from it, whatever the step is."""
    context.not_replayable("draws random numbers")
    source = _source.get() if generator is None else None
    if not backends.computes():
        return Array(Spec((count,), np.dtype(np.uint64)), None), _next(source)
    if source is None:
        keys = numbers_of(generator).integers(0, 2**64, count, dtype=np.uint64)
        return array(keys), 0
    return source.rows(count), _next(source)


def _next(source: SampleKeys | None) -> int:
    """Return the number of one more use within the step, 0 outside a step."""
    if source is None:
        return 0
    source.calls += 1
    return source.calls


class Moment(NamedTuple):
    """The state of the randomness, for `replayed`."""

    source: SampleKeys | None
    calls: int
    generator: Any


def moment() -> Moment:
    """Return the current state of the randomness, for `replayed`."""
    source = _source.get()
    calls = 0 if source is None else source.calls
    return Moment(source, calls, numbers_of().bit_generator.state)


@contextmanager
def replayed(then: Moment) -> Iterator[None]:
    """Draw within the block as from an earlier moment on; afterwards, as if the block had drawn
    nothing."""
    token = _source.set(then.source)
    now = moment()
    _rewind(then)
    try:
        yield
    finally:
        _rewind(now)
        _source.reset(token)


def _rewind(to: Moment) -> None:
    """Return the current source of randomness to a moment of its own."""
    if to.source is not None:
        to.source.calls = to.calls
    numbers_of().bit_generator.state = to.generator


def draw(
    kind: str,
    shape: tuple[int, ...],
    low: float,
    high: float,
    dtype: npt.DTypeLike,
    generator: Generator | None = None,
) -> Array:
    """Return new random numbers.

    `kind` is "normal" with mean `low` and deviation `high`, or "uniform" in [low, high). Where the
    backend computes no numbers, only a shape. TypeError for a type that is not floating-point."""
    context.not_replayable("draws random numbers")
    spec = Spec(shape, as_dtype(dtype))
    if not is_floating(spec.dtype):
        raise TypeError(f"random numbers: expected a floating-point type, got {spec.dtype}")
    if not backends.computes():
        return Array(spec, None)
    # Drawn in float64 and rounded, so that float32 and float64 models start from the same numbers.
    numbers = getattr(numbers_of(generator), kind)(low, high, shape).astype(spec.dtype, copy=False)
    if kind == "uniform":
        _below(numbers, spec.dtype.type(low), spec.dtype.type(high))
    return array(numbers)


def _below(numbers: NDArray, low: Any, high: Any) -> None:
    """Lower numbers that rounding has raised to the upper end, which is excluded."""
    np.minimum(numbers, np.nextafter(high, low), out=numbers)
