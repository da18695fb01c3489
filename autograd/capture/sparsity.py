"""Zeros in the factors of products, and the multiply-accumulates whose factors both are not zero.

A count is the same product of indicators, 1 for a number that is not zero: its sum over all results
splits into sums over each factor alone, so that it takes a few sums for each tap of a filter. All
counts are exact integers. Padding is zero: no non-zero MAC lies there, forward or backward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from ..array import Array, NDArray
from ..ledger import Ledger, Sample
from .observer import Dispatched, Observer

if TYPE_CHECKING:
    from ..tensor import Tensor

Attrs: TypeAlias = dict[str, Any]
Slices: TypeAlias = tuple[slice, slice]


class Factor(NamedTuple):
    """One side of a product: which numbers are not zero, the array that they belong to, and whether
    they are weights by their place among the arguments."""

    array: Array
    there: NDArray
    weights: bool = False


class Product(NamedTuple):
    """Both sides of a product, and how many of its MACs have two factors that are not zero."""

    left: Factor
    right: Factor
    nonzero: int


Rule: TypeAlias = Callable[[Sequence[Array], Sequence[Array], Attrs], list[Product]]


class Sparsity(Observer):
    """Counts, within `context.using(observer=...)`, what each call with MACs finds, and files it in
    the ledger's samples. It reads numbers and changes none, also where calls wait: they give the
    same bits one by one. `weights` are arrays whose memory holds weights; what a backward sweep has
    made is a gradient; all else are activations. Take a new one for each sweep."""

    training = True

    def __init__(self, ledger: Ledger, weights: Iterable[Array] = ()) -> None:
        super().__init__((), ledger)
        self.weights = {id(a.storage): a.storage for a in weights}
        self.gradients: set[int] = set()

    def refuse(self, what: str) -> None:
        """Nothing is repeated here."""

    def announce(self, leaf: Tensor) -> None:
        """Tell those who wait for a gradient, as ever."""
        leaf.announce()

    def add(self, call: Dispatched) -> None:
        """Count a call."""
        *names, cost = call.key
        for a in call.results:
            if a.base is None:  # the id may have been that of other memory before
                sweeps = names[1].startswith("backward")
                (self.gradients.add if sweeps else self.gradients.discard)(id(a.storage))
        if not cost.macs:
            return
        rule = RULES.get(call.primitive.name)
        if rule is None:
            found = Sample(calls=1, uncounted=cost.macs)
        else:
            attrs = dict(zip(call.primitive.defaults, call.attrs, strict=True))
            products = rule(call.args, call.results, attrs)
            nonzero = sum(p.nonzero for p in products)
            found = Sample(calls=1, macs=cost.macs, nonzero=nonzero)
            for factor in (f for p in products for f in (p.left, p.right)):
                found = found.plus(self._zeros(factor))
        self.ledger.sample((names[0], names[1], names[2], names[3]), found)

    def _zeros(self, factor: Factor) -> Sample:
        """Return the numbers of a factor and the zeros among them, by what they are."""
        storage, size = factor.array.storage, factor.there.size
        zeros = size - int(np.count_nonzero(factor.there))
        if factor.weights or id(storage) in self.weights:
            return Sample(weights=size, weight_zeros=zeros)
        if id(storage) in self.gradients:
            return Sample(gradients=size, gradient_zeros=zeros)
        return Sample(activations=size, activation_zeros=zeros)


def _factor(a: Array, weights: bool = False) -> Factor:
    return Factor(a, a.value != 0, weights)


def _sum(there: NDArray, axis: int) -> NDArray:
    """Return how many along an axis are there. (In fewer bytes than NumPy's own count, ten times as
    fast.)"""
    moved = np.moveaxis(there.view(np.uint8), axis, -1)
    return np.asarray(np.einsum("...i->...", moved, dtype=np.uint32)).astype(np.int64)


def _product(left: Factor, right: Factor) -> Product:
    """Count a (.., rows, k) times b (.., k, columns), stacks broadcast: for each k the numbers of
    a and of b that are not zero meet each other."""
    seen, used = _sum(left.there, -2), _sum(right.there, -1)
    return Product(left, right, int((seen * used).sum()))


def _rows(a: Array, numbers: NDArray | None = None) -> Factor:
    """Return a factor as a matrix whose columns are those of its last axis."""
    there = (a.value if numbers is None else numbers) != 0
    return Factor(a, there.reshape(-1, there.shape[-1]))


def _turned(factor: Factor) -> Factor:
    return factor._replace(there=factor.there.swapaxes(-1, -2))


def _matmul(args: Sequence[Array], made: Sequence[Array], attrs: Attrs) -> list[Product]:
    return [_product(_factor(args[0]), _factor(args[1]))]


def _linear(args: Sequence[Array], made: Sequence[Array], attrs: Attrs) -> list[Product]:
    return [_product(_rows(args[0]), _turned(_factor(args[1], weights=True)))]


def _met(size: int, places: int, start: int, stride: int) -> Slices:
    """Return which places of one axis see the image through a tap that starts at `start`, and what
    they see of it; the others see padding."""
    first = max(0, -(start // stride))
    last = min(places - 1, (size - 1 - start) // stride)
    if last < first:
        return slice(0), slice(0)
    return slice(first, last + 1), slice(first * stride + start, last * stride + start + 1, stride)


def _taps(
    images: tuple[int, ...], taps: tuple[int, ...], places: tuple[int, ...], attrs: Attrs
) -> Iterator[tuple[int, int, Slices, Slices]]:
    """Yield each tap of filters with the places that see the image, and what they see of it."""
    stride, padding, dilation = attrs["stride"], attrs["padding"], attrs["dilation"]
    each = [
        [
            _met(images[k], places[k], i * dilation[k] - padding[k][0], stride[k])
            for i in range(taps[k])
        ]
        for k in (0, 1)
    ]
    for i, (rows, lines) in enumerate(each[0]):
        for j, (columns, pixels) in enumerate(each[1]):
            yield i, j, (rows, columns), (lines, pixels)


def _conv(args: Sequence[Array], made: Sequence[Array], attrs: Attrs) -> list[Product]:
    """Count `conv2d`: a tap (c, i, j) of all filters meets what is not zero of channel c."""
    x, w = _factor(args[0]), _factor(args[1], weights=True)
    m, c, *taps = w.there.shape
    groups = attrs["groups"]
    seen = _sum(x.there, 0)
    used = _sum(w.there.reshape(groups, m // groups, c, *taps), 1).reshape(-1, *taps)
    total = 0
    for i, j, _, part in _taps(seen.shape[1:], (*taps,), made[0].shape[2:], attrs):
        total += int(seen[:, *part].sum((1, 2)) @ used[:, i, j])
    return [Product(x, w, total)]


def _conv_dx(args: Sequence[Array], made: Sequence[Array], attrs: Attrs) -> list[Product]:
    """Count `conv2d_dx`: a gradient of filter m meets the taps of m that lie within the image."""
    dy, w = _factor(args[0]), _factor(args[1], weights=True)
    seen, used = _sum(dy.there, 0), _sum(w.there, 1)
    total = 0
    for i, j, part, _ in _taps(made[0].shape[2:], used.shape[1:], seen.shape[1:], attrs):
        total += int(seen[:, *part].sum((1, 2)) @ used[:, i, j])
    return [Product(dy, w, total)]


def _conv_dw(args: Sequence[Array], made: Sequence[Array], attrs: Attrs) -> list[Product]:
    """Count `conv2d_dw`: at each place, through each tap, the channels that are not zero meet the
    gradients that are not, within a group."""
    x, dy = _factor(args[0]), _factor(args[1])
    groups = attrs["groups"]
    seen, used = (
        _sum(a.reshape(len(a), groups, a.shape[1] // groups, *a.shape[2:]), 2)
        for a in (x.there, dy.there)
    )
    total = 0
    for _, _, places, part in _taps(seen.shape[2:], attrs["size"], used.shape[2:], attrs):
        total += int(np.einsum("ngef,ngef->", seen[:, :, *part], used[:, :, *places]))
    return [Product(x, dy, total)]


def _before(hs: Array, h: Array, backwards: bool) -> Factor:
    """Return the states that the steps of a sequence start from, as a matrix."""
    first, all_ = h.value[None], hs.value
    old = (all_[1:], first) if backwards else (first, all_[:-1])
    return _rows(hs, np.concatenate(old))


def _sequence(
    x: Array, w_ih: Array, h: Array, w: Array, hs: Array, attrs: Attrs
) -> list[Product]:
    inner = _before(hs, h, attrs["backwards"])
    return [
        _product(_rows(x), _turned(_factor(w_ih, weights=True))),
        _product(inner, _turned(_factor(w, weights=True))),
    ]


def _lstm(args: Sequence[Array], made: Sequence[Array], attrs: Attrs) -> list[Product]:
    x, w_ih, _, h, _, w = args
    return _sequence(x, w_ih, h, w, made[0], attrs)


def _rnn(args: Sequence[Array], made: Sequence[Array], attrs: Attrs) -> list[Product]:
    x, w_ih, _, h, w = args
    return _sequence(x, w_ih, h, w, made[0], attrs)


def _back(w: Array, dgates: Array, backwards: bool) -> list[Product]:
    """Count the way back through a sequence: every step but the first gives to the one before."""
    later = dgates.value[:-1] if backwards else dgates.value[1:]
    return [_product(_rows(dgates, later), _factor(w, weights=True))]


def _lstm_dx(args: Sequence[Array], made: Sequence[Array], attrs: Attrs) -> list[Product]:
    return _back(args[3], made[0], attrs["backwards"])


def _rnn_dx(args: Sequence[Array], made: Sequence[Array], attrs: Attrs) -> list[Product]:
    return _back(args[1], made[0], attrs["backwards"])


def _sequence_dw(args: Sequence[Array], made: Sequence[Array], attrs: Attrs) -> list[Product]:
    dgates, x, hs, h = args
    tops = _turned(_rows(dgates))
    return [_product(tops, right) for right in (_rows(x), _before(hs, h, attrs["backwards"]))]


RULES: dict[str, Rule] = {
    "conv2d": _conv,
    "conv2d_dx": _conv_dx,
    "conv2d_dw": _conv_dw,
    "linear": _linear,
    "matmul": _matmul,
    "lstm_sequence": _lstm,
    "lstm_states": _lstm,
    "lstm_sequence_dx": _lstm_dx,
    "rnn_sequence": _rnn,
    "rnn_sequence_dx": _rnn_dx,
    "sequence_dw": _sequence_dw,
}
