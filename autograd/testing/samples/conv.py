"""Rows for convolutions. MACs are written out as N M C/groups R S E F."""

from __future__ import annotations

from typing import Any

from ...functional.conv import conv1d, conv2d, conv_transpose1d, conv_transpose2d
from ...functional.volume import conv3d, conv_transpose3d
from .sample import Sample, normal

Shape = tuple[int, ...]
Wrong = tuple[tuple[str, tuple[Shape, ...]], ...]
FUNCTIONS = {
    f.__name__: f
    for f in (conv1d, conv2d, conv3d, conv_transpose1d, conv_transpose2d, conv_transpose3d)
}


def row(
    name: str, macs: int, x: Shape, w: Shape, b: int = 0, wrong: Wrong = (), **options: Any
) -> Sample:
    """Return the row of one way to convolve; its name is the function's, a slash, and what is
    special; b the length of the bias, 0 for none."""
    function = FUNCTIONS[name.split("/")[0]]

    def ours(*tensors: Any) -> Any:
        return function(*tensors, **options)

    def theirs(torch: Any, *tensors: Any) -> Any:
        return getattr(torch.nn.functional, function.__name__)(*tensors, **options)

    shapes = (x, w, (b,)) if b else (x, w)
    return Sample(name, ours, tuple(normal(*s) for s in shapes), theirs, macs, wrong=wrong)


ROWS = [
    row(
        "conv2d", 2 * 4 * 3 * 3 * 3 * 6 * 5, (2, 3, 8, 7), (4, 3, 3, 3), 4,
        wrong=(
            ("expected an input of 3 channels for weight (4, 3, 3, 3) with groups=1, got 2",
             ((2, 2, 8, 7), (4, 3, 3, 3), (4,))),
            ("least (3, 8) for kernel (3, 8) with dilation (1, 1), got (8, 7)",
             ((2, 3, 8, 7), (4, 3, 3, 8), (4,))),
            ("expected a bias of shape (4,), got (5,)", ((2, 3, 8, 7), (4, 3, 3, 3), (5,))),
            ("expected an input of 3 or 4 axes, got shape (8, 7)", ((8, 7), (4, 3, 3, 3), (4,))),
            ("expected a weight of 4 axes, got shape (4, 3, 3)", ((2, 3, 8, 7), (4, 3, 3), (4,))),
        ),
    ),
    row("conv2d/no bias, no batch", 4 * 3 * 3 * 3 * 6 * 5, (3, 8, 7), (4, 3, 3, 3)),
    row("conv2d/bias of many results", 2 * 37 * 3 * 9 * 12, (2, 3, 5, 6), (37, 3, 3, 3), 37),
    row("conv2d/no images", 0, (0, 3, 8, 7), (4, 3, 3, 3), 4),
    row("conv2d/one pixel", 2 * 4 * 5 * 3 * 4, (2, 5, 3, 4), (4, 5, 1, 1), 4),
    row("conv2d/one pixel, stride", 2 * 4 * 5 * 2 * 2, (2, 5, 3, 4), (4, 5, 1, 1), stride=2),
    row("conv2d/many channels", 2 * 6 * 16 * 9 * 25, (2, 16, 5, 5), (6, 16, 3, 3), 6, padding=1),
    row("conv2d/stride", 2 * 4 * 3 * 3 * 2 * 3 * 2, (2, 3, 8, 7), (4, 3, 3, 2), stride=(2, 3)),
    row("conv2d/padding", 2 * 4 * 3 * 9 * 8 * 9, (2, 3, 8, 7), (4, 3, 3, 3), padding=(1, 2)),
    row("conv2d/padding and stride", 2 * 4 * 2 * 9 * 16, (2, 2, 8, 7), (4, 2, 3, 3), 4,
        padding=1, stride=2),
    row("conv2d/wide padding", 2 * 2 * 2 * 2 * 8 * 8, (2, 2, 3, 4), (2, 2, 2, 1), padding=(3, 2)),
    row("conv2d/dilation", 2 * 4 * 3 * 9 * 4 * 1, (2, 3, 8, 7), (4, 3, 3, 3), dilation=(2, 3)),
    row("conv2d/everything", 2 * 6 * 2 * 3 * 2 * 4 * 3, (2, 4, 12, 9), (6, 2, 3, 2), 6,
        stride=(2, 3), padding=(1, 1), dilation=(3, 2), groups=2),
    row("conv2d/stride above kernel", 2 * 2 * 3 * 4 * 3 * 2, (2, 3, 8, 7), (2, 3, 2, 2), stride=3),
    row("conv2d/even kernel", 2 * 3 * 2 * 8 * 4 * 4, (2, 2, 5, 7), (3, 2, 2, 4)),
    row("conv2d/same", 2 * 3 * 2 * 15 * 5 * 7, (2, 2, 5, 7), (3, 2, 3, 5), 3, padding="same"),
    row("conv2d/same, dilated", 2 * 3 * 2 * 9 * 5 * 7, (2, 2, 5, 7), (3, 2, 3, 3),
        padding="same", dilation=2),
    row("conv2d/valid", 2 * 3 * 2 * 9 * 3 * 5, (2, 2, 5, 7), (3, 2, 3, 3), padding="valid"),
    row(
        "conv2d/groups", 2 * 6 * 2 * 9 * 9, (2, 4, 5, 5), (6, 2, 3, 3), 6, groups=2,
        wrong=(
            ("expected groups that divide 5 filters, got 2", ((2, 4, 5, 5), (5, 2, 3, 3), (5,))),
            ("of 4 channels for weight (6, 2, 3, 3) with groups=2, got 3",
             ((2, 3, 5, 5), (6, 2, 3, 3), (6,))),
        ),
    ),
    row("conv2d/depthwise", 2 * 4 * 9 * 25, (2, 4, 5, 5), (4, 1, 3, 3), 4, groups=4, padding=1),
    row("conv2d/depthwise, stride and dilation", 2 * 4 * 9 * 3 * 4, (2, 4, 8, 7), (4, 1, 3, 3),
        groups=4, stride=2, padding=1, dilation=(2, 1)),
    row("conv2d/channel multiplier", 2 * 6 * 9 * 9, (2, 3, 5, 5), (6, 1, 3, 3), groups=3),
    row("conv1d", 2 * 4 * 3 * 5 * 6, (2, 3, 10), (4, 3, 5), 4,
        wrong=(("conv1d: expected a weight of 3 axes, got shape (4, 3, 5, 5)",
                ((2, 3, 10), (4, 3, 5, 5), (4,))),)),
    row("conv1d/options", 4 * 2 * 3 * 4, (4, 10), (4, 2, 3), stride=2, padding=1, dilation=2,
        groups=2),
    row("conv1d/same", 2 * 4 * 3 * 5 * 10, (2, 3, 10), (4, 3, 5), padding="same"),
    row(
        "conv_transpose2d", 2 * 3 * 4 * 9 * 5 * 6, (2, 3, 5, 6), (3, 4, 3, 3), 4,
        wrong=(("expected an input of 3 channels for weight (3, 4, 3, 3), got 2",
                ((2, 2, 5, 6), (3, 4, 3, 3), (4,))),),
    ),
    row("conv_transpose2d/no batch", 3 * 4 * 9 * 5 * 6, (3, 5, 6), (3, 4, 3, 3), stride=2),
    row("conv_transpose2d/no images", 0, (0, 3, 5, 6), (3, 4, 3, 3), 4, stride=2),
    row("conv_transpose2d/stride, padding", 2 * 3 * 2 * 12 * 4 * 5, (2, 3, 4, 5), (3, 2, 3, 4), 2,
        stride=(2, 3), padding=(1, 2)),
    row("conv_transpose2d/output padding", 2 * 3 * 2 * 9 * 4 * 5, (2, 3, 4, 5), (3, 2, 3, 3), 2,
        stride=(2, 3), padding=1, output_padding=(1, 2)),
    row("conv_transpose2d/output padding of whole strides", 2 * 3 * 2 * 9 * 4 * 5, (2, 3, 4, 5),
        (3, 2, 3, 3), padding=(2, 1), dilation=4, output_padding=(3, 2)),
    row("conv_transpose2d/groups, dilation", 2 * 4 * 3 * 6 * 4 * 5, (2, 4, 4, 5), (4, 3, 3, 2), 6,
        groups=2, dilation=(2, 1), stride=2),
    row("conv_transpose2d/depthwise", 2 * 4 * 4 * 4 * 5, (2, 4, 4, 5), (4, 1, 2, 2), groups=4,
        stride=2),
    row("conv_transpose1d", 2 * 3 * 4 * 5 * 6, (2, 3, 6), (3, 4, 5), 4, stride=2, padding=2,
        output_padding=1),
    row(
        "conv3d", 2 * 4 * 2 * 9 * 4 * 3 * 4, (2, 2, 4, 3, 4), (4, 2, 3, 1, 3), 4, padding="same",
        wrong=(
            ("conv3d: expected an input of 2 channels for weight (4, 2, 3, 1, 3), got 3",
             ((2, 3, 4, 3, 4), (4, 2, 3, 1, 3), (4,))),
            ("conv3d: expected a padded input of at least (3, 1, 3), got (2, 3, 6)",
             ((2, 2, 0, 3, 4), (4, 2, 3, 1, 3), (4,))),
            ("conv3d: expected a bias of shape (4,), got (5,)",
             ((2, 2, 4, 3, 4), (4, 2, 3, 1, 3), (5,))),
            ("conv3d: expected a weight of 5 axes, got shape (4, 2, 3, 1)",
             ((2, 2, 4, 3, 4), (4, 2, 3, 1), (4,))),
            ("conv3d: expected an input of 4 or 5 axes, got shape (2, 3, 4)",
             ((2, 3, 4), (4, 2, 3, 1, 3), (4,))),
        ),
    ),
    row("conv3d/everything, no batch", 4 * 2 * 4 * 12, (4, 5, 3, 4), (4, 2, 2, 1, 2),
        stride=(2, 1, 2), padding=(1, 0, 1), dilation=(3, 1, 2), groups=2),
    row(
        "conv_transpose3d", 2 * 4 * 2 * 12 * 12, (2, 4, 2, 2, 3), (4, 2, 2, 2, 3), 4,
        stride=(3, 1, 2), padding=1, output_padding=(2, 0, 1), groups=2, dilation=(1, 2, 1),
        wrong=(
            ("conv_transpose3d: expected an input of 4 channels for weight (4, 2, 2, 2, 3), got 3",
             ((2, 3, 2, 2, 3), (4, 2, 2, 2, 3), (4,))),
            ("conv_transpose3d: expected a bias of shape (4,), got (2,)",
             ((2, 4, 2, 2, 3), (4, 2, 2, 2, 3), (2,))),
        ),
    ),
]  # fmt: skip
