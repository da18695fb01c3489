"""Lazy registry of backends by name, and the protocols that they implement.

A backend is imported at its first use, so programs that do not compute, such as `--help`, load
none."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

from .. import context
from ..deferred import Recorder
from ..suggest import nearest

if TYPE_CHECKING:
    from ..array import NDArray, Spec
    from ..deferred import Call, DeferralPlan
    from ..primitive import Primitive

Kernel = Callable[..., Any]


class Implementation(NamedTuple):
    """The implementation of a call.

    `name`: the backend's in the ledger; `call`: the kernel (None leaves the results without
    numbers); `deferral`: how it is deferred (None: it runs at once); `executed`: how many
    multiplications it executes (None: one per MAC)."""

    name: str
    call: Call | None
    deferral: DeferralPlan | None = None
    executed: int | None = None


class Backend(Protocol):
    """Finds implementations of primitives."""

    def find(
        self, primitive: Primitive, specs: tuple[Spec, ...], attrs: dict[str, Any]
    ) -> Implementation:
        """Return the implementation of a call with these shapes and attributes."""


@runtime_checkable
class Tunable(Backend, Protocol):
    """A backend that chooses kernels by timing them, for example on a dry run.

    Choices decide how sums are rounded, so all ranks adopt those of one."""

    def choices(self) -> bytes:
        """Return the choices so far."""

    def adopt(self, choices: bytes) -> None:
        """Use the choices of another process, and make none from now on."""


class BackendRecording(Recorder, Protocol):
    """Records what this thread computes within a `with` block, and replays it.

    A replay works on the same memory, with other numbers in it. A recording `beside` another shares
    its memory; the two cannot be replayed at the same time."""

    def __enter__(self) -> BackendRecording:
        """Begin to record."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the recording."""

    def owns(self, value: NDArray) -> bool:
        """Tell whether an array lies in the recording's memory."""

    def hold(self, value: NDArray) -> None:
        """Keep the numbers of an array that the recording computed; those of others are lost."""

    def effect(self, step: Callable[[], Any]) -> None:
        """Call a function now without recording what it computes, and at this point of each
        replay."""

    def replay(self) -> None:
        """Compute all of it again."""


@runtime_checkable
class Recordable(Backend, Protocol):
    """A backend whose calls can be replayed without Python."""

    def recording(self, beside: Any = None) -> BackendRecording:
        """Return a new recording."""


class CompileStats(NamedTuple):
    """Kernels that this process has compiled, those it loaded from the cache, and seconds of
    compiling."""

    compiled: int
    cached: int
    seconds: float


Watcher: TypeAlias = Callable[[CompileStats], None]
_watchers: list[Watcher] = []
_compiled = CompileStats(0, 0, 0.0)


@contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Call `watcher` within the block whenever a backend has compiled a kernel."""
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)


def notify_compiled(state: CompileStats) -> None:
    """Tell the watchers that a kernel was compiled; backends call it."""
    global _compiled
    _compiled = state
    for watcher in _watchers:
        watcher(state)


def compile_stats() -> CompileStats:
    """Return what the watchers were told last."""
    return _compiled


def no_options(name: str, options: str) -> None:
    """Raise ValueError if a backend without options is given some."""
    if options:
        raise ValueError(f"backend {name}: expected no options, got {options!r}")


_MODULES = {"numpy": "reference", "meta": "meta", "llvm": "llvm"}
SHAPES_ONLY = "meta"  # the backend that runs any program without numbers
_loaded: dict[str, Backend] = {}


def names() -> tuple[str, ...]:
    """Names of all backends."""
    return tuple(_MODULES)


ENVIRONMENT = "TALLYGRAD_BACKEND"
_fallback = ""  # the default, where nobody asked for it


def default() -> str:
    """Return the name of the backend that computes where none is chosen.

    It is what the environment variable TALLYGRAD_BACKEND says, else llvm where llvmlite is
    installed, else numpy."""
    global _fallback
    requested = os.environ.get(ENVIRONMENT, "")
    if not requested and find_spec("llvmlite") is not None:
        _fallback = "llvm"
    return requested or _fallback or "numpy"


def set_backend(name: str) -> None:
    """Let a backend compute from now on, in all threads, except in blocks that have one of their
    own.

    Errors are those of `get`; RuntimeError within such a block."""
    global _fallback
    if name == _fallback:
        _loaded.pop(name, None)  # which may be NumPy in its place
    _fallback = ""
    get(name)
    context.start_with(name)


def computes() -> bool:
    """Tell whether the context's backend computes numbers, not only shapes. Loads nothing."""
    return context.current().backend != SHAPES_ONLY


def get_backend() -> str:
    """Return the name of the backend that computes."""
    return context.current().backend


def get(name: str) -> Backend:
    """Return a backend by name, imported at its first use.

    Options may follow a colon, as in `llvm:avx2,direct`. Where the default backend was not asked
    for and does not load, NumPy computes instead, with a warning. ValueError for an unknown name or
    option; ImportError where a backend needs a package that is absent."""
    if name not in _loaded:
        try:
            _loaded[name] = _load(name)
        except (ImportError, OSError, ValueError) as error:
            if name != _fallback:
                raise
            warnings.warn(f"using NumPy: {error}", RuntimeWarning, stacklevel=2)
            _loaded[name] = _load("numpy")
    return _loaded[name]


def _load(name: str) -> Backend:
    base, _, options = name.partition(":")
    if base not in _MODULES:
        where = f"{ENVIRONMENT}: " if name == os.environ.get(ENVIRONMENT) else ""
        raise ValueError(f"{where}unknown backend {name!r}{nearest(base, _MODULES)}")
    backend: Backend = import_module(f".{_MODULES[base]}", __package__).create(options)
    return backend
