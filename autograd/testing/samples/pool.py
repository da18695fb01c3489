"""Rows for pooling, which has no MACs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ... import functional
from ...functional import pool, volume
from .sample import Sample, distinct, positive

Shape = tuple[int, ...]
Wrong = tuple[tuple[str, tuple[Shape, ...]], ...]
FUNCTIONS = {
    name: getattr(module, name)
    for module in (pool, volume)
    for name in module.__all__
    if "pool" in name
}


def row(name: str, x: Shape, size: Any, wrong: Wrong = (), **options: Any) -> Sample:
    """Return the row of one way to pool; its name is the function's, a slash, and what is
    special; `size` that of the kernel or of the output."""
    function: Any = FUNCTIONS[name.split("/")[0]]

    def ours(*tensors: Any) -> Any:
        return function(*tensors, size, **options)

    def theirs(torch: Any, *tensors: Any) -> Any:
        return getattr(torch.nn.functional, function.__name__)(*tensors, size, **options)

    return Sample(name, ours, (distinct(*x),), theirs, wrong=wrong)


ROWS = [
    row(
        "max_pool2d", (2, 3, 6, 8), 2,
        wrong=(
            ("least (2, 2) for kernel (2, 2) with dilation (1, 1), got (1, 8)",
             ((2, 3, 1, 8),)),
            ("expected an input of 3 or 4 axes, got shape (6, 8)", ((6, 8),)),
        ),
    ),
    row("max_pool2d/rest", (2, 3, 7, 5), (2, 3)),
    row("max_pool2d/no batch", (3, 6, 8), 2),
    row("max_pool2d/no images", (0, 3, 6, 8), 2),
    row("max_pool2d/overlapping", (2, 3, 7, 9), 3, stride=2),
    row("max_pool2d/padding", (2, 3, 7, 8), 3, stride=2, padding=1),
    row("max_pool2d/padding of one axis", (2, 3, 7, 8), (3, 4), stride=(1, 2), padding=(0, 2)),
    row("max_pool2d/dilation", (2, 3, 9, 10), (3, 2), stride=(1, 2), dilation=(2, 3)),
    row("max_pool2d/stride above kernel", (2, 3, 9, 10), 2, stride=(3, 4)),
    row("max_pool2d/ceil", (2, 3, 7, 8), 3, stride=2, ceil_mode=True),
    row("max_pool2d/ceil, padding", (2, 3, 6, 8), 3, stride=2, padding=1, ceil_mode=True),
    row("max_pool2d/ceil, window dropped", (2, 3, 5, 5), 2, stride=3, padding=1, ceil_mode=True),
    row("max_pool2d/ceil, kernel above image", (1, 2, 2, 6), 3, stride=2, ceil_mode=True),
    row("max_pool2d/indices", (2, 3, 7, 8), 3, stride=2, padding=1, return_indices=True),
    row("max_pool2d/large kernel", (1, 2, 20, 18), (18, 17), stride=1),
    row("avg_pool2d", (2, 3, 6, 8), 2,
        wrong=(("input of at least (2, 2) for kernel (2, 2) with dilation (1, 1), got (1, 8)",
                ((2, 3, 1, 8),)),)),
    row("avg_pool2d/rest", (2, 3, 7, 5), (2, 3)),
    row("avg_pool2d/no batch", (3, 6, 8), 2),
    row("avg_pool2d/no images", (0, 3, 6, 8), 2),
    row("avg_pool2d/overlapping", (2, 3, 7, 9), 3, stride=(2, 1)),
    row("avg_pool2d/padding", (2, 3, 7, 8), 3, stride=2, padding=1),
    row("avg_pool2d/padding not counted", (2, 3, 7, 8), 3, stride=2, padding=1,
        count_include_pad=False),
    row("avg_pool2d/ceil", (2, 3, 7, 8), 3, stride=2, ceil_mode=True),
    row("avg_pool2d/ceil, padding", (2, 3, 6, 8), 3, stride=2, padding=1, ceil_mode=True),
    row("avg_pool2d/ceil, padding not counted", (2, 3, 6, 8), 3, stride=2, padding=1,
        ceil_mode=True, count_include_pad=False),
    row("avg_pool2d/ceil, kernel above image", (1, 2, 2, 6), 3, stride=2, ceil_mode=True),
    row("avg_pool2d/divisor", (2, 3, 6, 8), 3, stride=2, padding=1, divisor_override=5),
    row("adaptive_avg_pool2d", (2, 3, 7, 8), (3, 5),
        wrong=(("expected an input of 3 or 4 axes, got shape (7, 8)", ((7, 8),)),)),
    row("adaptive_avg_pool2d/tiles", (2, 3, 6, 8), (3, 2)),
    row("adaptive_avg_pool2d/whole", (2, 3, 7, 5), 1),
    row("adaptive_avg_pool2d/larger", (2, 3, 3, 4), 5),
    row("adaptive_avg_pool2d/one axis, no batch", (3, 7, 5), (None, 2)),
    row("adaptive_max_pool2d", (2, 3, 7, 8), (3, 5),
        wrong=(("expected an input of 3 or 4 axes, got shape (7, 8)", ((7, 8),)),)),
    row("adaptive_max_pool2d/tiles", (2, 3, 6, 8), (3, 2)),
    row("adaptive_max_pool2d/indices", (2, 3, 7, 5), (3, 4), return_indices=True),
    row("adaptive_max_pool2d/indices of tiles", (2, 3, 6, 8), (3, 2), return_indices=True),
    row("adaptive_max_pool2d/larger, no batch", (3, 3, 4), 5),
    row("max_pool1d", (2, 3, 9), 3, stride=2, padding=1, dilation=2, return_indices=True,
        wrong=(("max_pool1d: expected an input of 2 or 3 axes, got shape (9,)", ((9,),)),)),
    row("avg_pool1d", (2, 3, 8), 3, stride=2, padding=1, ceil_mode=True, count_include_pad=False),
    row("adaptive_avg_pool1d", (2, 3, 7), 3),
    row("adaptive_max_pool1d", (3, 8), 4, return_indices=True),
    row("max_pool3d", (2, 5, 6, 5), (2, 3, 2), stride=(2, 2, 1),
        padding=(1, 1, 0), dilation=(2, 1, 1), ceil_mode=True, return_indices=True,
        wrong=(("max_pool3d: expected an input of 4 or 5 axes, got shape (4, 3, 4)",
                ((4, 3, 4),)),)),
    row("avg_pool3d", (2, 2, 5, 4, 5), (3, 2, 3), stride=2, padding=(1, 1, 0), ceil_mode=True,
        count_include_pad=False),
    row("adaptive_avg_pool3d", (2, 2, 4, 3, 5), (3, None, 2)),
    row("adaptive_max_pool3d", (2, 2, 4, 3, 5), (3, 2, None), return_indices=True),
]  # fmt: skip


def _unpooled(module: Any, x: Any) -> Any:
    """Pool images and put the values back."""
    y, positions = module.max_pool2d(x, 2, return_indices=True)
    return module.max_unpool2d(y, positions, 2, output_size=x.shape)


ROWS.append(
    Sample(
        "max_unpool2d",
        lambda x: _unpooled(functional, x),
        (distinct(2, 3, 6, 5),),
        lambda t, x: _unpooled(t.nn.functional, x),
    )
)
# Of others, roots of sums of odd powers are not numbers.
LP = row("lp_pool2d", (), 3.0, kernel_size=(2, 3), stride=1)
ROWS.append(replace(LP, inputs=(positive(2, 3, 5, 4),)))
