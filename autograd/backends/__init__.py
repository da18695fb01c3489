"""Lazy registry of backends: a name to something that finds an implementation of a primitive."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

from ..deferred import Recorder

if TYPE_CHECKING:
    from ..array import NDArray, Spec
    from ..deferred import Call, Later
    from ..primitive import Primitive

Kernel = Callable[..., Any]


class Found(NamedTuple):
    """What does a call: the name that the ledger shows for it, the kernel behind it (None leaves
    the results without numbers), how the call may wait, if it may, and how many multiplications
    are executed for its MACs, None for as many."""

    name: str
    call: Call | None
    later: Later | None = None
    executed: int | None = None


class Backend(Protocol):
    """What a backend has to offer."""

    def find(
        self, primitive: Primitive, specs: tuple[Spec, ...], attrs: dict[str, Any]
    ) -> Found:
        """Return what does a call with these shapes."""


@runtime_checkable
class Tunable(Backend, Protocol):
    """A backend that finds out by timing how calls are done best, on a dry run say. What it chose
    decides how sums are rounded, so ranks have to agree: one chooses, all adopt."""

    def choices(self) -> bytes:
        """Return what was chosen so far."""

    def adopt(self, choices: bytes) -> None:
        """Take what another process chose, and choose nothing from now on."""


class Recording(Recorder, Protocol):
    """Takes down what this thread computes within a `with` block, so that it can be repeated on the
    same memory, with other numbers in it. One `beside` another shares its memory, so that they
    cannot be repeated at the same time."""

    def __enter__(self) -> Recording:
        """Begin."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End."""

    def owns(self, value: NDArray) -> bool:
        """Tell whether an array lies in the recording's memory."""

    def hold(self, value: NDArray) -> None:
        """Keep the numbers of an array that came into being here; others are lost."""

    def effect(self, step: Callable[[], Any]) -> None:
        """Call a function now, of which nothing is taken down, and at this place in each
        repetition."""

    def repeat(self) -> None:
        """Do it again."""


@runtime_checkable
class Recordable(Backend, Protocol):
    """A backend whose calls can be repeated without Python."""

    def recording(self, beside: Any = None) -> Recording:
        """Return a new recording."""


class Building(NamedTuple):
    """Kernels that this process has made and taken from the cache so far, and the seconds that
    making them took."""

    made: int
    cached: int
    seconds: float


Watcher: TypeAlias = Callable[[Building], None]
_watchers: list[Watcher] = []


@contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Call `watcher` within the block whenever a backend has made a kernel."""
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)


def built(state: Building) -> None:
    """Tell the watchers that a kernel was made; backends call it."""
    for watcher in _watchers:
        watcher(state)


def no_options(name: str, options: str) -> None:
    """Raise ValueError where a backend that has no options is given some."""
    if options:
        raise ValueError(f"backend {name} takes no options, got {options!r}")


_MODULES = {"numpy": "reference", "meta": "meta", "llvm": "llvm"}
_loaded: dict[str, Backend] = {}


def names() -> tuple[str, ...]:
    """Names of all backends."""
    return tuple(_MODULES)


def get(name: str) -> Backend:
    """Return a backend by name, imported at its first use. Options may follow a colon, as in
    `llvm:avx2,direct`. ValueError for an unknown name or option; ImportError where a backend needs
    a package that is absent."""
    if name not in _loaded:
        base, _, options = name.partition(":")
        if base not in _MODULES:
            raise ValueError(f"backend {name!r} is unknown; there are {', '.join(_MODULES)}")
        module = import_module(f".{_MODULES[base]}", __package__)
        _loaded[name] = module.create(options)
    return _loaded[name]
