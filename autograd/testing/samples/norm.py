"""Rows for normalisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...functional import norm as fn
from ...functional.create import tensor
from ...tensor import Tensor
from .sample import Sample, normal, positive

IMAGES = normal(3, 4, 2, 3)
MEAN, VAR = np.array([0.5, -0.3, 0.1, 2.0]), np.array([0.7, 1.5, 0.2, 3.0])


def _train(**options: Any) -> Callable[..., Tensor]:
    def run(x: Tensor, w: Tensor | None = None, b: Tensor | None = None) -> Tensor:
        return fn.batch_norm(x, None, None, w, b, training=True, **options)

    return run


def _torch_train(**options: Any) -> Callable[..., Any]:
    return lambda t, x, *affine: t.nn.functional.batch_norm(
        x, None, None, *affine, training=True, **options
    )


def _still(x: Tensor, w: Tensor | None = None, b: Tensor | None = None) -> Tensor:
    return fn.batch_norm(x, tensor(MEAN, x.dtype), tensor(VAR, x.dtype), w, b)


def _torch_still(t: Any, x: Any, *affine: Any) -> Any:
    mean, var = (t.tensor(v, dtype=x.dtype) for v in (MEAN, VAR))
    return t.nn.functional.batch_norm(x, mean, var, *affine)


def _response(size: int, **options: float) -> tuple[Any, Any]:
    return (
        lambda x: fn.local_response_norm(x, size, **options),
        lambda t, x: t.nn.functional.local_response_norm(x, size, **options),
    )


def _response_row(name: str, shape: tuple[int, ...], size: int, **options: float) -> Sample:
    """Return the row of one way to call local_response_norm."""
    ours, theirs = _response(size, **options)
    wrong = (
        (
            "local_response_norm: expected an input (N, C, ..) of at least 3 axes, got (4, 5)",
            ((4, 5),),
        ),
    )
    return Sample(f"local_response_norm/{name}", ours, (normal(*shape),), theirs, wrong=wrong)


def _affine(
    function: Callable[..., Tensor], ours: tuple[Any, ...], theirs: tuple[Any, ...] | None = None
) -> tuple[Any, Any]:
    """Return a normalisation and torch's, of an input, perhaps a weight and perhaps a bias."""
    return (
        lambda x, *affine: function(x, *ours, *affine),
        lambda t, x, *affine: getattr(t.nn.functional, function.__name__)(
            x, *(theirs or ours), *affine
        ),
    )


def _instance(x: Tensor, w: Tensor | None = None, b: Tensor | None = None) -> Tensor:
    return fn.instance_norm(x, None, None, w, b)


def _torch_instance(t: Any, x: Any, *affine: Any) -> Any:
    return t.nn.functional.instance_norm(x, None, None, *affine)


def _per_sample(name: str, function: Any, inputs: tuple[Any, ...], *wrong: Any) -> Sample:
    """Return the row of a normalisation that each sample has for itself."""
    return Sample(name, function[0], inputs, function[1], wrong=wrong)


ROWWISE = _affine(fn.layer_norm, (4,), ((4,),))
GROUPS, RMS = _affine(fn.group_norm, (2,)), _affine(fn.rms_norm, (5,), ((5,),))
PER_SAMPLE = [
    _per_sample(
        "layer_norm",
        ROWWISE,
        (normal(2, 3, 4), normal(4), normal(4)),
        ("layer_norm: expected an input of shape (.., (4,)), got (2, 5)", ((2, 5), (4,), (4,))),
        ("layer_norm: expected a weight of shape (4,), got (3,)", ((2, 4), (3,), (4,))),
        ("layer_norm: expected a bias of shape (4,), got (1,)", ((2, 4), (4,), (1,))),
    ),
    _per_sample(
        "rms_norm",
        RMS,
        (normal(2, 3, 5), normal(5)),
        ("rms_norm: expected an input of shape (.., (5,)), got ()", ((), (5,))),
    ),
    _per_sample(
        "group_norm",
        GROUPS,
        (normal(3, 4, 2, 3), normal(4), normal(4)),
        (
            "group_norm: expected an input (N, C, ..) with C divided by 2, got (3, 5, 2)",
            ((3, 5, 2), (5,), (5,)),
        ),
        (
            "group_norm: expected weight (4,) for input (3, 4), got (2,)",
            ((3, 4), (2,), (4,)),
        ),
    ),
    _per_sample("group_norm/rows", GROUPS, (normal(5, 6),)),
    _per_sample("group_norm/empty", GROUPS, (normal(0, 4, 2), normal(4))),
    _per_sample(
        "instance_norm",
        (_instance, _torch_instance),
        (normal(2, 3, 5), normal(3), normal(3)),
        (
            "instance_norm: expected an input (N, C, ..) of more than one value per channel, got "
            "(2, 3, 1)",
            ((2, 3, 1), (3,), (3,)),
        ),
    ),
]

ROWS = [
    *PER_SAMPLE,
    Sample(
        "normalize", fn.normalize, (normal(2, 3, 4),), lambda t, x: t.nn.functional.normalize(x)
    ),
    Sample(
        "batch_norm",
        _train(),
        (IMAGES, normal(4), normal(4)),
        _torch_train(),
        wrong=(
            ("more than one value per channel", ((1, 4, 1, 1), (4,), (4,))),
            ("expected weight (4,) for input (3, 4, 2, 3), got (3,)", ((3, 4, 2, 3), (3,), (4,))),
            ("expected bias (4,) for input (3, 4, 2, 3), got (5,)", ((3, 4, 2, 3), (4,), (5,))),
            ("batch_norm: expected an input (N, C, ..), got shape (4,)", ((4,), (4,), (4,))),
        ),
    ),
    Sample("batch_norm/plain", _train(), (IMAGES,), _torch_train()),
    Sample("batch_norm/empty", _train(), (normal(0, 4, 2, 2), normal(4)), _torch_train()),
    Sample("batch_norm/eps", _train(eps=0.5), (IMAGES, normal(4)), _torch_train(eps=0.5)),
    Sample("batch_norm/weight only", _train(), (normal(5, 4), normal(4)), _torch_train()),
    Sample("batch_norm/rows", _train(), (normal(5, 4), normal(4), normal(4)), _torch_train()),
    Sample("batch_norm/volumes", _train(), (normal(2, 3, 2, 2, 2), normal(3)), _torch_train()),
    Sample("batch_norm/signals", _train(), (normal(3, 4, 5), normal(4), normal(4)), _torch_train()),
    Sample(
        "batch_norm/evaluation",
        _still,
        (IMAGES, positive(4), normal(4)),
        _torch_still,
        wrong=(
            (
                "batch_norm: expected running_mean (3,) for input (2, 3, 2, 2), got (4,)",
                ((2, 3, 2, 2), (3,), (3,)),
            ),
        ),
    ),
    Sample("batch_norm/evaluation, plain", _still, (IMAGES,), _torch_still),
    Sample("batch_norm/evaluation, rows", _still, (normal(1, 4), normal(4)), _torch_still),
    Sample("batch_norm/evaluation, empty", _still, (normal(0, 4, 2, 2),), _torch_still),
    _response_row("defaults", (2, 7, 3, 2), 5),
    _response_row("strong", (2, 7, 3, 2), 5, alpha=2.0, beta=1.5, k=0.5),
    _response_row("even window", (2, 7, 3, 2), 4, alpha=3.0, k=2.0),
    _response_row("window over all channels", (2, 3, 4), 9, alpha=2.0, beta=0.5),
    _response_row("one channel", (2, 1, 3, 2), 1, alpha=1.0),
    _response_row("empty", (0, 3, 2, 2), 3),
]
