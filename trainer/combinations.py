"""Which options of distributed training go together; `docs/exchange.md` has the same as a table."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace
from typing import NamedTuple

from .config import TrainConfig, flag
from .errors import UserError


class Clash(NamedTuple):
    """An option that must keep its default with another one, which does what `reason` says."""

    name: str
    other: str
    reason: str


EVERY_STEP = "needs an exchange in every step"
WEIGHTS = "exchanges weights instead of gradients"
ALONE = "trains weights of each worker, and has an average of its own"
CLASHES = (
    Clash("local_steps", "shard_optimizer", EVERY_STEP),
    Clash("local_steps", "sync_batch_norm", EVERY_STEP),
    Clash("local_steps", "compress", EVERY_STEP),
    Clash("local_steps", "verify_every", EVERY_STEP),
    Clash("ema", "local_steps", ALONE),
    Clash("lookahead", "local_steps", ALONE),
    Clash("bucket_mb", "local_steps", WEIGHTS),
    Clash("overlap", "local_steps", WEIGHTS),
    Clash("hierarchical", "local_steps", WEIGHTS),
    Clash("hierarchical", "compress", "exchanges less than sums"),
    Clash("hierarchical", "shard_optimizer", "exchanges pieces"),
    Clash("verify_every", "compress", "makes sums depend on the steps before"),
    Clash("verify_every", "sync_batch_norm", "lets no rank repeat its micro-batches alone"),
)
# Options without effect unless another one is given.
NEEDED = {"outer_lr": "local_steps", "outer_momentum": "local_steps",
          "on_corruption": "verify_every"}  # fmt: skip
EXCHANGE = {"bucket_mb", "overlap", "hierarchical"}  # say how gradients are exchanged, if they are
IDLE = {"hierarchical": ("off", "auto")}  # values that ask for nothing, where not the default alone


def check(config: TrainConfig) -> None:
    """UserError for an option that cannot be followed, or has no effect, beside the others."""
    for clash in CLASHES:
        if _clash(config, clash):
            _refuse(config, clash.name, f"with {_said(config, clash.other)}, which {clash.reason}")
    for name, other in NEEDED.items():
        if asks(config, name) and not asks(config, other):
            _refuse(config, name, f"without {flag(other)}")


def inherit(config: TrainConfig, chosen: Container[str]) -> TrainConfig:
    """Return the options of a run that goes on, with the defaults of those that it was not given
    now and that no longer have an effect beside those `chosen`."""
    idle = {name for name, other in NEEDED.items() if not asks(config, other)}
    idle |= {c.name for c in CLASHES if c.name in EXCHANGE and _clash(config, c)}
    defaults = {name: getattr(TrainConfig, name) for name in idle if name not in chosen}
    return replace(config, **defaults)


def obstacle(config: TrainConfig, name: str) -> str:
    """Return the option that rules out another one, and why, "" where there is none."""
    clashes = (c for c in CLASHES if c.name == name and asks(config, c.other))
    return next((f"{_said(config, c.other)} {c.reason}" for c in clashes), "")


def asks(config: TrainConfig, name: str) -> bool:
    """Tell whether an option asks for more than its default does."""
    return getattr(config, name) not in _idle(name)


def _clash(config: TrainConfig, clash: Clash) -> bool:
    return asks(config, clash.name) and asks(config, clash.other)


def _idle(name: str) -> tuple[object, ...]:
    return IDLE.get(name, (getattr(TrainConfig, name),))


def _said(config: TrainConfig, name: str) -> str:
    value = getattr(config, name)
    return flag(name) if isinstance(value, bool) else f"{flag(name)} {value}"


def _refuse(config: TrainConfig, name: str, why: str) -> None:
    idle = " or ".join(map(str, _idle(name)))
    raise UserError(f"{flag(name)}: expected {idle} {why}, got {getattr(config, name)}")
