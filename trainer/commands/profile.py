"""`tallygrad profile`: where the time of a step goes on this machine, by layer and pass, beside
what its arithmetic and its memory allow (Williams, Waterman and Patterson 2009)."""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from math import prod
from statistics import median
from threading import get_ident
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from ...autograd import Ledger, backends, context, cross_entropy, from_numpy, models, nn, no_grad
from ...autograd.array import NDArray
from ...autograd.capture.observer import Dispatched, Observer
from ...autograd.deferred import recorders
from ...autograd.ledger import Cost
from ...autograd.optim import SGD
from ..calibration.roofs import calibrate, joules
from ..config import integer
from ..cost.phases import SHORT, WHOLE
from ..cost.report.page import page_file
from ..cost.report.pages import of_profile
from ..cost.report.text_table import Column, fit, name_column, text_table
from ..cost.roofline import Roofs
from ..cost.workload import Work, count
from ..errors import UserError, show
from ..memory import check_memory
from ..progress import compiling
from . import flags

LESS_MEMORY = "take a smaller --batch"

Key = tuple[str, str]  # scope and phase


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the model, what to measure, and how to print it."""
    flags.add_model(parser, batch=1)
    parser.add_argument("--training", action="store_true", help="a step of training, not inference")
    parser.add_argument("--steps", type=integer, default=5, help="steps to measure")
    parser.add_argument("--backend", default="", help="default: llvm:eager, else numpy")
    flags.add_json(parser)
    flags.add_page(parser)


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
        if call.primitive.name in ("conv2d", "linear"):
            self.kinds[scope] = "conv" if call.primitive.name == "conv2d" else "fc"


class Measured(NamedTuple):
    """A layer in a phase: the median seconds of a step, and what it costs."""

    scope: str
    phase: str
    kind: str
    seconds: float
    cost: Cost


def measure(
    name: str, batch: int, shape: tuple[int, int, int], classes: int, training: bool,
    backend: str, steps: int,
) -> tuple[list[Measured], float | None]:  # fmt: skip
    """Run some steps, each kernel by itself, and return what they took, and the joules of one, None
    where they are not known. ValueError for an unknown model and what it cannot take."""
    with context.using(backend="numpy"):
        step = _step(name, batch, shape, classes, training)
    runs: list[Mapping[Key, float]] = []
    with context.using(backend=backend, ledger=Ledger()), np.errstate(all="ignore"):
        with compiling():
            step()
        before = joules()
        for _ in range(steps):
            clock, books = _timed(step)
            runs.append(clock.seconds)
        after = joules()
    energy = None if before is None or after is None else (after - before) / steps
    costs: dict[Key, Cost] = {}
    for row in books.rows():
        key = row.key.scope, row.key.phase
        costs[key] = costs.get(key, Cost()).plus(row.cost)
    rows = [
        Measured(*key, clock.kinds.get(key[0], "other"), median(r[key] for r in runs), costs[key])
        for key in clock.seconds
    ]
    return rows, energy


def _timed(step: Callable[[], None]) -> tuple[Clock, Ledger]:
    books = Ledger()
    clock = Clock(books)
    recorders[get_ident()] = clock
    try:
        with context.using(ledger=books, observer=clock):
            step()
    finally:
        del recorders[get_ident()]
    return clock, books


def _step(
    name: str, batch: int, shape: tuple[int, int, int], classes: int, training: bool
) -> Callable[[], None]:
    draw = np.random.default_rng(0)
    c, h, w = shape
    images = draw.standard_normal((batch, h, w, c), dtype=np.float32).transpose(0, 3, 1, 2)
    x, labels = from_numpy(images), from_numpy(draw.integers(0, classes, batch))
    model: nn.Module = models.create(name, input_shape=shape, classes=classes)
    if not training:
        model.eval()

        def infer() -> None:
            with no_grad():
                model(x)

        return infer
    sgd = SGD(model.parameters(), 1e-3, momentum=0.9, weight_decay=1e-4)

    def train() -> None:
        cross_entropy(model(x), labels).backward()
        sgd.step()
        sgd.zero_grad()

    return train


def _backend() -> str:
    """Return the backend that runs each call by itself and fast, if it loads."""
    try:
        backends.get("llvm:eager")
    except (ImportError, ValueError):
        return "numpy"
    return "llvm:eager"


def describe(
    rows: Sequence[Measured], roofs: Roofs, energy: float | None
) -> dict[str, Any]:
    """Return what `tallygrad profile --json` prints; `energy` are joules of a step, None where they
    are not known."""
    total = sum(row.seconds for row in rows)
    phases = [*dict.fromkeys(row.phase for row in rows)]
    return {
        "roofs": {"gflops": roofs.gflops, "gbytes_per_second": roofs.gbytes},
        "seconds": total,
        "energy_joules": "not available" if energy is None or energy < 0 else energy,
        "conv_share": {phase: _share([r for r in rows if r.phase == phase]) for phase in phases},
        "layers": [_entry(row, roofs, total) for row in rows],
    }


def _share(rows: Sequence[Measured]) -> dict[str, float]:
    """Return which share convolutions have in the MACs and in the time of some rows."""
    conv = [row for row in rows if row.kind == "conv"]
    macs, seconds = sum(r.cost.macs for r in rows), sum(r.seconds for r in rows)
    return {
        "macs": sum(r.cost.macs for r in conv) / macs if macs else 0.0,
        "seconds": sum(r.seconds for r in conv) / seconds if seconds else 0.0,
    }


def _entry(row: Measured, roofs: Roofs, total: float) -> dict[str, Any]:
    moved = row.cost.bytes_read + row.cost.bytes_written
    bound, roof = roofs.seconds(row.cost)
    return {
        "layer": row.scope,
        "pass": row.phase,
        "kind": row.kind,
        "seconds": row.seconds,
        "share": row.seconds / total if total else 0.0,
        "macs": row.cost.macs,
        "executed": row.cost.executed,
        "bytes": moved,
        "gflops": 2e-9 * row.cost.macs / row.seconds if row.seconds else 0.0,
        "flops_per_byte": 2 * row.cost.macs / moved if moved else 0.0,
        "bound_seconds": bound,
        "roof": roof,
    }


COLUMNS = (
    name_column("layer"), Column("pass", is_text=True), Column("ms"), Column("share", 4),
    Column("GFLOP/s", 1), Column("FLOP/byte", 5), Column("bound ms", 2),
    Column("roof", 3, is_text=True),
)  # fmt: skip
LEAST = 1e-3  # of the time, of a layer with a row of its own


def as_text(described: dict[str, Any]) -> str:
    """Return a table of the layers that take a thousandth of the time at least, the others and the
    sums, and what they mean."""
    entries = described["layers"]
    shown = [e for e in entries if e["share"] >= LEAST]
    rows = [
        (e["layer"] or WHOLE, SHORT.get(e["pass"], e["pass"]), *_figures([e]), _roof(e))
        for e in shown
    ]
    if rest := [e for e in entries if e["share"] < LEAST]:
        rows.append((f"{len(rest)} under 0.1%", "", *_figures(rest), ""))
    table = text_table(COLUMNS, rows, ("all", "", *_figures(entries), ""))
    roofs = described["roofs"]
    lines = [
        *_quick(described),
        f"kernels take {1e3 * described['seconds']:.2f} ms; this machine does at most "
        f"{roofs['gflops']:.0f} GFLOP/s and {roofs['gbytes_per_second']:.1f} GB/s in one thread",
        f"energy of a step, in joules: {described['energy_joules']}",
    ]
    for phase, share in described["conv_share"].items():
        if share["macs"]:
            lines.append(
                f"{phase}: convolutions are {100 * share['macs']:.1f}% of the MACs, "
                f"{100 * share['seconds']:.1f}% of the time"
            )
    return "\n".join([*table, "", *map(fit, lines)])


def _figures(entries: Sequence[dict[str, Any]]) -> list[str]:
    """Return the numbers of some rows together; without MACs there are no FLOP."""
    seconds, bound, share, macs, moved = (
        sum(e[key] for e in entries)
        for key in ("seconds", "bound_seconds", "share", "macs", "bytes")
    )
    return [
        f"{1e3 * seconds:.3f}", f"{100 * share:.1f}%",
        f"{2e-9 * macs / seconds:.1f}" if macs and seconds else "-",
        f"{2 * macs / moved:.1f}" if macs and moved else "-", f"{1e3 * bound:.3f}",
    ]  # fmt: skip


def _roof(entry: dict[str, Any]) -> str:
    """Return the roof that binds, with a mark where the row is above it."""
    return f"{entry['roof']}{'*' * _is_quick(entry)}"


def _is_quick(entry: dict[str, Any]) -> bool:
    return bool(entry["seconds"] < entry["bound_seconds"])


def _quick(described: dict[str, Any]) -> list[str]:
    """Return what explains rows that take less than their bounds, if there are any."""
    quick = [e for e in described["layers"] if _is_quick(e) and e["share"] >= LEAST]
    reasons = []
    if any(e["roof"] == "memory" for e in quick):
        reasons.append("operands that are still in a cache need not come from memory")
    done = sum(e["macs"] for e in quick if e["executed"] < e["macs"])
    executed = sum(e["executed"] for e in quick if e["executed"] < e["macs"])
    if done:
        reasons.append(
            f"Winograd's method executes {100 * executed / done:.0f}% of the multiplications that "
            "GFLOP/s count, two FLOP a MAC"
        )
    if any(e["roof"] == "compute" and e["executed"] >= e["macs"] for e in quick):
        reasons.append("a matrix product, which gives the roof, ran slower than this layer")
    return [f"* faster than its bound: {'; '.join(reasons)}"] if quick else []


def _check_room(work: Work) -> None:
    """UserError where a step's numbers, of four bytes each, do not fit into the memory."""
    copies = 3 if work.phase("update").mul else 1  # of weights: gradients and momentum
    numbers = work.batch * prod(work.input) + copies * work.parameters
    what = "images, weights and the results that are alive at once"
    check_memory("--batch", 4 * numbers + work.peak, what, work.batch)


def run(chosen: Mapping[str, Any]) -> int:
    """Print where the time goes. UserError for options that do not fit."""
    from .cost import given

    if chosen["steps"] < 1:
        raise UserError(f"--steps: {chosen['steps']} is less than 1")
    shape, classes = given(chosen)
    page = page_file(chosen)
    backend = chosen["backend"] or _backend()
    settings = chosen["training"], backend, chosen["steps"]
    try:
        _check_room(count(chosen["model"], chosen["batch"], shape, classes, chosen["training"]))
        rows, energy = measure(chosen["model"], chosen["batch"], shape, classes, *settings)
    except (ImportError, ValueError) as error:
        raise UserError(str(error)) from error
    described = {
        "model": chosen["model"], "batch": chosen["batch"], "backend": backend,
        **describe(rows, calibrate(), energy),
    }  # fmt: skip
    if page:
        page.write(of_profile(described))
    show(json.dumps(described, indent=1) if chosen["as_json"] else as_text(described))
    return 0
