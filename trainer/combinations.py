"""Which options of distributed training go together; `docs/exchange.md` has the same as a table."""

from __future__ import annotations

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
CLASHES = (
    Clash("local_steps", "shard_optimizer", EVERY_STEP),
    Clash("local_steps", "sync_batch_norm", EVERY_STEP),
    Clash("local_steps", "compress", EVERY_STEP),
    Clash("local_steps", "verify_every", EVERY_STEP),
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
IDLE = {"hierarchical": ("off", "auto")}  # values that ask for nothing, where not the default alone


def check(config: TrainConfig) -> None:
    """UserError for an option that cannot be followed, or has no effect, beside the others."""
    for name, other, reason in CLASHES:
        if asks(config, name) and asks(config, other):
            _refuse(config, name, f"with {_said(config, other)}, which {reason}")
    for name, other in NEEDED.items():
        if asks(config, name) and not asks(config, other):
            _refuse(config, name, f"without {flag(other)}")


def obstacle(config: TrainConfig, name: str) -> str:
    """Return the option that rules out another one, and why, "" where there is none."""
    clashes = (c for c in CLASHES if c.name == name and asks(config, c.other))
    return next((f"{_said(config, c.other)} {c.reason}" for c in clashes), "")


def asks(config: TrainConfig, name: str) -> bool:
    """Tell whether an option asks for more than its default does."""
    return getattr(config, name) not in _idle(name)


def _idle(name: str) -> tuple[object, ...]:
    return IDLE.get(name, (getattr(TrainConfig, name),))


def _said(config: TrainConfig, name: str) -> str:
    value = getattr(config, name)
    return flag(name) if isinstance(value, bool) else f"{flag(name)} {value}"


def _refuse(config: TrainConfig, name: str, why: str) -> None:
    idle = " or ".join(map(str, _idle(name)))
    raise UserError(f"{flag(name)}: expected {idle} {why}, got {getattr(config, name)}")
