"""The single operations of a step that is not replayed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import get_ident
from typing import Any

from ...autograd import Ledger, context
from ...autograd.array import NDArray
from ...autograd.capture.observer import Dispatched, PassiveObserver
from ...autograd.deferred import recorders
from .events import Recorder


class Operations(PassiveObserver):
    """Records the kernels that run, each under the call that ran it, and the passes that they make
    up. What was deferred and fused appears under the call that it became a part of."""

    def __init__(self, ledger: Ledger, recorder: Recorder) -> None:
        super().__init__(ledger)
        self.spoiled = False
        self._recorder = recorder
        self._kernels: list[tuple[float, float]] = []
        self._pass: tuple[str, float, float] | None = None

    def compute(self, kernel: Callable[..., Any], values: Sequence[NDArray]) -> Any:
        """Call a kernel."""
        begin = time.monotonic()
        try:
            return kernel(*values)
        finally:
            self._kernels.append((begin, time.monotonic()))

    def add(self, call: Dispatched) -> None:
        """Record the kernels since the last call."""
        scope, phase, primitive, backend, _ = call.key
        for begin, end in self._kernels:
            args = {"phase": phase, "backend": backend}
            self._recorder.add(f"{scope}: {primitive}", "operation", begin, end, args)
            self._extend(phase, begin, end)
        self._kernels.clear()

    def _extend(self, phase: str, begin: float, end: float) -> None:
        name = phase.partition("_")[0]  # backward_data and backward_weights are one pass
        name = name if name in ("forward", "backward") else ""
        if self._pass is not None and self._pass[0] == name:
            self._pass = name, self._pass[1], end
            return
        self.end_pass()
        self._pass = (name, begin, end) if name else None

    def end_pass(self) -> None:
        """Record the pass that has ended."""
        if self._pass is not None:
            name, begin, end = self._pass
            self._recorder.add(name, "pass", begin, end, {})
        self._pass = None


@contextmanager
def observing(ledger: Ledger, recorder: Recorder) -> Iterator[None]:
    """Record the operations of a block, which is not replayed."""
    operations = Operations(ledger, recorder)
    recorders[get_ident()] = operations
    try:
        with context.using(observer=operations):
            yield
    finally:
        del recorders[get_ident()]
        operations.end_pass()
