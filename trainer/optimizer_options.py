"""Options of a training that say how weights are updated."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from .values import (
    parse_adjust_lr_fn,
    parse_betas,
    parse_etas,
    parse_lookahead,
    parse_milestones,
    parse_step_sizes,
)

# Defaults that are not the classes'.
# Muon's steps are scaled such that one rate fits matrices and other parameters.
DEFAULTS: dict[str, dict[str, Any]] = {
    "sgd": {"lr": 0.02, "momentum": 0.9, "weight_decay": 5e-4},
    "muon": {"adjust_lr_fn": "match_rms_adamw"},
}
LR = 0.02
SCHEDULES = (
    "constant", "step", "cosine", "one-cycle", "exponential", "polynomial", "triangle", "plateau",
)  # fmt: skip
# Options of schedules, and which have them.
OF_SCHEDULES = {
    "milestones": ("step",), "gamma": ("step", "exponential"), "power": ("polynomial",),
    "plateau_factor": ("plateau",), "plateau_patience": ("plateau",),
    "plateau_metric": ("plateau",), "plateau_threshold": ("plateau",),
    "plateau_cooldown": ("plateau",), "plateau_min_lr": ("plateau",),
}  # fmt: skip


def option(default: Any, text: str, **limits: Any) -> Any:
    """Return a field: its default, its text for `--help`, and the limits of its values."""
    return field(default=default, metadata={"help": text, **limits})


def _setting(text: str, kind: type = float, **limits: Any) -> Any:
    """Return the field of an optimizer's setting, which has a value where the optimizer has it."""
    return option(None, text, kind=kind, **limits)


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """The optimizer, its settings, what is done to gradients, and learning rates. A setting that is
    not given has the optimizer's default, and is None where the optimizer lacks it."""

    optimizer: str = option(
        "sgd",
        "sgd, adam, adamw, nadam, radam, adamax, rmsprop, adagrad, adadelta, asgd, rprop, lars, "
        "lamb or muon",
    )
    lr: float = _setting(
        "peak learning rate (default: 0.02 of sgd, 0.01 of rmsprop, adagrad, asgd and rprop, 1 of "
        "lars and adadelta, 0.002 of nadam and adamax, 0.001 of others)",
        low=0.0,
    )
    momentum: float | None = _setting(
        "momentum of sgd and lars (default: 0.9), muon (0.95) and rmsprop (0)", low=0.0, high=1.0
    )
    nesterov: bool = option(False, "use Nesterov momentum in sgd; muon always does")
    weight_decay: float | None = _setting(
        "weight decay (default: 5e-4 of sgd, 0.01 of adamw and lamb, 1e-4 of lars, 0.1 of muon, "
        "otherwise 0)",
        low=0.0,
    )
    betas: str | None = _setting(
        "what averages of gradients and of their squares keep in a step (default: 0.9,0.999; "
        "0.9,0.95 of muon)",
        kind=str,
        metavar="X,X",
        parse=parse_betas,
        such="two numbers in [0, 1), such as 0.9,0.999",
    )
    eps: float | None = _setting("what is added to the roots of averages", low=0.0)
    amsgrad: bool = option(False, "divide by the largest average of squares so far")
    alpha: float | None = _setting(
        "what rmsprop's average of squares keeps in a step (default: 0.99); power of the fall of "
        "asgd's rate (0.75)",
        low=0.0,
        high=1.0,
    )
    rho: float | None = _setting(
        "what adadelta's averages keep in a step (default: 0.9)", low=0.0, high=1.0
    )
    decoupled_weight_decay: bool = option(
        False, "let weight decay change the weights, as in adamw, in adam, nadam and radam"
    )
    momentum_decay: float | None = _setting(
        "how fast nadam's momentum rises (default: 0.004)", low=0.0
    )
    lambd: float | None = _setting("decay of asgd's weights and rate (default: 0.0001)", low=0.0)
    t0: float | None = _setting(
        "steps after which asgd begins to average (default: 1000000)", low=0.0
    )
    etas: str | None = _setting(
        "what rprop multiplies step sizes by where a gradient turns, and where it does not "
        "(default: 0.5,1.2)",
        kind=str,
        metavar="X,X",
        parse=parse_etas,
        such="numbers below and above 1, such as 0.5,1.2",
    )
    step_sizes: str | None = _setting(
        "smallest and largest step size of rprop (default: 1e-06,50)",
        kind=str,
        metavar="X,X",
        parse=parse_step_sizes,
        such="two numbers of at least 0, the smaller one first, such as 1e-6,50",
    )
    centered: bool = option(False, "divide by the variance of gradients in rmsprop")
    lr_decay: float | None = _setting(
        "decay of adagrad's rate with its steps (default: 0)", low=0.0
    )
    initial_accumulator_value: float | None = _setting(
        "what adagrad's sums begin with (default: 0)", low=0.0
    )
    trust_coefficient: float | None = _setting(
        "step of lars as a share of a parameter's norm (default: 0.001)", low=0.0
    )
    ns_steps: int | None = _setting(
        "iterations in which muon makes steps orthogonal (default: 5)", kind=int, low=0, high=100
    )
    adjust_lr_fn: str | None = _setting(
        "scale of muon's steps: match_rms_adamw (default), so that the rates of adamw fit, or "
        "original",
        kind=str,
        parse=parse_adjust_lr_fn,
        such="original or match_rms_adamw",
    )
    decay_norm_bias: bool = option(
        True, "let weight decay change biases and the parameters of norms, too"
    )
    norm_lr: float = option(
        1.0, "learning rate of the parameters of norms, as a multiple of the others'", low=0.0
    )
    clip_norm: float = option(
        0.0, "largest norm of the gradient, which is scaled down to it; 0: any", low=0.0
    )
    clip_value: float = option(
        0.0, "largest absolute value of an element of the gradient; 0: any", low=0.0
    )
    ema: float = option(
        0.0,
        "decay of a moving average of the weights, which evaluations use; 0: none",
        low=0.0,
        high=0.999999,
    )
    lookahead: str = option(
        "off",
        "every K steps move slow weights by ALPHA towards the others, and go on from them; with "
        "POWER, by a share that falls from 1 to ALPHA in the training as that power of the steps",
        metavar="K,ALPHA[,POWER]",
        parse=parse_lookahead,
        such="off, or steps, a share and perhaps a power, such as 5,0.5 or 5,0.2,3",
    )
    schedule: str = option("cosine", "learning rate schedule over all epochs")
    milestones: str | None = _setting(
        "epochs after which the schedule step multiplies by --gamma, such as 30,60 (default: half "
        "and three quarters of all)",
        kind=str,
        metavar="N,...",
        parse=parse_milestones,
        such="rising numbers of epochs, such as 30,60",
    )
    gamma: float | None = _setting(
        "factor of the schedules step (default: 0.1) and, in each epoch, exponential (0.95)",
        low=1e-9,
        high=1.0,
    )
    power: float | None = _setting("of the schedule polynomial (default: 1)", low=0.0)
    plateau_factor: float | None = _setting(
        "factor of the schedule plateau (default: 0.1)", low=0.0, high=1.0
    )
    plateau_patience: int | None = _setting(
        "consecutive evaluations without a better value that the schedule plateau allows before "
        "it multiplies by its factor (default: 10)",
        kind=int,
        low=0,
    )
    plateau_metric: str | None = _setting(
        "what the schedule plateau watches on the validation set: loss (default), or the task's "
        "metric, such as accuracy or mae",
        kind=str,
    )
    plateau_threshold: float | None = _setting(
        "share of the best value by which another must be better for the schedule plateau "
        "(default: 0.0001)",
        low=0.0,
    )
    plateau_cooldown: int | None = _setting(
        "evaluations after a fall that the schedule plateau does not count (default: 0)",
        kind=int,
        low=0,
    )
    plateau_min_lr: float | None = _setting(
        "learning rate below which the schedule plateau does not go (default: 0)", low=0.0
    )
    warmup_steps: int = option(0, "steps of linear warm-up from zero", low=0)

    def __post_init__(self) -> None:
        from ..autograd import optim  # here, as it loads NumPy

        known = self.optimizer in optim.names()
        own = optim.defaults(self.optimizer) if known else {}
        own = {"lr": LR, **own, **DEFAULTS.get(self.optimizer, {})}
        for item in fields(OptimizerOptions):
            given = getattr(self, item.name)
            if (given is None or given is False) and own.get(item.name, False) is not False:
                value = own[item.name]
                text = ",".join(map(str, value)) if isinstance(value, tuple) else value
                object.__setattr__(self, item.name, text)

    def settings(self) -> dict[str, Any]:
        """Return the options that are settings of optimizers, and have a value, in the optimizers'
        form."""
        found = {}
        for item in fields(OptimizerOptions):
            value = getattr(self, item.name)
            if value is not None and value is not False:
                parse = item.metadata.get("parse", lambda value: value)
                found[item.name] = parse(value)
        return found

    def averages(self, steps: int) -> list[Any]:
        """Return the averages of the weights that the options ask for, in a training of `steps`."""
        from ..autograd.optim import EMA, Falling, Lookahead

        found: list[Any] = []
        lookahead = parse_lookahead(self.lookahead)
        if lookahead:
            k, alpha, power = lookahead
            found.append(Lookahead(k, Falling(alpha, steps, power) if power else alpha))
        return [*found, EMA(self.ema)] if self.ema else found
