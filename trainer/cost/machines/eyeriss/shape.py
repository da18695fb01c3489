"""The shape of a convolution as a machine sees it, and the three convolutions of training.

Letters are those of Sze, Chen, Yang, Emer, Proc. IEEE 105(12), 2017.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace

from ....errors import UserError


def ceil_div(a: int, b: int) -> int:
    """Return a / b rounded up."""
    return -(-a // b)


@dataclass(frozen=True)
class ConvShape:
    """A convolution of n images: m filters, c channels, images h x w without padding, filters
    r x s, outputs e x f. A fully connected layer has r = h, s = w and e = f = 1.

    UserError where a number is not positive and where the groups do not divide m and c.
    """

    n: int
    m: int
    c: int
    h: int
    w: int
    r: int
    s: int
    e: int
    f: int
    stride: int = 1
    groups: int = 1

    def __post_init__(self) -> None:
        if min(astuple(self)) < 1:
            raise UserError(f"{self}: expected positive numbers, got {min(astuple(self))}")
        if self.m % self.groups or self.c % self.groups:
            raise UserError(
                f"groups: expected a divisor of m = {self.m} and c = {self.c}, got {self.groups}"
            )

    @property
    def rows(self) -> int:
        """Rows of the padded image that the filters touch: (e - 1) * stride + r."""
        return (self.e - 1) * self.stride + self.r

    @property
    def columns(self) -> int:
        """Columns of the padded image that the filters touch."""
        return (self.f - 1) * self.stride + self.s

    @property
    def channels(self) -> int:
        """Channels of one group, c / groups."""
        return self.c // self.groups

    @property
    def filters(self) -> int:
        """Filters of one group, m / groups."""
        return self.m // self.groups

    @property
    def outputs(self) -> int:
        """Values of the result, n * m * e * f."""
        return self.n * self.m * self.e * self.f

    @property
    def weights(self) -> int:
        """Values of all filters, m * c / groups * r * s."""
        return self.m * self.channels * self.r * self.s

    @property
    def macs(self) -> int:
        """Multiply-accumulates, including those with padding."""
        return self.outputs * self.channels * self.r * self.s


def passes(shape: ConvShape) -> dict[str, ConvShape]:
    """Return the three passes of training by phase of the ledger, as convolutions of stride 1.

    backward_data convolves dy, with its m channels, with the rotated filters. For a stride U, dx
    splits into U * U images of c channels, one per offset, each with every U-th row and column of
    the filters; together they count as U * U * c filters.

    backward_weights: dw[m, c] is the sum over images of x[c] correlated with dy[m]. The c channels
    take the place of images, the n images that of the channels summed over, dy that of m filters of
    e x f, and the r x s weights that of the output. A stride splits each channel into U * U images.

    MACs equal those of the forward pass, plus MACs with zeros at the border where h is not e * U
    and with the zeros that fill up r and s where U does not divide them.
    """
    step = shape.stride * shape.stride
    fine = {"r": ceil_div(shape.r, shape.stride), "s": ceil_div(shape.s, shape.stride)}
    coarse = {"h": ceil_div(shape.h, shape.stride), "w": ceil_div(shape.w, shape.stride)}
    data = replace(
        shape, m=shape.c * step, c=shape.m, h=shape.e, w=shape.f,
        **fine, e=coarse["h"], f=coarse["w"], stride=1,
    )  # fmt: skip
    weights = replace(
        shape, n=shape.channels * step, c=shape.n * shape.groups, **coarse,
        r=shape.e, s=shape.f, e=fine["r"], f=fine["s"], stride=1,
    )  # fmt: skip
    return {"forward": shape, "backward_data": data, "backward_weights": weights}


def fold(shape: ConvShape, most_rows: int, most_columns: int) -> ConvShape:
    """Return the shape with filters taller than `most_rows` or wider than `most_columns` cut into
    equal pieces. A piece counts as a channel of its own, since partial sums of pieces add up like
    those of channels. It reads only the rows and columns of the image that it meets; pieces are
    padded with zeros to equal size.
    """
    high, wide = ceil_div(shape.r, most_rows), ceil_div(shape.s, most_columns)
    if high == wide == 1:
        return shape
    pieces = high * wide
    return replace(shape, c=shape.c * pieces, r=ceil_div(shape.r, high), s=ceil_div(shape.s, wide))
