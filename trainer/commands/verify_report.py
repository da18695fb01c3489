"""What `tallygrad verify` reports: a table of trainings, and what the fixed order costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..calibration.outcome import Outcome, Trial
from ..cost.report import Column, fit, text_table

SHORT = 12  # characters of a digest in the table
COLUMNS = (
    Column("ranks"), Column("threads"), Column("micro-batches", 2), Column("sums", 3, is_text=True),
    Column("ms per step"), Column("digest", 1, is_text=True), Column("result", is_text=True),
)  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """A trial beside the first one: `difference` names what differs first, "" for nothing."""

    trial: Trial
    outcome: Outcome
    difference: str

    def cells(self, result: str = "") -> tuple[str, ...]:
        """Return a row of the table."""
        trial = self.trial
        return (
            str(trial.ranks), str(trial.threads), str(trial.micro_batches), self._sums,
            f"{1e3 * self.outcome.seconds:.2f}", self.outcome.digest[:SHORT],
            result or ("differs" if self.difference else "same"),
        )  # fmt: skip

    @property
    def _sums(self) -> str:
        if self.trial.sums == "mpi":
            return "MPI's order"
        if self.outcome.shares:
            return "in memory"
        return "messages" if self.trial.ranks > 1 else "one rank"

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            **asdict(self.trial), "seconds_per_step": self.outcome.seconds,
            "shared_memory": self.outcome.shares,
            "digest": self.outcome.digest, "difference": self.difference or None,
            "library": self.outcome.library, "backend": self.outcome.backend,
        }  # fmt: skip


@dataclass(frozen=True)
class VerifyReport:
    """What was compared: `trials`, all of which must be the same, the first being the reference;
    the `control`, which must differ; and a training with the MPI library's own order of sums
    (`mpi`), if there is one with a choice, which may do either. `note` says what is missing."""

    trials: Sequence[Comparison]
    control: Comparison
    mpi: Comparison | None
    note: str = ""

    @property
    def is_sound(self) -> bool:
        """Whether all is as it must be."""
        return not any(each.difference for each in self.trials) and bool(self.control.difference)

    def fixed_seconds(self, shares: bool) -> float | None:
        """Seconds per step with the fixed order, in shared memory or by messages, on the ranks and
        threads of `mpi`; None where no such training was done."""
        if self.mpi is None:
            return None
        like = {replace(self.mpi.trial, sums=sums) for sums in ("auto", "messages")}
        twins = [t.outcome for t in self.trials if t.trial in like and t.outcome.shares == shares]
        return twins[0].seconds if twins else None

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "same_bits": self.is_sound,
            "trials": [each.to_json() for each in self.trials],
            "control": self.control.to_json(),
            "mpi_order": self.mpi.to_json() if self.mpi else None,
            "fixed_order_seconds_per_step": self.fixed_seconds(shares=False),
            "shared_memory_seconds_per_step": self.fixed_seconds(shares=True),
            "note": self.note or None,
        }

    def as_text(self) -> str:
        """Return the table, what differs, and what the fixed order costs."""
        first = self.trials[0]
        trial, outcome = first.trial, first.outcome
        library = next((t.outcome.library for t in self.trials if t.trial.ranks > 1), "no MPI")
        head = (
            f"{trial.model} on {trial.dataset}: {trial.steps} steps of {trial.batch_size} images, "
            f"{outcome.backend.partition(':')[0]}, {trial.precision}, {library.partition(',')[0]}"
        )
        rows = [first.cells("reference"), *[each.cells() for each in self.trials[1:]]]
        rows += [self.mpi.cells()] if self.mpi else []
        rows.append(self.control.cells("" if self.control.difference else "same, must differ"))
        return "\n".join([fit(head), *text_table(COLUMNS, rows), *map(fit, self._lines())])

    def _lines(self) -> list[str]:
        first = self.trials[0]
        lines = [self.note] if self.note else []
        for each in self.trials:
            if each.difference:
                title = first.trial.title
                lines.append(f"{each.trial.title} differs from {title} in {each.difference}")
        if not any(each.difference for each in self.trials):
            count = len(first.outcome.tensors)
            lines.append(
                f"same bits: the losses of all steps and {count} tensors of weights, statistics "
                f"and optimizer, in {len(self.trials)} trainings"
            )
        parts = f"control: {self.control.trial.micro_batches} micro-batches"
        difference = self.control.difference
        lines.append(f"{parts} differ in {difference}" if difference else
                     f"{parts} should differ, and do not: too few --steps?")  # fmt: skip
        return [*lines, self._cost()]

    def _cost(self) -> str:
        """Say what the fixed order costs."""
        fixed, shared = self.fixed_seconds(shares=False), self.fixed_seconds(shares=True)
        if self.mpi is None or fixed is None:
            return "the fixed order costs nothing up to 2 ranks, where MPI has no other order"
        own, where = self.mpi.outcome.seconds, replace(self.mpi.trial, sums="auto").title
        faster = f", in shared memory {1e3 * shared:.2f} ms" if shared is not None else ""
        return (
            f"the fixed order on {where} takes {1e3 * fixed:.2f} ms per step by messages{faster}, "
            f"MPI's own by messages {1e3 * own:.2f} ms; other work on the host affects all"
        )
