"""Code of the user, named `FILE.py:NAME` or `package.module:NAME`.

It runs only where a command line or a script names it. Whoever reads such a name from a file, be it
a checkpoint or a configuration, must see it named again: files of others never make anything run.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
import traceback
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from .errors import UserError, nearest

SHOWN = 12  # digits of a hash in a message
_LOADERS = ("<", __file__, importlib.__file__)  # files between `load` and the code


@dataclass(frozen=True)
class UserCode:
    """What a name stands for, with its file and the SHA-256 of that, which are "" for a module
    without one."""

    name: str
    file: str
    sha256: str
    value: Any


_modules: dict[str, tuple[ModuleType, str]] = {}
_loaded: dict[str, UserCode] = {}
_running: list[str] = []  # files and modules that are being loaded


def names_code(name: str) -> bool:
    """Tell whether a name, perhaps with options in brackets, stands for code of the user."""
    source, colon, _ = name.partition("(")[0].partition(":")
    is_module = all(part.isidentifier() for part in source.split("."))
    return bool(colon) and (source.endswith(".py") or is_module)


def label(name: str) -> str:
    """Return what of a name may stand in that of a folder: NAME of code, the stem of a path."""
    return Path(name.rpartition(":")[2]).stem or "run"


def same(one: str, other: str) -> bool:
    """Tell whether names stand for the same, wherever the file or module lies."""
    if names_code(one) and names_code(other):
        return one.partition(":")[2] == other.partition(":")[2]
    return one == other


def load(option: str, name: str) -> UserCode:
    """Run the file, or import the module, that an option names, once a process; return what it has
    under the name. UserError where there is none, and where the code fails."""
    if name not in _loaded:
        source, _, attribute = name.partition(":")
        if not source or not attribute.isidentifier():
            raise UserError(
                f"{option}: expected FILE.py:NAME or package.module:NAME, got {name!r:.200}"
            )
        module, digest = _module(option, source)
        if not hasattr(module, attribute):
            names = [n for n, value in vars(module).items() if n[0] != "_" and callable(value)]
            raise UserError(f"{option}: no {attribute!r} in {source}{nearest(attribute, names)}")
        file = str(getattr(module, "__file__", None) or "")
        _loaded[name] = UserCode(name, file, digest, getattr(module, attribute))
    return _loaded[name]


def loaded() -> list[dict[str, str]]:
    """Return name, file and SHA-256 of all code that this process has loaded, for its record."""
    return [{"name": c.name, "file": c.file, "sha256": c.sha256} for c in _loaded.values()]


def facts() -> dict[str, object]:
    """Return in what all ranks must agree."""
    return {f"SHA-256 of {code.name}": code.sha256 for code in _loaded.values()}


def place(error: BaseException, folders: Collection[Path] = ()) -> str:
    """Return the lines of the user's files on the way to an error, "" where there are none. They
    lie in `folders`, by default those of the code that is loaded."""
    folders = folders or {Path(code.file).parent for code in _loaded.values() if code.file}
    frames = traceback.extract_tb(error.__traceback__)
    own = [(Path(frame.filename), frame.lineno) for frame in frames]
    if isinstance(error, SyntaxError) and error.filename:
        own.append((Path(error.filename), error.lineno))
    return " > ".join(f"{path.name}:{line}" for path, line in own if path.parent in folders)


@contextmanager
def explained(option: str) -> Iterator[None]:
    """Raise UserError for an error that the user's code makes in a block: one line with its
    place."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        if where := place(error):
            raise UserError(f"{option}: {where}: {_said(error)}") from error
        raise


def _module(option: str, source: str) -> tuple[ModuleType, str]:
    """Return the module of a file or a name and its file's SHA-256, as of when it was loaded."""
    if source not in _modules:
        with _failing(option, source):
            _modules[source] = (_run_file if source.endswith(".py") else _import)(option, source)
    return _modules[source]


@contextmanager
def _failing(option: str, source: str) -> Iterator[None]:
    """Raise UserError for whatever goes wrong while code is imported, with the line of it."""
    _running.append(source)
    try:
        yield
    except (UserError, KeyboardInterrupt):
        raise
    except BaseException as error:  # SystemExit too: a script that is not meant to be imported
        frames = traceback.extract_tb(error.__traceback__)
        files = [Path(f.filename) for f in frames if not f.filename.startswith(_LOADERS)]
        folder = files[0].parent if files else Path(source).absolute().parent
        where = place(error, [folder]) or source
        raise UserError(f"{option}: {where}: {_said(error)}") from error
    finally:
        _running.pop()


def refuse_training() -> None:
    """Raise UserError where a script trains while it is loaded for what it defines."""
    if _running:
        raise UserError(
            f"{_running[-1]}: expected a file that can be loaded for its model, got one that "
            'trains; put that under: if __name__ == "__main__":'
        )


def _said(error: BaseException) -> str:
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _run_file(option: str, source: str) -> tuple[ModuleType, str]:
    """Run a file as a module of its own, whose neighbours it can import as if it were a script.
    What is hashed is what runs: a cached compilation might be older."""
    path = Path(source).absolute()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{option}: {source}: {error.strerror or error}") from error
    compiled = compile(content, str(path), "exec")
    name = path.stem
    if name in sys.modules:
        name = f"{name}_{hashlib.sha256(bytes(path)).hexdigest()[:SHOWN]}"
    module = ModuleType(name)
    module.__file__ = str(path)
    _search(str(path.parent), 0)
    sys.modules[name] = module
    try:
        exec(compiled, vars(module))
    except BaseException:
        del sys.modules[name]
        raise
    return module, hashlib.sha256(content).hexdigest()


def _import(option: str, source: str) -> tuple[ModuleType, str]:
    """Import a module, also from this folder; installed ones come first, so that no file that lies
    here can stand in for a library."""
    _search(str(Path.cwd()), len(sys.path))
    module = importlib.import_module(source)
    file = getattr(module, "__file__", None)
    return module, hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""


def _search(folder: str, position: int) -> None:
    if folder not in sys.path:
        sys.path.insert(position, folder)
