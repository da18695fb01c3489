"""A run: all cases in turn, then the table. Import only after `machine.settle`."""

from __future__ import annotations

import gc
import json
import sys
from importlib import import_module
from typing import Any, TextIO

import numpy as np

from . import machine, report
from .cases import Case
from .measure import Contender, interleave, sgemm_peak
from .options import Options, UsageError
from .ours import Ours, choose_backend, first_line
from .profile import profile


class Bench:
    """Measures what the options select. `notes` says what was left out, and why.

    `core` is the one that the process is pinned to, None if it is not pinned.
    """

    def __init__(self, options: Options, core: int | None) -> None:
        self.options, self.core = options, core
        self.notes: list[str] = []
        self.failed: dict[tuple[str, str], list[str]] = {}  # cases by contender and reason
        self.profiles: list[str] = []
        self.backend = choose_backend(options.backend, self.notes)
        self.torch: Any = self._load_torch() if options.kinds() else None
        if core is None:
            self.notes.append(
                "this system cannot pin processes: the core may change while measuring"
            )

    def _load_torch(self) -> Any:
        try:
            import_module("torch")
        except (ImportError, OSError) as error:
            self.notes.append(
                f"only Tallygrad is measured, torch does not load: {first_line(error)}"
            )
            return None
        return import_module(".theirs", __package__)

    def run(self) -> tuple[dict[str, Any], list[report.Row]]:
        """Measure everything, and return the description of the host and the rows."""
        peak = sgemm_peak()
        # A model that trains on noise may overflow, which does not affect the times.
        with np.errstate(all="ignore"):
            results = [self.measure(case, mode) for case, mode in self.options.work()]
        # And again at the end: a core that was busy the first time shows too low a peak.
        peak = max(peak, sgemm_peak())
        for (name, reason), where in self.failed.items():
            self.notes.append(f"{name} is left out for {', '.join(where)}: {reason}")
        host = machine.describe(self.core, self.backend, peak, self.notes)
        return host, [row for result in results for row in report.rows(result, peak)]

    def measure(self, case: Case, mode: str) -> report.Result:
        """Measure Tallygrad and the modes of torch in turn; profile Tallygrad if asked to."""
        where = f"{case.name} {mode}"
        print(where, file=sys.stderr, flush=True)
        gc.collect()
        ours = self.ours(case, mode)
        contenders = [Contender(report.ours(dtype), each.step) for dtype, each in ours.items()]
        contenders += self.theirs(case, mode)
        if not contenders:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in self.failed)
            raise UsageError(f"{where}: expected something to measure, got none ({reasons})")
        times = interleave(contenders, self.options.rounds, self.options.seconds)
        macs = {dtype: each.count().total().macs for dtype, each in ours.items()}
        if self.options.profile:
            parts = [(f"{where} {dtype}", profile(each)) for dtype, each in ours.items()]
            self.profiles += [report.profile_table(*part) for part in parts]
        return report.Result(case, mode, times, macs)

    def ours(self, case: Case, mode: str) -> dict[str, Ours]:
        """Return Tallygrad in the selected types, without those that are not to be had."""
        models = {}
        for dtype in self.options.dtypes:
            try:
                models[dtype] = Ours(case, mode, self.backend, dtype)
                models[dtype].step()
            except ImportError as error:
                self.leave_out(f"Tallygrad in {dtype}", f"{case.name} {mode}", error)
        return models

    def theirs(self, case: Case, mode: str) -> list[Contender]:
        """Return torch in the selected modes, without those that fail."""
        contenders: list[Contender] = []
        if not self.torch:
            return contenders
        self.torch.forget()
        for kind in self.options.kinds():
            try:
                contender: Contender = self.torch.build(case, mode, kind)
                contender.step()
            except Exception as error:
                if kind in ("nchw", "channels-last"):
                    raise
                self.leave_out(f"torch's {kind}", f"{case.name} {mode}", error)
            else:
                contenders.append(contender)
        return contenders

    def leave_out(self, name: str, where: str, error: Exception) -> None:
        """Note that a contender is not measured in a case and mode, and why."""
        self.failed.setdefault((name, first_line(error)), []).append(where)


def run(options: Options, core: int | None, out: TextIO) -> None:
    """Measure, print the results and write `--json`. UsageError for an unusable backend."""
    bench = Bench(options, core)
    host, rows = bench.run()
    print(report.table(rows, host), file=out)
    for text in bench.profiles:
        print(f"\n{text}", file=out)
    if file := options.output():
        file.write(json.dumps({"host": host, "rows": rows}, indent=1) + "\n")
