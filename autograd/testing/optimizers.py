"""Optimizers beside torch's: which are compared, and how far apart the weights are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from .. import context, optim
from ..array import NDArray
from ..functional.create import tensor
from ..ledger import Ledger
from ..optim import schedules
from ..tensor import Parameter

Shapes: TypeAlias = tuple[tuple[int, ...], ...]
SHAPES: Shapes = ((8, 5), (5,), (3, 2, 3, 3))
MATRICES: Shapes = ((8, 5), (5, 9), (4, 4))
STEPS = 50


class OptimizerSample(NamedTuple):
    """An optimizer of ours and of torch, with the settings of both and the `shapes` of weights.
    Those that are `steady` are compared without a schedule."""

    name: str
    settings: dict[str, Any]
    steady: bool = False
    shapes: Shapes = SHAPES

    def decay(self, weight_decay: float) -> dict[str, float]:
        """Return the setting of weight decay, none where the optimizer lacks it."""
        known = optim.options(self.name.lower())
        return {"weight_decay": weight_decay} if "weight_decay" in known else {}

    def __str__(self) -> str:
        return " ".join([self.name, *(f"{n}={v}" for n, v in self.settings.items())])


SAMPLES = [
    OptimizerSample("SGD", {"momentum": 0.9, "nesterov": True}),
    OptimizerSample("Adam", {}),
    OptimizerSample("Adam", {"betas": (0.8, 0.95), "eps": 1e-6, "amsgrad": True}),
    OptimizerSample("Adam", {"decoupled_weight_decay": True, "maximize": True}),
    OptimizerSample("AdamW", {}),
    OptimizerSample("AdamW", {"amsgrad": True}),
    OptimizerSample("RMSprop", {}),
    OptimizerSample("RMSprop", {"alpha": 0.9, "momentum": 0.5, "centered": True}),
    OptimizerSample("Adagrad", {}),
    OptimizerSample("Adagrad", {"lr_decay": 0.1, "initial_accumulator_value": 0.5}),
    OptimizerSample("NAdam", {}),
    OptimizerSample("NAdam", {"momentum_decay": 0.1, "decoupled_weight_decay": True}),
    OptimizerSample("RAdam", {}),
    OptimizerSample("RAdam", {"betas": (0.8, 0.9), "decoupled_weight_decay": True}),
    OptimizerSample("Adamax", {}),
    OptimizerSample("Adadelta", {}),
    OptimizerSample("ASGD", {}, steady=True),  # torch takes the rate of the step before
    OptimizerSample("ASGD", {"lambd": 0.1, "alpha": 0.5, "t0": 5.0}, steady=True),
    OptimizerSample("Rprop", {}),
    OptimizerSample("Rprop", {"etas": (0.4, 1.5), "step_sizes": (1e-3, 0.02)}),
]

# torch's takes matrices alone.
OF_MATRICES = [
    OptimizerSample("Muon", {}, shapes=MATRICES),
    OptimizerSample(
        "Muon", {"adjust_lr_fn": "match_rms_adamw", "nesterov": False}, False, MATRICES
    ),
    OptimizerSample("Muon", {"ns_coefficients": (2.0, -1.5, 0.5), "ns_steps": 3}, False, MATRICES),
]


def difference(sample: OptimizerSample, torch: Any, dtype: str) -> float:
    """Return the largest difference of a weight from that of the module `torch` after 50 steps,
    with a warm-up, a cosine, and two groups with a learning rate and a weight decay of their
    own. What torch computes in bfloat16 is computed in the type of the weights."""
    start = _noise(-1, dtype, sample.shapes)
    ours = [Parameter(tensor(w.copy())) for w in start]
    theirs = [torch.nn.Parameter(torch.tensor(w)) for w in start]
    schedule = 0.01 if sample.steady else schedules.by_name("cosine", 0.01, STEPS, warmup=5)
    mine = make(sample, ours, schedule)
    other = make(sample, theirs, 0.01, torch.optim)
    with context.using(ledger=Ledger()), default_type(torch, dtype), _unrounded(torch):
        for step in range(STEPS):
            for group, rate in zip(other.param_groups, mine.rates, strict=True):
                group["lr"] = rate
            noises = _noise(step, dtype, sample.shapes)
            for p, t, noise in zip(ours, theirs, noises, strict=True):
                p.deliver(tensor(gradient(p.numpy(), noise)))
                t.grad = torch.tensor(gradient(t.detach().numpy(), noise))
            mine.step()
            other.step()
            mine.zero_grad()
    pairs = zip(ours, theirs, strict=True)
    return max(float(np.abs(p.numpy() - t.detach().numpy()).max()) for p, t in pairs)


@contextmanager
def default_type(torch: Any, dtype: str) -> Iterator[None]:
    """Let `torch` keep numbers of its own, such as products of momenta, in a type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _unrounded(torch: Any) -> Iterator[None]:
    """Let `torch` keep the type of numbers that it would round to bfloat16."""
    before = torch.Tensor.bfloat16
    torch.Tensor.bfloat16 = torch.Tensor.clone
    try:
        yield
    finally:
        torch.Tensor.bfloat16 = before


def make(sample: OptimizerSample, weights: Any, lr: Any, module: Any = optim) -> Any:
    """Return an optimizer of two groups."""
    first = {"params": weights[:2], **sample.decay(0.1)}
    second = {"params": weights[2:], "lr": 0.005}
    return getattr(module, sample.name)([first, second], lr=lr, **sample.settings)


def gradient(w: NDArray, noise: NDArray) -> NDArray:
    """Return the gradient of a quadratic, with noise: a weight that went astray would show."""
    return np.asarray(0.5 * w + noise, w.dtype)


def _noise(step: int, dtype: str, shapes: Shapes) -> list[NDArray]:
    rng = np.random.default_rng(step + 1)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]
