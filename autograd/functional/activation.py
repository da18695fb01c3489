"""Activation functions, with torch.nn.functional's names and argument order.

All but glu and the softmax functions work element by element and return the input's shape and type.
TypeError for tensors that are not floating-point."""

from __future__ import annotations

import numpy.typing as npt

from ..autocast import narrow
from ..methods.arguments import in_place, may_be_in_place
from ..ops import activation as ops
from ..ops import compare as cp
from ..ops import elementwise as el
from ..ops import gated
from ..ops.reduce import scale
from ..ops.shape import axis_of
from ..tensor import Tensor
from .create import rand

__all__ = [
    "celu",
    "celu_",
    "elu",
    "elu_",
    "gelu",
    "glu",
    "hardshrink",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "hardtanh_",
    "leaky_relu",
    "leaky_relu_",
    "log_softmax",
    "logsigmoid",
    "mish",
    "prelu",
    "relu",
    "relu6",
    "relu_",
    "rrelu",
    "rrelu_",
    "selu",
    "selu_",
    "sigmoid",
    "silu",
    "softmax",
    "softmin",
    "softplus",
    "softshrink",
    "softsign",
    "tanh",
    "tanhshrink",
    "threshold",
    "threshold_",
]

# With which activations keep mean 0 and variance 1 (Klambauer et al. 2017).
SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805


@may_be_in_place
def relu(input: Tensor) -> Tensor:
    """Return max(x, 0), integers of integers; its gradient at 0 is 0."""
    y: Tensor = ops.relu(input)
    return y


@may_be_in_place
def leaky_relu(input: Tensor, negative_slope: float = 0.01) -> Tensor:
    """Return x where x > 0, else negative_slope x (Maas et al. 2013)."""
    slope = float(negative_slope)
    y: Tensor
    if slope >= 0:
        y = ops.leaky_relu(input, slope=slope)
    else:
        y = el.where(input > 0, input, scale(input, factor=slope))
    return y


@may_be_in_place
def elu(input: Tensor, alpha: float = 1.0) -> Tensor:
    """Return x where x > 0, else alpha (e^x - 1) (Clevert et al. 2016)."""
    y: Tensor = ops.elu(input, alpha=float(alpha))
    return y


def sigmoid(input: Tensor) -> Tensor:
    """Return 1 / (1 + e^-x).

    For the logarithm of a sigmoid use `binary_cross_entropy_with_logits`, which stays finite."""
    return input.sigmoid()


def tanh(input: Tensor) -> Tensor:
    """Return the hyperbolic tangent."""
    return input.tanh()


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """Return log(1 + e^(beta x)) / beta, a smooth max(x, 0), and x where beta x is above a
    threshold.

    With torch's threshold, 20, the function itself is returned, which is exact everywhere and
    differs from x by less than 2.1e-9 / beta there."""
    y: Tensor
    beta = float(beta)
    if beta == 1:
        y = ops.softplus(input)
    else:
        y = scale(ops.softplus(scale(input, factor=beta)), factor=1 / beta)
    if threshold < 20:
        y = el.where(input * beta > threshold, input, y)
    return y


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """Return x times the probability of a normal number below x (Hendrycks and Gimpel 2016).

    With approximate="tanh", 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))). ValueError for
    anything but "none" and "tanh"."""
    if approximate not in ("none", "tanh"):
        raise ValueError(f"gelu: expected approximate 'none' or 'tanh', got {approximate!r}")
    y: Tensor = gated.gelu(input) if approximate == "none" else gated.gelu_tanh(input)
    return y


@may_be_in_place
def silu(input: Tensor) -> Tensor:
    """Return x / (1 + e^-x), also called swish (Elfwing et al. 2017)."""
    y: Tensor = gated.silu(input)
    return y


@may_be_in_place
def mish(input: Tensor) -> Tensor:
    """Return x tanh(log(1 + e^x)) (Misra 2019)."""
    y: Tensor = gated.mish(input)
    return y


@may_be_in_place
def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """Return x limited to [min_val, max_val], with slope 0 at both.

    ValueError for bounds in the wrong order."""
    y: Tensor = gated.hardtanh(input, low=float(min_val), high=float(max_val))
    return y


@may_be_in_place
def relu6(input: Tensor) -> Tensor:
    """Return x limited to [0, 6]."""
    return hardtanh(input, 0.0, 6.0)


@may_be_in_place
def hardsigmoid(input: Tensor) -> Tensor:
    """Return (x + 3) / 6 limited to [0, 1]."""
    y: Tensor = scale(relu6(el.add(input, 3.0)), factor=1 / 6)
    return y


@may_be_in_place
def hardswish(input: Tensor) -> Tensor:
    """Return x times `hardsigmoid` of x (Howard et al. 2019)."""
    y: Tensor = gated.hardswish(input)
    return y


@may_be_in_place
def selu(input: Tensor) -> Tensor:
    """Return 1.0507 x where x > 0, else 1.0507 times 1.6733 (e^x - 1) (Klambauer et al. 2017)."""
    y: Tensor = scale(elu(input, SELU_ALPHA), factor=SELU_SCALE)
    return y


@may_be_in_place
def celu(input: Tensor, alpha: float = 1.0) -> Tensor:
    """Return x where x > 0, else alpha (e^(x / alpha) - 1) (Barron 2017).

    ValueError for an alpha that is not positive."""
    if not alpha > 0:
        raise ValueError(f"celu: expected alpha > 0, got {alpha}")
    y: Tensor = scale(elu(scale(input, factor=1 / alpha)), factor=alpha)
    return y


def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """Return x where x > 0, else weight x (He et al. 2015).

    `weight` has one number, or one for each channel of an input (N, C, ..). ValueError for
    another shape."""
    channels = input.shape[1] if input.ndim > 1 else 1
    if weight.shape not in ((), (1,), (channels,)):
        raise ValueError(
            f"prelu: expected a weight of 1 or {channels} numbers for input {input.shape}, "
            f"got shape {weight.shape}"
        )
    input, weight = narrow(input), narrow(weight)
    slope = weight.reshape(-1, *[1] * (input.ndim - 2)) if weight.size > 1 else weight.reshape(())
    y: Tensor = el.where(input > 0, input, input * slope)
    return y


@may_be_in_place
def rrelu(
    input: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False
) -> Tensor:
    """Return x where x > 0, else x times a slope drawn from [lower, upper) for each element (Xu et
    al. 2015); outside training, the mean slope.

    ValueError for a lower above the upper."""
    if lower > upper:
        raise ValueError(f"rrelu: expected lower at most upper {upper}, got {lower}")
    if not training:
        return leaky_relu(input, (lower + upper) / 2)
    slope = rand(input.shape, dtype=input.dtype) * (upper - lower) + lower
    y: Tensor = el.where(input > 0, input, input * slope)
    return y


def softsign(input: Tensor) -> Tensor:
    """Return x / (1 + |x|)."""
    y: Tensor = el.div(input, el.add(el.abs(input), 1.0))
    return y


def tanhshrink(input: Tensor) -> Tensor:
    """Return x - tanh x."""
    y: Tensor = el.sub(input, ops.tanh(input))
    return y


def softshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """Return x moved towards 0 by lambd, and 0 where it is nearer. ValueError for lambd < 0."""
    if not lambd >= 0:
        raise ValueError(f"softshrink: expected lambd >= 0, got {lambd}")
    y: Tensor = el.sub(input, el.clip(input, low=-float(lambd), high=float(lambd)))
    return y


def hardshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """Return x, and 0 where -lambd <= x <= lambd."""
    near = cp.within(input, low=-float(lambd), high=float(lambd))
    y: Tensor = el.where(near, 0.0, input)
    return y


@may_be_in_place
def threshold(input: Tensor, threshold: float, value: float) -> Tensor:
    """Return x where it is above the threshold, else the value."""
    y: Tensor = el.where(input <= threshold, float(value), input)
    return y


def logsigmoid(input: Tensor) -> Tensor:
    """Return log(1 / (1 + e^-x)), finite for any finite x."""
    y: Tensor = el.neg(ops.softplus(el.neg(input)))
    return y


def glu(input: Tensor, dim: int = -1) -> Tensor:
    """Return the first half of x along an axis, times the sigmoid of the second half (Dauphin et
    al. 2017).

    ValueError for an odd extent, and for an axis that does not exist."""
    axis = axis_of("glu", dim, input.ndim)
    if input.shape[axis] % 2:
        raise ValueError(f"glu: expected an even extent along axis {dim}, got shape {input.shape}")
    x, gate = input.chunk(2, axis) if input.shape[axis] else (input, input)
    return x * ops.sigmoid(gate)


def softmin(input: Tensor, dim: int | None = None, *, dtype: npt.DTypeLike | None = None) -> Tensor:
    """Return `softmax` of -x."""
    return softmax(el.neg(input), dim, dtype=dtype)


def softmax(input: Tensor, dim: int | None = None, *, dtype: npt.DTypeLike | None = None) -> Tensor:
    """Return e^x divided by its sum along an axis; all else as in `Tensor.softmax`."""
    return input.softmax(dim, dtype=dtype)


def log_softmax(
    input: Tensor, dim: int | None = None, *, dtype: npt.DTypeLike | None = None
) -> Tensor:
    """Return the logarithm of softmax, without its loss of small probabilities; all else as in
    `Tensor.softmax`."""
    return input.log_softmax(dim, dtype=dtype)


celu_ = in_place(celu)
elu_ = in_place(elu)
hardtanh_ = in_place(hardtanh)
leaky_relu_ = in_place(leaky_relu)
relu_ = in_place(relu)
rrelu_ = in_place(rrelu)
selu_ = in_place(selu)
threshold_ = in_place(threshold)
