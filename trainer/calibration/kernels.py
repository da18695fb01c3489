"""Seconds of each kernel of a step on this host, each call by itself."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from threading import get_ident
from time import perf_counter
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ...autograd import Ledger, autocast, backends, context, from_numpy, models, nn, no_grad, optim
from ...autograd.array import NDArray
from ...autograd.capture.observer import Dispatched, Observer
from ...autograd.deferred import recorders
from ...autograd.ledger import Cost
from ..build import mixed
from ..cost.report.model.profile import ConvShare, KernelReport, ProfileReport
from ..cost.roofline import Roofs
from ..cost.workload import KINDS, OTHER
from ..progress import compiling
from .roofs import joules

Key: TypeAlias = tuple[str, str]  # scope and phase


class Clock(Observer):
    """Adds up the seconds that kernels take, and what they cost, by scope and phase: each kernel's
    for the call that is dispatched next, which is the one that ran it."""

    training = True

    def __init__(self, ledger: Ledger) -> None:
        super().__init__((), ledger)
        self.spoiled = False
        self.pending = 0.0
        self.seconds: dict[Key, float] = defaultdict(float)
        self.kinds: dict[str, str] = {}

    def refuse(self, what: str) -> None:
        """Nothing is repeated here."""

    def compute(self, kernel: Callable[..., Any], values: Sequence[NDArray]) -> Any:
        """Call a kernel."""
        begun = perf_counter()
        try:
            return kernel(*values)
        finally:
            self.pending += perf_counter() - begun

    def add(self, call: Dispatched) -> None:
        """File the time since the last call."""
        scope, phase = call.key[:2]
        self.seconds[scope, phase] += self.pending
        self.pending = 0.0
        if call.primitive.name in KINDS:
            self.kinds[scope] = KINDS[call.primitive.name]


class Measured(NamedTuple):
    """A layer in a phase: the median seconds of a step, and what it costs."""

    scope: str
    phase: str
    kind: str
    seconds: float
    cost: Cost


def measure(
    name: str, batch: int, shape: tuple[int, int, int], classes: int, training: bool,
    backend: str, steps: int, optimizer: str = "sgd", precision: str = "float32",
) -> tuple[list[Measured], float | None]:  # fmt: skip
    """Run some steps, each kernel by itself, and return what they took, and the joules of one, None
    where they are not known. The optimizer, by name, has its usual settings. ValueError for an
    unknown model or optimizer and what the model cannot take."""
    with context.using(backend="numpy"):
        step = _step(name, batch, shape, classes, training, optimizer, mixed(precision))
    runs: list[Mapping[Key, float]] = []
    with context.using(backend=backend, ledger=Ledger()), np.errstate(all="ignore"):
        with compiling():
            step()
        before = joules()
        for _ in range(steps):
            clock, ledger = _timed(step)
            runs.append(clock.seconds)
        after = joules()
    energy = None if before is None or after is None else (after - before) / steps
    costs = ledger.sums(lambda key: key.scope_and_phase)
    rows = [
        Measured(*key, clock.kinds.get(key[0], OTHER), median(r[key] for r in runs), costs[key])
        for key in clock.seconds
    ]
    return rows, energy


def _timed(step: Callable[[], None]) -> tuple[Clock, Ledger]:
    ledger = Ledger()
    clock = Clock(ledger)
    recorders[get_ident()] = clock
    try:
        with context.using(ledger=ledger, observer=clock):
            step()
    finally:
        del recorders[get_ident()]
    return clock, ledger


def _step(
    name: str,
    batch: int,
    shape: tuple[int, int, int],
    classes: int,
    training: bool,
    optimizer: str,
    precise: autocast,
) -> Callable[[], None]:
    draw = np.random.default_rng(0)
    c, h, w = shape
    images = draw.standard_normal((batch, h, w, c), dtype=np.float32).transpose(0, 3, 1, 2)
    x, labels = from_numpy(images), from_numpy(draw.integers(0, max(classes, 1), batch))
    model: nn.Module = models.create(name, input_shape=shape, classes=classes)
    if not training:
        nn.keep_narrow_weights(model.eval())

        def infer() -> None:
            with no_grad(), precise:
                model(x)

        return infer
    settings = optim.usual_settings(optimizer)
    update = optim.create(optimizer, model.parameters(), 1e-3, **settings)

    def train() -> None:
        with precise:
            loss = models.training_loss(model, x, labels)
        loss.backward()
        update.step()
        update.zero_grad()

    return train


def default_backend() -> str:
    """Return the backend that runs each call by itself and fast, if it loads."""
    try:
        backends.get("llvm:eager")
    except (ImportError, ValueError):
        return "numpy"
    return "llvm:eager"


def profile_report(
    model: str, batch: int, backend: str, rows: Sequence[Measured], roofs: Roofs,
    energy: float | None, precision: str = "float32",
) -> ProfileReport:  # fmt: skip
    """Return the report of measured kernels beside the roofs of this host; `energy` are joules of a
    step, None where they are not known."""
    total = sum(row.seconds for row in rows)
    phases = [*dict.fromkeys(row.phase for row in rows)]
    return ProfileReport(
        model=model,
        batch=batch,
        backend=backend,
        precision=precision,
        roofs=roofs,
        seconds=total,
        joules=None if energy is None or energy < 0 else energy,
        conv_share={phase: _conv_share([r for r in rows if r.phase == phase]) for phase in phases},
        layers=[_kernel(row, roofs, total) for row in rows],
    )


def _conv_share(rows: Sequence[Measured]) -> ConvShare:
    """Return which share convolutions have in the MACs and in the time of some rows."""
    conv = [row for row in rows if row.kind == "conv"]
    macs, seconds = sum(r.cost.macs for r in rows), sum(r.seconds for r in rows)
    return ConvShare(
        sum(r.cost.macs for r in conv) / macs if macs else 0.0,
        sum(r.seconds for r in conv) / seconds if seconds else 0.0,
    )


def _kernel(row: Measured, roofs: Roofs, total: float) -> KernelReport:
    share = row.seconds / total if total else 0.0
    return KernelReport(
        row.scope, row.phase, row.kind, row.seconds, share, row.cost, *roofs.seconds(row.cost)
    )
