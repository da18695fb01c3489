"""Which method and which tiles are the fastest for a convolution, or a product of bfloat16 by
tiles: the plans' guesses, or what timing a few others on random numbers shows.

A choice changes how sums are rounded, never by more than the stated errors; of those by tiles of
bfloat16, only that of the method does. It is made when a call is planned, so ranks that must agree
adopt the choices of one of them beforehand.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from ...array import NDArray, Spec
from ...dtypes import computed_in, is_narrow
from .compiler import cache, jit
from .compiler.isa.targets import Target, Variation
from .registry import find_fastest, find_tiled
from .runtime.executable import Executable

LEVELS = ("off", "fast", "full")
TUNED = ("conv2d", "conv2d_dx", "conv2d_dw")
PRODUCTS = ("linear", "matmul")  # of bfloat16, by tiles
BETTER = 0.97  # of the guess's time, at most: less may be chance
ROUNDS, SECONDS = 5, 0.1  # at least, for each comparison
CHANNELS_LAST, PIXELS = (0, 2, 3, 1), (2, 3, 0, 1)  # axes of images as they lie in memory
COPIES = 3  # of the arrays, so that they do not all stay in a cache
# How tiles may differ from the guess; names that a tile does not have change nothing.
FAST: tuple[Variation, ...] = (
    (("images", 0.5),),
    (("rows", 0.5),),
    (("taps", 2.0),),
    (("vectors", 2.0),),
)
MORE: tuple[Variation, ...] = (
    (("images", 2.0),),
    (("unroll", 2.0),),
    (("unroll", 0.5),),
    (("rows", 2.0), ("columns", 0.5)),
    (("vectors", 0.5), ("columns", 2.0)),
    (("vectors", 0.5), ("tiles", 2.0)),
    (("columns", 0.75),),
    (("rows", 2.0),),
)
# And those of bfloat16.
TILES_FAST: tuple[Variation, ...] = (
    (("near", 2.0**-40),),  # weights are always read once for all rows,
    (("near", 2.0**40),),  # or never
    (("seen", 4.0),),
    (("rows", 0.5),),
    (("rows", 4.0),),
)
TILES_MORE: tuple[Variation, ...] = (
    (("seen", 0.25),),
    (("sums", 2 / 3),),
    (("rows", 0.25),),
    (("rows", 16.0),),
)


class Choice(NamedTuple):
    """How a convolution is done: `Target.convolution` and `Target.varied`."""

    convolution: str
    varied: Variation


class Tuner:
    """The choices for a target. While it is `open`, it times one for each new call; later new calls
    get the rule's."""

    def __init__(self, target: Target, level: str) -> None:
        self.target, self.level = target, level
        self.open = level != "off"
        self.choices: dict[str, Choice] = {}

    def fit(self, name: str, specs: tuple[Spec, ...], attrs: dict[str, Any]) -> Target:
        """Return the target with the choice for this call of a primitive."""
        if self.level == "off" or any(s.size == 0 for s in specs):
            return self.target
        if not (self.target.tiles and all(is_narrow(s.dtype) for s in specs)):
            if name not in TUNED:
                return self.target
            specs = tuple([s._replace(dtype=computed_in(s.dtype)) for s in specs])
        elif name not in TUNED and (
            name not in PRODUCTS or find_tiled(self.target, name, specs, attrs) is None
        ):
            return self.target
        key = repr((name, [(s.shape, s.dtype.name) for s in specs], sorted(attrs.items())))
        if self.open and key not in self.choices:
            self.choices[key] = self._choose(key, name, specs, attrs)
        choice = self.choices.get(key)
        return replace(self.target, **choice._asdict()) if choice else self.target

    def _choose(
        self, key: str, name: str, specs: tuple[Spec, ...], attrs: dict[str, Any]
    ) -> Choice:
        """Return the stored choice, or make one and store it."""
        whole = ("tuning", self.level, jit.made_by(self.target), self.target.convolution, key)
        file, store = hashlib.sha256(repr(whole).encode()).hexdigest(), cache.opened()
        cached = store.read(file) if store else None
        if cached is not None:
            return _choice(json.loads(cached))
        choice = self._fastest(_Trials(self.target, name, specs, attrs))
        if store:
            store.write(file, json.dumps(choice).encode())
        return choice

    def _fastest(self, trials: _Trials) -> Choice:
        first = [Choice(method, ()) for method in trials.methods()]
        best = trials.fastest(first)
        fast, more = trials.steps()
        if self.level == "fast":
            return trials.fastest([best, *(best._replace(varied=step) for step in fast)])
        steps = (*fast, *more)
        once = [Choice(choice.convolution, step) for choice in first for step in steps]
        best = trials.fastest([best, *once])
        twice = [best._replace(varied=_joined(best.varied, step)) for step in steps]
        return trials.fastest([best, *twice])

    def dump(self) -> bytes:
        """Return all choices, for `adopt`."""
        return json.dumps(self.choices).encode()

    def adopt(self, choices: bytes) -> None:
        """Take the choices of another process, and make none from now on."""
        self.choices = {key: _choice(fields) for key, fields in json.loads(choices).items()}
        self.open = False


def _choice(fields: Sequence[Any]) -> Choice:
    return Choice(fields[0], tuple((field, factor) for field, factor in fields[1]))


def _joined(a: Variation, b: Variation) -> Variation:
    factors = dict(a)
    for field, factor in b:
        factors[field] = factors.get(field, 1.0) * factor
    return tuple(factors.items())


class _Trials:
    """A call of a primitive that is timed with several choices, on random numbers."""

    def __init__(
        self, target: Target, name: str, specs: tuple[Spec, ...], attrs: dict[str, Any]
    ) -> None:
        self.target, self.name, self.specs, self.attrs = target, name, specs, attrs
        # By tiles of bfloat16, whatever the method, or by the method "direct" alone.
        self.may_tile = bool(target.tiles) and is_narrow(specs[0].dtype)
        self.must_tile = find_tiled(target, name, specs, attrs) is not None
        axes = PIXELS if self.must_tile and target.convolves else CHANNELS_LAST
        # Memory that was never written to would be faster than any real array.
        self.arrays = [[_drawn(spec, axes, copy) for spec in specs] for copy in range(COPIES)]
        self.kernels: dict[Choice, Executable] = {}

    def steps(self) -> tuple[tuple[Variation, ...], tuple[Variation, ...]]:
        """Return the variations to compare at first, and further ones."""
        if not self.may_tile:
            return FAST, MORE
        if self.must_tile:
            return TILES_FAST, TILES_MORE
        return (*FAST, *TILES_FAST), (*MORE, *TILES_MORE)

    @property
    def fits(self) -> bool:
        """Whether Winograd's method can do it."""
        taps = self.attrs["size"] if self.name == "conv2d_dw" else self.specs[1].shape[2:]
        plain = self.attrs["stride"] == self.attrs["dilation"] == (1, 1)
        square, computed = taps in ((3, 3), (5, 5)), computed_in(self.specs[0].dtype)
        return square and plain and self.attrs["groups"] == 1 and computed == np.float32

    def methods(self) -> list[str]:
        """Return the algorithms to compare, the rule's first."""
        asked = self.target.convolution
        if asked != "auto" or self.must_tile:
            return [asked]
        winograd = ["winograd", "winograd2"] if self.fits else []
        return ["auto", *["direct"] * (self.fits or self.may_tile), *winograd]

    def fastest(self, choices: Sequence[Choice]) -> Choice:
        """Return the fastest of some choices, the first one unless another is clearly better."""
        kernels = [self._kernel(choice) for choice in choices]
        times = [[] for _ in choices]  # type: list[list[float]]
        begun, turn = perf_counter(), 0
        while turn < ROUNDS or perf_counter() - begun < SECONDS:
            arrays = self.arrays[turn % COPIES]
            for i in range(len(choices)):
                index = (turn + i) % len(choices)  # none is always the first after a change
                start = perf_counter()
                kernels[index](*arrays)
                times[index].append(perf_counter() - start)
            turn += 1
        least = [min(of_one) for of_one in times]
        best = least.index(min(least))
        return choices[best] if least[best] < BETTER * least[0] else choices[0]

    def _kernel(self, choice: Choice) -> Executable:
        if choice not in self.kernels:
            target = replace(self.target, **choice._asdict())
            kernel = find_fastest(target, self.name, self.specs, self.attrs)
            assert kernel is not None, f"{self.name}: no kernel for {self.specs}"
            self.kernels[choice] = kernel
        return self.kernels[choice]


def _drawn(spec: Spec, axes: tuple[int, ...], seed: int) -> NDArray:
    """Return normal random numbers; images lie in memory by these axes."""
    drawn = np.random.default_rng(seed).standard_normal(spec.shape).astype(spec.dtype)
    if drawn.ndim != 4:
        return drawn
    return np.ascontiguousarray(drawn.transpose(axes)).transpose(*np.argsort(axes))
