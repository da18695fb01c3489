"""Rows for operations that move elements, as a user writes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...functional import arrange as fn
from ...functional import parts
from ...functional.create import tensor
from .sample import Sample, labels, normal

X, CUBE = (normal(3, 4),), (normal(2, 3, 4),)


def _alike(name: str, function: Callable[..., Any], inputs: tuple[Any, ...], **more: Any) -> Sample:
    """Return a row whose function reads the same for our tensors and torch's."""
    return Sample(name, function, inputs, lambda t, *args: function(*args), **more)


PLACES = np.array([[2, 0], [-1, 2]])

MOVES = [
    _alike(
        "reshape",
        lambda x: x.reshape(2, 6),
        X,
        wrong=(("reshape: expected 15 elements as in (3, 5), got (2, 6)", ((3, 5),)),),
    ),
    _alike(
        "reshape/-1",
        lambda x: x.reshape((-1, 3)),
        X,
        wrong=(("reshape: expected 8 elements as in (2, 4), got (-1, 3)", ((2, 4),)),),
    ),
    _alike("reshape/to a number", lambda x: x.reshape(()), (normal(1, 1),)),
    _alike("reshape/empty", lambda x: x.reshape(0, 2), (normal(0, 4),)),
    _alike("reshape/of a transposed array", lambda x: (x * x).T.reshape(12), X),
    _alike("flatten", lambda x: x.flatten(), CUBE),
    _alike("flatten/from 1", lambda x: x.flatten(1), CUBE),
    _alike("flatten/between", lambda x: x.flatten(0, 1), CUBE),
    _alike("transpose", lambda x: x.transpose(0, -1), CUBE),
    _alike("T", lambda x: x.T, X),
    _alike(
        "permute",
        lambda x: x.permute(2, 0, -2),
        CUBE,
        wrong=(
            (
                "permute: expected a permutation of the 4 axes of (2, 3, 4, 5), got (2, 0, 2)",
                ((2, 3, 4, 5),),
            ),
        ),
    ),
    _alike("squeeze", lambda x: x.squeeze(), (normal(1, 3, 1, 4),)),
    _alike("squeeze/one axis", lambda x: x.squeeze(-2), (normal(1, 3, 1, 4),)),
    _alike("squeeze/no such axis", lambda x: x.squeeze(1), (normal(1, 3),)),
    _alike("unsqueeze", lambda x: x.unsqueeze(-1).unsqueeze(0), X),
    _alike(
        "expand",
        lambda x: x.expand(2, 3, 4),
        (normal(3, 1),),
        wrong=(("expand: expected a shape that (3, 2) broadcasts to, got (2, 3, 4)", ((3, 2),)),),
    ),
    _alike("expand/number", lambda x: x.expand(2, 3), (normal(),)),
    _alike("clone", lambda x: x.clone(), X),
]

PARTS = [
    _alike("slice", lambda x: x[1:, ::2], X),
    _alike("slice/from the end", lambda x: x[-2:, :-1], X),
    _alike("slice/empty", lambda x: x[3:], X),
    _alike("slice/row", lambda x: x[1], X),
    _alike("slice/last element", lambda x: x[-1, -1], X),
    _alike("slice/ellipsis", lambda x: x[..., 1], CUBE),
    _alike("slice/new axis", lambda x: x[:, None, 1:3], CUBE),
    _alike("slice/every way", lambda x: x[1, ..., None, ::3], CUBE),
    Sample("slice/backwards", lambda x: x[::-1], X, lambda t, x: x.flip(0)),
    Sample(
        "slice/backwards in steps",
        lambda x: x[2:0:-1, ::-2],
        X,
        lambda t, x: x.flip(0, 1)[:2, ::2],
    ),
    Sample(
        "slice/backwards to the start",
        lambda x: x[1::-1, -2::-1],
        X,
        lambda t, x: x[:2, :3].flip(0, 1),
    ),
    _alike("slice/backwards, empty", lambda x: x[:, 2:][:, :0], X),
    _alike("index/list", lambda x: x[[2, 0, 2]], X),
    Sample("index/array", lambda x: x[PLACES], X, lambda t, x: x[t.tensor(PLACES)]),
    Sample(
        "index/tensor", lambda x: x[:, tensor(PLACES)], CUBE, lambda t, x: x[:, t.tensor(PLACES)]
    ),
    _alike("index/pairs", lambda x: x[[0, 2, 1], [3, 0, -1]], X),
    _alike("index/beside slices", lambda x: x[1:, [0, 2], ::2], CUBE),
    _alike("index/labels", lambda x, i: x[i], (normal(5, 2), labels(3, classes=5))),
]


def _split(x: Any) -> Any:
    return tuple(parts.split(x, 2, 1))


JOINED = [
    Sample(
        "cat",
        lambda x, w: fn.cat([x, w]),
        (normal(3, 4), normal(2, 4)),
        lambda t, x, w: t.cat([x, w]),
        wrong=(
            ("cat: expected equal shapes but for axis 0, got [(3, 4), (2, 5)]", ((3, 4), (2, 5))),
        ),
    ),
    Sample(
        "cat/last axis",
        lambda x, w: fn.cat([x, w, x], -1),
        (normal(3, 4), normal(3, 0)),
        lambda t, x, w: t.cat([x, w, x], -1),
    ),
    Sample(
        "stack",
        lambda x, w: fn.stack([x, w]),
        (normal(3, 4), normal(3, 4)),
        lambda t, x, w: t.stack([x, w]),
        wrong=(("stack: expected equal shapes, got [(3, 4), (3, 5)]", ((3, 4), (3, 5))),),
    ),
    Sample(
        "stack/last axis",
        lambda x, w: fn.stack([x, w], -1),
        (normal(3, 4), normal(3, 4)),
        lambda t, x, w: t.stack([x, w], -1),
    ),
    Sample("split", _split, (normal(3, 5),), lambda t, x: t.split(x, 2, 1)),
    Sample(
        "split/sections",
        lambda x: tuple(parts.split(x, [1, 0, 2])),
        (normal(3, 5),),
        lambda t, x: t.split(x, [1, 0, 2]),
        wrong=(("split: expected sizes that add up to 4 along axis 0, got [1, 0, 2]", ((4, 5),)),),
    ),
    Sample(
        "pad",
        lambda x: fn.pad(x, (1, 2)),
        X,
        lambda t, x: t.nn.functional.pad(x, (1, 2)),
    ),
    Sample(
        "pad/images, value",
        lambda x: fn.pad(x, (1, 0, 2, 1), value=-1.5),
        (normal(2, 3, 2, 2),),
        lambda t, x: t.nn.functional.pad(x, (1, 0, 2, 1), value=-1.5),
        wrong=(("pad: expected up to 1 pairs of widths, got 4 widths", ((3,),)),),
    ),
]


def _pad(*widths: int, mode: str = "constant", shape: tuple[int, ...] = (2, 3, 4)) -> Sample:
    return Sample(
        f"pad/{mode} by {widths}",
        lambda x: fn.pad(x, widths, mode, None),
        (normal(*shape),),
        lambda t, x: t.nn.functional.pad(x, widths, mode),
    )


BORDERS = [
    _pad(-1, 2),
    _pad(-1, -2, 1, -1),
    *[_pad(2, 1, mode=mode) for mode in fn.MODES[1:]],
    *[_pad(1, 2, 2, 0, mode=mode, shape=(2, 1, 3, 4)) for mode in fn.MODES[1:]],
    _pad(3, 3, mode="reflect"),
    _pad(4, 4, mode="circular"),
    _pad(9, 0, mode="replicate"),
    _pad(2, -1, mode="circular"),
    Sample(
        "pad/reflect, one element",
        lambda x: fn.pad(x, (1, 0), "reflect"),
        (normal(2, 2),),
        wrong=(("pad: expected reflect widths up to 0 along axis 1 of 1, got (1, 0)", ((2, 1),)),),
    ),
]

TAKEN_APART = [
    Sample("unbind", lambda x: parts.unbind(x), CUBE, lambda t, x: t.unbind(x)),
    Sample("unbind/last axis", lambda x: parts.unbind(x, -1), CUBE, lambda t, x: t.unbind(x, -1)),
    Sample("unbind/one part", lambda x: parts.unbind(x), (normal(1, 3),), lambda t, x: t.unbind(x)),
    Sample(
        "chunk",
        lambda x: tuple(parts.chunk(x, 3)),
        (normal(7, 2),),
        lambda t, x: t.chunk(x, 3),
    ),
    Sample(
        "chunk/last axis",
        lambda x: tuple(parts.chunk(x, 3, -1)),
        (normal(2, 4),),
        lambda t, x: t.chunk(x, 3, -1),
    ),
    Sample("flip", lambda x: parts.flip(x, (0, -1)), CUBE, lambda t, x: t.flip(x, (0, -1))),
    Sample("flip/empty", lambda x: parts.flip(x, 0), (normal(0, 2),), lambda t, x: t.flip(x, (0,))),
    Sample("flip/one axis", lambda x: parts.flip(x, 1), CUBE, lambda t, x: t.flip(x, (1,))),
]

ROWS = [*MOVES, *PARTS, *JOINED, *BORDERS, *TAKEN_APART]
