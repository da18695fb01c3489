"""Weights of Winograd's method: transformed before the images, and their gradient after."""

from __future__ import annotations

from functools import reduce
from operator import add

from .language import Kernel, pieces
from .targets import Target
from .transpose import columns_of
from .winograd import Winograd, factors
from .winograd_transforms import both, evaluate, interpolate, values


def spread_weights(target: Target, c: Winograd, turned: bool, opposite: bool) -> Kernel:
    """Return the kernel that transforms weights for `convolve`: w [result][channel][tap], and the
    transformed ones; `turned`, w is [channel][result][tap]; `opposite`, the taps are read in
    opposite order."""
    k = Kernel(target, "float32", ("w", "u"))
    w, u = k.arguments
    plane, taps = factors(target, c), c.taps**2
    outer, inner = (c.results, 1) if turned else (1, c.channels)
    order = range(taps)[::-1] if opposite else range(taps)
    for start, count, size in pieces(c.results, k.lanes):
        with k.loop(count) as o, k.loop(c.channels) as channel:
            result = k.sum((o, size), start)
            at = k.at(w, (channel, outer * taps), (result, inner * taps))
            into = k.at(u, (channel, plane.width), result)
            found = [
                value
                for first, times, some in pieces(taps, k.lanes)
                for i in range(times)
                for value in columns_of(k, k.at(at, first + i * some), inner * taps, size, some)
            ]
            line = [found[t] for t in order]
            grid = [line[i : i + c.taps] for i in range(0, taps, c.taps)]
            made = both(k, evaluate, values(c.size, c.taps, scaled=True), grid)
            for p, value in enumerate(v for row in made for v in row):
                k.store(value, k.at(into, p * plane.apart))
    return k


def collect_weights(target: Target, c: Winograd, parts: int) -> Kernel:
    """Return the kernel that folds and transforms back what `convolve_weights` summed up for parts
    of the images: it [part], and dw [result][channel][tap]."""
    k = Kernel(target, "float32", ("u", "w"))
    u, w = k.arguments
    plane, taps = factors(target, c), c.taps**2
    for start, count, size in pieces(c.results, k.lanes):
        with k.loop(count) as o, k.loop(c.channels) as channel:
            result = k.sum((o, size), start)
            at = k.at(u, (channel, plane.width), result)
            into = k.at(w, (result, c.channels * taps), (channel, taps))
            sums = []
            for p in range(c.positions):
                places = [q * c.positions + p for q in range(parts)]
                first, *more = (k.load(k.at(at, place * plane.apart)) for place in places)
                sums.append(reduce(add, more, first))
            grid = [sums[i : i + c.size] for i in range(0, c.positions, c.size)]
            made = both(k, interpolate, values(c.size, c.taps, scaled=True), grid)
            for t, value in enumerate(v for row in made for v in row):
                k.scatter(value, k.at(into, t), c.channels * taps, size)
    return k
