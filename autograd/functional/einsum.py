"""Sums of products over axes that are named (Einstein 1916) or numbered."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from math import prod
from typing import TypeAlias

from ..dtypes import plain
from ..methods.algebra import diagonal
from ..ops.shape import axis_of
from ..tensor import Tensor

__all__ = ["einsum", "tensordot"]

Labels: TypeAlias = tuple[
    str, ...
]  # of axes: letters, and "0", "1", .. from the right for an ellipsis


def einsum(equation: str, *operands: Tensor | Sequence[Tensor]) -> Tensor:
    """Return the sums of products that an equation such as "bij,bjk->bik" names.

    Each letter names an axis of the operands; axes of one name have one extent, or 1. What the
    result does not name is summed over. "..." stands for further axes, which are broadcast. Without
    "->", the result has the ellipsis and the letters that occur once, in alphabetical order.
    Operands are multiplied from left to right, as matrix products. ValueError for an equation that
    is none, and for operands that do not fit it."""
    given = (
        operands[0] if len(operands) == 1 and isinstance(operands[0], list | tuple) else operands
    )
    tensors = [x for x in given if isinstance(x, Tensor)]
    terms, result = _parsed(equation, tensors)
    extents = _extents(equation, terms, tensors)
    parts = [_distinct(x, names, extents) for x, names in zip(tensors, terms, strict=True)]
    total, names = parts[0]
    for i, (x, more) in enumerate(parts[1:], 1):
        later = {*result}.union(*[n for _, n in parts[i + 1 :]])
        total, names = _multiplied(total, names, x, more, later)
    total, names = _summed(total, names, {*result})
    return total.permute([names.index(n) for n in result])


def tensordot(input: Tensor, other: Tensor, dims: int | Sequence[Sequence[int]] = 2) -> Tensor:
    """Return the sums of products over `dims` last axes of the input and as many first ones of the
    other, or over those in two lists. ValueError where their extents differ."""
    count = len(input.shape)
    dims = plain(dims)
    pair = (range(count - dims, count), range(dims)) if isinstance(dims, int) else dims
    ours = [axis_of("tensordot", a, count) for a in pair[0]]
    theirs = [axis_of("tensordot", a, len(other.shape)) for a in pair[1]]
    if [input.shape[a] for a in ours] != [other.shape[a] for a in theirs]:
        raise ValueError(
            f"tensordot: expected equal extents over {dims}, got {input.shape} and {other.shape}"
        )
    rows = [a for a in range(count) if a not in ours]
    columns = [a for a in range(len(other.shape)) if a not in theirs]
    inner = prod(input.shape[a] for a in ours)
    x = input.permute(*rows, *ours).reshape(prod(input.shape[a] for a in rows), inner)
    w = other.permute(*theirs, *columns).reshape(inner, prod(other.shape[a] for a in columns))
    return (x @ w).reshape([input.shape[a] for a in rows] + [other.shape[a] for a in columns])


def _parsed(equation: str, tensors: Sequence[Tensor]) -> tuple[list[Labels], Labels]:
    """Return the names of the axes of all operands and of the result."""
    text = equation.replace(" ", "")
    term = r"[a-zA-Z]*(\.\.\.)?[a-zA-Z]*"
    if not re.fullmatch(rf"{term}(,{term})*(->{term})?", text):
        raise ValueError(f"einsum: expected an equation such as 'ij,jk->ik', got {equation!r}")
    inputs, arrow, output = text.partition("->")
    words = inputs.split(",")
    if len(words) != len(tensors):
        raise ValueError(
            f"einsum: expected {len(words)} operands for {equation!r}, got {len(tensors)}"
        )
    terms = [_named(equation, w, len(x.shape)) for w, x in zip(words, tensors, strict=True)]
    more = max((sum(n.isdigit() for n in names) for names in terms), default=0)
    if not arrow:
        counts = Counter(inputs.replace(",", "").replace(".", ""))
        output = "..." * (more > 0) + "".join(sorted(n for n, k in counts.items() if k == 1))
    result = _labels(output, more)
    wrong = [n for n, k in Counter(result).items() if k > 1 or not any(n in t for t in terms)]
    if wrong:
        raise ValueError(
            f"einsum: expected each axis of the result once, and in an operand, got {equation!r}"
        )
    return terms, result


def _labels(word: str, more: int) -> Labels:
    """Return the names of the axes of a word whose ellipsis stands for so many."""
    first, dots, last = word.partition("...")
    return (*first, *[str(i) for i in reversed(range(more))] * bool(dots), *last)


def _named(equation: str, word: str, ndim: int) -> Labels:
    """Return the names of the axes of an operand."""
    more = ndim - len(word.replace("...", ""))
    if more < 0 or (more and "..." not in word):
        raise ValueError(
            f"einsum: expected {len(word.replace('...', ''))} axes for {word!r} of {equation!r}, "
            f"got {ndim}"
        )
    return _labels(word, more)


def _extents(equation: str, terms: Sequence[Labels], tensors: Sequence[Tensor]) -> dict[str, int]:
    """Return the extent of each name. ValueError where it has two."""
    found: dict[str, int] = {}
    for names, x in zip(terms, tensors, strict=True):
        for name, n in zip(names, x.shape, strict=True):
            known = found.get(name, 1)
            if n != known and 1 not in (n, known):
                raise ValueError(
                    f"einsum: expected one extent of {name!r} in {equation!r}, got {known} and {n}"
                )
            found[name] = n if known == 1 else known
    return found


def _distinct(x: Tensor, names: Labels, extents: dict[str, int]) -> tuple[Tensor, Labels]:
    """Return an operand without axes that are broadcast, and with a diagonal for axes that have one
    name."""
    kept = [i for i, (k, n) in enumerate(zip(names, x.shape, strict=True)) if n == extents[k]]
    if len(kept) < len(names):
        x = x.reshape([x.shape[i] for i in kept])
        names = tuple(names[i] for i in kept)
    while len({*names}) < len(names):
        twice = next(n for n in names if names.count(n) > 1)
        first = names.index(twice)
        second = names.index(twice, first + 1)
        x = diagonal(x, 0, first, second)
        names = (*[n for i, n in enumerate(names) if i not in (first, second)], twice)
    return x, names


def _summed(x: Tensor, names: Labels, needed: set[str]) -> tuple[Tensor, Labels]:
    """Return a tensor summed over the axes that are not needed."""
    over = tuple(i for i, n in enumerate(names) if n not in needed)
    return (x.sum(over) if over else x), tuple(n for n in names if n in needed)


def _multiplied(
    x: Tensor, names: Labels, w: Tensor, more: Labels, later: set[str]
) -> tuple[Tensor, Labels]:
    """Return the product of two operands, summed over what no later one and the result need."""
    x, names = _summed(x, names, later | {*more})
    w, more = _summed(w, more, later | {*names})
    size = {**dict(zip(names, x.shape, strict=True)), **dict(zip(more, w.shape, strict=True))}
    shared = [n for n in names if n in more]
    inner = [n for n in shared if n not in later]
    stack = [n for n in shared if n in later]
    left, right = [n for n in names if n not in more], [n for n in more if n not in names]

    def matrices(t: Tensor, axes: Labels, rows: list[str], columns: list[str]) -> Tensor:
        parts = [stack, rows, columns] if stack else [rows, columns]
        t = t.permute([axes.index(n) for part in parts for n in part])
        return t.reshape([prod(size[n] for n in part) for part in parts])

    a, b = matrices(x, names, left, inner), matrices(w, more, inner, right)
    y = a @ b if inner else a * b
    result = (*stack, *left, *right)
    return y.reshape([size[n] for n in result]), result
