"""The shape of a convolution as a machine sees it, and the three convolutions of training."""

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

    UserError where a number is not positive or the groups divide m or c unevenly.
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
            raise UserError(f"{self}: every number has to be positive")
        if self.m % self.groups or self.c % self.groups:
            raise UserError(f"{self}: choose groups that divide both m and c")

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
        """Multiply-accumulates, those with padding included."""
        return self.outputs * self.channels * self.r * self.s


def passes(shape: ConvShape) -> dict[str, ConvShape]:
    """Return the three passes of training as convolutions of stride 1, by the ledger's phases.

    backward_data: the gradient dy of m channels is convolved with the turned filters; a stride U
    makes U * U images of c channels each, one for every offset, whose filters are every U-th row
    and column of the given ones. They are seen as U * U * c filters.

    backward_weights: dw[m, c] is the sum over the images of x[c] correlated with dy[m]. The c
    channels are seen as images, the n images as channels over which is summed, dy as m filters of
    e x f, and the r x s weights as the output; a stride makes U * U images of each channel.

    MACs are those of the forward pass, plus those with zeros at the border (where h is not e * U)
    and with the filling where U does not divide r and s.
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
    """Cut filters that are taller than `most_rows` or wider than `most_columns` into equal pieces,
    each with a channel of its own: their partial sums add up as those of channels do. A piece
    reads only the rows and columns of the image that it meets; pieces are filled up with zeros.
    """
    high, wide = ceil_div(shape.r, most_rows), ceil_div(shape.s, most_columns)
    if high == wide == 1:
        return shape
    pieces = high * wide
    return replace(shape, c=shape.c * pieces, r=ceil_div(shape.r, high), s=ceil_div(shape.s, wide))
