"""Activation functions as layers, with torch's arguments.

`inplace` is accepted without effect: what is saved for the gradient is never overwritten."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy.typing as npt

from ..device import Device, layer_type
from ..functional import activation as F
from ..functional.create import full
from ..tensor import Parameter, Tensor
from .module import Module

__all__ = [
    "CELU",
    "ELU",
    "GELU",
    "GLU",
    "SELU",
    "Hardshrink",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "LeakyReLU",
    "LogSigmoid",
    "LogSoftmax",
    "Mish",
    "PReLU",
    "RReLU",
    "ReLU",
    "ReLU6",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softmax2d",
    "Softmin",
    "Softplus",
    "Softshrink",
    "Softsign",
    "Tanh",
    "Tanhshrink",
    "Threshold",
]


class _Activation(Module):
    """A function of a tensor, and of the attributes in `shown`."""

    function: ClassVar[Callable[..., Tensor]]

    def forward(self, x: Tensor) -> Tensor:
        """Return x's shape."""
        return type(self).function(x, *[getattr(self, name) for name in self.shown])


class _InPlace(_Activation):
    def __init__(self, inplace: bool = False) -> None:
        self.inplace = inplace


class ReLU(_InPlace):
    """max(x, 0), element by element."""

    function = staticmethod(F.relu)


class ReLU6(_InPlace):
    """x limited to [0, 6]."""

    function = staticmethod(F.relu6)


class SELU(_InPlace):
    """1.0507 x where x is positive, else 1.0507 times 1.6733 (exp(x) - 1) (Klambauer et al.
    2017)."""

    function = staticmethod(F.selu)


class SiLU(_InPlace):
    """x / (1 + exp(-x)) (Elfwing et al. 2017)."""

    function = staticmethod(F.silu)


class Mish(_InPlace):
    """x tanh(log(1 + exp(x))) (Misra 2019)."""

    function = staticmethod(F.mish)


class Hardsigmoid(_InPlace):
    """(x + 3) / 6 limited to [0, 1]."""

    function = staticmethod(F.hardsigmoid)


class Hardswish(_InPlace):
    """x times (x + 3) / 6 limited to [0, 1] (Howard et al. 2019)."""

    function = staticmethod(F.hardswish)


class Sigmoid(_Activation):
    """1 / (1 + exp(-x))."""

    function = staticmethod(F.sigmoid)


class LogSigmoid(_Activation):
    """The logarithm of 1 / (1 + exp(-x))."""

    function = staticmethod(F.logsigmoid)


class Tanh(_Activation):
    """Hyperbolic tangent."""

    function = staticmethod(F.tanh)


class Tanhshrink(_Activation):
    """x - tanh(x)."""

    function = staticmethod(F.tanhshrink)


class Softsign(_Activation):
    """x / (1 + |x|)."""

    function = staticmethod(F.softsign)


class LeakyReLU(_Activation):
    """x where it is positive, else negative_slope x (Maas et al. 2013)."""

    shown = ("negative_slope",)
    function = staticmethod(F.leaky_relu)

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False) -> None:
        self.negative_slope, self.inplace = negative_slope, inplace


class ELU(_Activation):
    """x where it is positive, else alpha (exp(x) - 1) (Clevert et al. 2016)."""

    shown = ("alpha",)
    function = staticmethod(F.elu)

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        self.alpha, self.inplace = alpha, inplace


class CELU(ELU):
    """x where it is positive, else alpha (exp(x / alpha) - 1) (Barron 2017)."""

    function = staticmethod(F.celu)


class GELU(_Activation):
    """x times the probability of a normal number below x (Hendrycks and Gimpel 2016).

    approximate="tanh" computes it from a hyperbolic tangent, see `functional.activation.gelu`."""

    shown = ("approximate",)
    function = staticmethod(F.gelu)

    def __init__(self, approximate: str = "none") -> None:
        self.approximate = approximate


class Hardtanh(_Activation):
    """x limited to [min_val, max_val]."""

    shown = ("min_val", "max_val")
    function = staticmethod(F.hardtanh)

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> None:
        self.min_val, self.max_val, self.inplace = min_val, max_val, inplace


class RReLU(Module):
    """x where it is positive, else x times a slope drawn from [lower, upper) in training, and their
    mean in evaluation (Xu et al. 2015)."""

    shown = ("lower", "upper")

    def __init__(self, lower: float = 1 / 8, upper: float = 1 / 3, inplace: bool = False) -> None:
        self.lower, self.upper = lower, upper

    def forward(self, x: Tensor) -> Tensor:
        """Return x's shape."""
        return F.rrelu(x, self.lower, self.upper, self.training)


class PReLU(Module):
    """x where it is positive, else weight x; the weight is learned (He et al. 2015).

    It has one number, or as many as x (N, C, ..) has channels."""

    shown = ("num_parameters",)

    def __init__(
        self,
        num_parameters: int = 1,
        init: float = 0.25,
        device: Device = None,
        dtype: npt.DTypeLike | None = None,
    ) -> None:
        dtype = layer_type(device, dtype)
        self.num_parameters = num_parameters
        self.weight = Parameter(full(num_parameters, init, dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Return x's shape."""
        return F.prelu(x, self.weight)


class Softplus(_Activation):
    """log(1 + exp(beta x)) / beta, a smooth max(x, 0)."""

    shown = ("beta", "threshold")
    function = staticmethod(F.softplus)

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        self.beta, self.threshold = beta, threshold


class Softshrink(_Activation):
    """x moved towards 0 by lambd, and 0 where it is nearer."""

    shown = ("lambd",)
    function = staticmethod(F.softshrink)

    def __init__(self, lambd: float = 0.5) -> None:
        self.lambd = lambd


class Hardshrink(Softshrink):
    """x, and 0 where -lambd <= x <= lambd."""

    function = staticmethod(F.hardshrink)


class Threshold(_Activation):
    """x where it is above the threshold, else the value."""

    shown = ("threshold", "value")
    function = staticmethod(F.threshold)

    def __init__(self, threshold: float, value: float, inplace: bool = False) -> None:
        self.threshold, self.value, self.inplace = threshold, value, inplace


class GLU(_Activation):
    """The first half of x along the axis `dim`, times the sigmoid of the second half (Dauphin et
    al. 2017)."""

    shown = ("dim",)
    function = staticmethod(F.glu)

    def __init__(self, dim: int = -1) -> None:
        self.dim = dim


class Softmax(_Activation):
    """exp(x) divided by its sum along the axis `dim`, None for that of `functional.softmax`.

    `CrossEntropyLoss` takes logits: put no softmax in front of it."""

    shown = ("dim",)
    function = staticmethod(F.softmax)

    def __init__(self, dim: int | None = None) -> None:
        self.dim = dim


class Softmax2d(Module):
    """`Softmax` over the channels of images, x (N, C, H, W) or (C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x's shape. ValueError for another number of axes."""
        if x.ndim not in (3, 4):
            raise ValueError(f"Softmax2d: expected an input of 3 or 4 axes, got shape {x.shape}")
        return F.softmax(x, -3)


class Softmin(Softmax):
    """`Softmax` of -x."""

    function = staticmethod(F.softmin)


class LogSoftmax(Softmax):
    """The logarithm of softmax along the axis `dim`, the input that `NLLLoss` expects."""

    function = staticmethod(F.log_softmax)
