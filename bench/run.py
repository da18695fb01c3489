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
from .options import Options
from .ours import Ours, choose_backend, first_line
from .profile import profile


class Bench:
    """Measures what the options select. `notes` says what was left out, and why.

    `core` is the one that the process is pinned to, None if it is not pinned.
    """

    def __init__(self, options: Options, core: int | None) -> None:
        self.options, self.core = options, core
        self.notes: list[str] = []
        self.failed: dict[str, list[str]] = {}
        self.profiles: list[str] = []
        self.backend = choose_backend(options.backend, self.notes)
        self.torch: Any = self._load_torch() if options.torch_modes else None
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
        for reason, where in self.failed.items():
            self.notes.append(f"torch's compile is left out for {', '.join(where)}: {reason}")
        host = machine.describe(self.core, self.backend, peak, self.notes)
        return host, [row for result in results for row in report.rows(result, peak)]

    def measure(self, case: Case, mode: str) -> report.Result:
        """Measure Tallygrad and the modes of torch in turn; profile Tallygrad if asked to."""
        print(f"{case.name} {mode}", file=sys.stderr, flush=True)
        gc.collect()
        ours = Ours(case, mode, self.backend)
        contenders = [Contender(report.OURS, ours.step), *self.theirs(case, mode)]
        times = interleave(contenders, self.options.rounds, self.options.seconds)
        result = report.Result(case, mode, times, ours.count().total().macs)
        if self.options.profile:
            self.profiles.append(report.profile_table(result, profile(ours)))
        return result

    def theirs(self, case: Case, mode: str) -> list[Contender]:
        """Return torch in the selected modes, without "compile" if that fails."""
        contenders: list[Contender] = []
        for kind in self.options.torch_modes if self.torch else ():
            try:
                contender: Contender = self.torch.build(case, mode, kind)
                contender.step()
            except Exception as error:
                if kind != "compile":
                    raise
                self.failed.setdefault(first_line(error), []).append(f"{case.name} {mode}")
            else:
                contenders.append(contender)
        return contenders


def run(options: Options, core: int | None, out: TextIO) -> None:
    """Measure, print the results and write `--json`. UsageError for an unusable backend."""
    bench = Bench(options, core)
    host, rows = bench.run()
    print(report.table(rows, host), file=out)
    for text in bench.profiles:
        print(f"\n{text}", file=out)
    if file := options.output():
        file.write(json.dumps({"host": host, "rows": rows}, indent=1) + "\n")
