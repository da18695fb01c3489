"""Who may import whom, and what the files may hold."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("autograd", "datasets", "trainer", "launch")

# The layers, lowest first: a module, and what it may import. A name stands for all that lies below
# it, the longest name that fits a module counts, and what lies below its own name is allowed too.
LOWEST = (
    "context", "array", "deferred", "device", "dtypes", "gaussian", "hooks", "ledger", "memory",
    "nonzeros", "orthogonal", "products", "recent", "splitmix64", "storage", "summation", "threads",
    "update_rules",
)  # fmt: skip
BASE = tuple(f"autograd.{name}" for name in LOWEST)
TO_PRIMITIVE = (*BASE, "autograd.primitive")
TO_OPS = (*TO_PRIMITIVE, "autograd.ops")
TO_TAPE = (*TO_OPS, "autograd.tape", "autograd.indexing", "autograd.random")
TO_TENSOR = (*TO_TAPE, "autograd.methods", "autograd.tensor")
NARROW = ("autograd.narrow_copy",)
METHODS = tuple(path.stem for path in (ROOT / "autograd/methods").glob("*.py"))
TO_FUNCTIONAL = (*TO_TENSOR, "autograd.functional")
TO_NN = (*TO_FUNCTIONAL, "autograd.nn", "autograd.suggest")
LLVM = "autograd.backends.llvm"
OF_BACKENDS = (*TO_PRIMITIVE, "autograd.backends", "autograd.private")
NOTHING = (
    "atomic", "dtypes", "hooks", "memory", "recent", "splitmix64", "storage", "suggest", "threads",
    "update_rules",
)  # fmt: skip
TO_USERS = ("trainer.errors", "trainer.user_code")
ON_BASE = (
    "array", "context", "cuda", "deferred", "device", "gaussian", "ledger", "orthogonal",
    "products", "summation",
)  # fmt: skip
SHARING = ("trainer.components.memory_copies", "trainer.distributed.failures.watchdog")
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    **{f"autograd.{name}": () for name in NOTHING},
    **{f"autograd.{name}": BASE for name in ON_BASE},
    "autograd.private": ("autograd.atomic",),
    "autograd.nonzeros": ("autograd.array",),
    "autograd.random": (*BASE, "autograd.backends"),
    # The registry imports backends lazily.
    "autograd.primitive": (*BASE, "autograd.backends", "autograd.capture.observer"),
    "autograd.backends": (*TO_PRIMITIVE, "autograd.private", "autograd.suggest"),
    # The rooms of a backend: generators know no plan, and nothing but plans knows them all.
    f"{LLVM}.compiler": (*OF_BACKENDS,),
    f"{LLVM}.kernels": (*OF_BACKENDS, f"{LLVM}.compiler"),
    f"{LLVM}.runtime": (*OF_BACKENDS, f"{LLVM}.compiler", f"{LLVM}.kernels"),
    f"{LLVM}.registry": (*OF_BACKENDS, f"{LLVM}.compiler.isa", f"{LLVM}.runtime"),
    f"{LLVM}.plans": OF_BACKENDS
    + tuple(f"{LLVM}.{name}" for name in ("compiler", "kernels", "registry", "runtime")),
    LLVM: (*OF_BACKENDS, LLVM),
    "autograd.ops": TO_PRIMITIVE,
    "autograd.indexing": TO_OPS,
    "autograd.tape": TO_OPS,
    "autograd.methods": TO_TAPE,
    "autograd.tensor": (*TO_TAPE, "autograd.methods"),
    **dict.fromkeys(NARROW, (*TO_OPS, "autograd.backends")),
    **dict.fromkeys(("autograd.added_loss", "autograd.typenames"), TO_TENSOR),
    "autograd.autocast": (*TO_TENSOR, *NARROW),
    "autograd.amp": ("autograd.autocast",),
    "autograd.recorder": (*TO_TENSOR, "autograd.autocast", "autograd.capture.observer"),
    "autograd.differentiate": (*TO_TENSOR, "autograd.added_loss"),
    "autograd.saving": (*TO_TENSOR, "autograd.private"),
    "autograd.functional": (*TO_TENSOR, "autograd.autocast", "autograd.backends"),
    "autograd.capture": (*TO_NN, "autograd.backends"),
    "autograd.capture.observer": (),
    "autograd.capture.sparsity": (*BASE, "autograd.capture.observer"),
    "autograd.capture.peak_memory": ("autograd.context", "autograd.capture.observer"),
    "autograd.nn": (*TO_NN, *NARROW, "autograd.backends", "autograd.capture.observer"),
    "autograd.models": (*TO_NN, "autograd.added_loss", "autograd.backends"),
    "autograd.quantize": (*TO_NN, "autograd.capture.observer", "autograd.differentiate"),
    "autograd.optim": (*TO_NN, *NARROW),
    "autograd.testing": ("autograd",),
    "autograd": ("autograd",),  # the package's own file alone
    # What several wings need has one home each.
    "datasets": ("autograd.atomic", "autograd.private", "autograd.splitmix64", *TO_USERS),
    # Samples of the user's become tensors.
    **dict.fromkeys(
        (f"datasets.{name}" for name in ("collate", "data_loader", "drawing", "samples")),
        ("autograd", "datasets"),
    ),
    "trainer.errors": ("autograd.suggest",),
    "trainer.user_code": ("trainer.errors",),
    # A library: what it needs of a run is handed to it.
    "trainer.cost": ("autograd", "trainer.errors", "trainer.parsing"),
    "trainer.parsing": ("trainer.errors",),
    # What ranks share with their launcher: a channel, and the record of copies in memory.
    **dict.fromkeys(SHARING, ("trainer", "launch")),
    "trainer": ("autograd", "datasets", *SHARING),
    "launch": (),
}
# Allowed besides: inside a function only, and for type checkers only.
MAY_IMPORT_LAZILY: dict[str, tuple[str, ...]] = {
    f"trainer.commands.{name}": ("launch",) for name in ("doctor", "launch", "ranks", "supervise")
}
MAY_NAME: dict[str, tuple[str, ...]] = {
    "trainer.commands.doctor": ("launch",),
    "autograd.context": ("autograd.tape", "autograd.tensor", "autograd.capture.observer"),
    "autograd.capture.observer": tuple(
        f"autograd.{name}" for name in ("array", "ledger", "nn", "primitive", "storage", "tensor")
    ),
    "autograd.capture.peak_memory": ("autograd.ledger", "autograd.storage", "autograd.tensor"),
    **{f"autograd.methods.{name}": ("autograd.tensor",) for name in METHODS},
    "autograd.storage": ("autograd.array", "autograd.deferred", "autograd.narrow_copy"),
    "autograd.capture.sparsity": ("autograd.tensor",),
}
# A backend is imported by the registry alone, inside a function.
REGISTRY = "autograd.backends"
# Packages that are neither ours nor Python's, and the modules that may import them.
THIRD_PARTY: dict[str, tuple[str, ...]] = {
    "numpy": ("autograd", "datasets", "trainer"),
    "tqdm": ("datasets", "trainer"),
    "mpi4py": ("trainer.distributed.mpi",),
    "llvmlite": ("autograd.backends.llvm",),
    "ml_dtypes": ("autograd.dtypes",),
    "h5py": ("datasets.sets.hdf5", "trainer.components.checkpoint"),
    "hdf5plugin": ("datasets.sets.hdf5",),
    "PIL": ("datasets.formats.pictures", "datasets.sets.folder"),
}
MOST_LINES = 450
AT_THE_TOP = {"conftest.py", "test_docs.py", "test_package.py", "test_structure.py"}


@dataclass(frozen=True)
class Arrow:
    """One import: `target` is a module of ours, or the full name of a foreign one."""

    source: str
    target: str
    line: int
    foreign: bool
    lazy: bool
    typing: bool


class Imports(ast.NodeVisitor):
    """Collect the arrows of one module; `modules` are the names of all of ours."""

    def __init__(self, source: str, is_package: bool, modules: set[str]) -> None:
        self.arrows: list[Arrow] = []
        self._source, self._modules = source, modules
        parts = source.split(".")
        self._package = parts if is_package else parts[:-1]
        self._lazy = self._typing = False

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(alias.name, node.lineno, foreign=True)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.level == 0:
            self._add(node.module or "", node.lineno, foreign=True)
            return
        kept = self._package[: len(self._package) - node.level + 1]
        base = [*kept, *filter(None, [node.module])]
        for alias in node.names:
            full = ".".join([*base, alias.name])
            self._add(full if full in self._modules else ".".join(base), node.lineno, foreign=False)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        before, self._lazy = self._lazy, True
        self.generic_visit(node)
        self._lazy = before

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_If(self, node: ast.If) -> None:
        before, guard = self._typing, ast.unparse(node.test)
        self._typing = before or guard in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        for statement in node.body:
            self.visit(statement)
        self._typing = before
        for statement in node.orelse:
            self.visit(statement)

    def _add(self, target: str, line: int, foreign: bool) -> None:
        self.arrows.append(Arrow(self._source, target, line, foreign, self._lazy, self._typing))


def find_arrows(root: Path) -> list[Arrow]:
    """Return every import below our folders in `root`."""
    files = {}
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    arrows = []
    for module, path in files.items():
        visitor = Imports(module, path.name == "__init__.py", set(files))
        visitor.visit(ast.parse(path.read_text(encoding="utf-8"), str(path)))
        arrows += visitor.arrows
    return arrows


def is_below(module: str, names: tuple[str, ...]) -> bool:
    """Tell whether a module is one of `names` or lies below one."""
    return any(module == name or module.startswith(f"{name}.") for name in names)


def layer_of(module: str) -> str | None:
    """Return the row of the table that a module belongs to."""
    fitting = [name for name in MAY_IMPORT if is_below(module, (name,))]
    row = max(fitting, key=len, default=None)
    return None if row == "autograd" and module != "autograd" else row


def fault(arrow: Arrow) -> str | None:
    """Say what is wrong with an arrow, or return None."""
    if arrow.foreign:
        return _foreign_fault(arrow)
    layer = layer_of(arrow.source)
    if layer is None:
        return "the importing module is in no row of MAY_IMPORT"
    if arrow.target == "" or is_below(arrow.target, ("tallygrad",)):
        return "the import leaves our folders"
    if arrow.target.startswith(f"{REGISTRY}.") and layer != "autograd.testing":
        if arrow.source.startswith(f"{REGISTRY}."):
            return _room_fault(arrow, layer)
        lazy = arrow.source == REGISTRY and (arrow.lazy or arrow.typing)
        return None if lazy else "only the registry imports a backend, inside a function"
    if is_below(arrow.target, (layer, *MAY_IMPORT[layer])):
        return None
    if arrow.typing and is_below(arrow.target, MAY_NAME.get(arrow.source, ())):
        return None
    if is_below(arrow.target, MAY_IMPORT_LAZILY.get(arrow.source, ())):
        return None if arrow.lazy else "allowed inside a function only"
    return f"not allowed for {layer}"


def _room_fault(arrow: Arrow, layer: str) -> str | None:
    """Say what is wrong with an arrow from one backend's module to another's."""
    rooms = [name for name in (layer, *MAY_IMPORT[layer]) if name.startswith(f"{REGISTRY}.")]
    if layer_of(arrow.target) == REGISTRY or is_below(arrow.target, (*rooms,)):
        return None
    return f"not allowed for {layer}"


def _foreign_fault(arrow: Arrow) -> str | None:
    top = arrow.target.partition(".")[0]
    if top == "tallygrad" or top in FOLDERS:
        return "imports between our folders are relative"
    if top in sys.stdlib_module_names or is_below(arrow.source, THIRD_PARTY.get(top, ())):
        return None
    return "not a package that this module may use"


def find_circle(arrows: list[Arrow]) -> list[str]:
    """Return the modules of one circle of module-level imports, or an empty list."""
    graph: dict[str, set[str]] = {}
    for arrow in arrows:
        if not (arrow.foreign or arrow.lazy or arrow.typing):
            graph.setdefault(arrow.source, set()).add(arrow.target)
    done: set[str] = set()

    def descend(module: str, way: list[str]) -> list[str]:
        if module in way:
            return [*way[way.index(module) :], module]
        if module in done:
            return []
        for target in sorted(graph.get(module, ())):
            if circle := descend(target, [*way, module]):
                return circle
        done.add(module)
        return []

    return next(filter(None, (descend(module, []) for module in sorted(graph))), [])


def find_faults(root: Path) -> list[str]:
    """Return a line for every forbidden arrow, and one for a circle."""
    arrows = find_arrows(root)
    lines = [
        f"{arrow.source}:{arrow.line} imports {arrow.target or 'the namespace'}: {reason}"
        for arrow in arrows
        if (reason := fault(arrow))
    ]
    circle = find_circle(arrows)
    return [*lines, *([f"circle: {' -> '.join(circle)}"] if circle else [])]


def test_imports_follow_the_layers() -> None:
    faults = find_faults(ROOT)
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    ("module", "line", "expected"),
    [
        ("autograd/tape.py", "from .nn import Linear", "not allowed for autograd.tape"),
        ("autograd/ops/conv.py", "from ..tensor import Tensor", "not allowed for autograd.ops"),
        ("autograd/nn/a.py", "from ..backends.meta import m", "only the registry"),
        ("autograd/backends/__init__.py", "from . import meta", "only the registry"),
        ("autograd/primitive.py", "def f():\n    from .backends.meta import m", "only the reg"),
        ("autograd/context.py", "def f():\n    from .tape import Tape", "not allowed"),
        ("autograd/backends/llvm/kernels/a.py", "from ..plans import b", "llvm.kernels"),
        ("autograd/backends/llvm/kernels/a.py", "from ..runtime import b", "llvm.kernels"),
        ("autograd/backends/llvm/compiler/a.py", "from ..kernels.b import c", "llvm.compiler"),
        ("autograd/backends/llvm/runtime/a.py", "from ..plans.b import c", "llvm.runtime"),
        ("autograd/backends/llvm/plans/a.py", "from ..fusion import b", "llvm.plans"),
        ("autograd/backends/meta.py", "from .llvm.plans import b", "for autograd.backends"),
        ("autograd/models/a.py", "if TYPE_CHECKING:\n    from ..optim import b", "not allowed"),
        ("autograd/optim/a.py", "def f():\n    from ...trainer import loop", "not allowed"),
        ("autograd/unheard.py", "from . import context", "in no row"),
        ("datasets/a.py", "from ..autograd import Tensor", "not allowed for datasets"),
        ("datasets/a.py", "import h5py", "not a package"),
        ("trainer/cost/a.py", "from ..config import integer", "not allowed for trainer.cost"),
        ("trainer/cost/a.py", "def f():\n    from ..components import state", "not allowed"),
        ("trainer/loop.py", "from ..launch import job", "not allowed for trainer"),
        ("trainer/commands/ranks.py", "from ...launch import job", "inside a function only"),
        ("trainer/loop.py", "async def f():\n    from mpi4py import MPI", "not a package"),
        ("trainer/loop.py", "import autograd", "relative"),
        ("trainer/loop.py", "from tallygrad.autograd import Tensor", "relative"),
        ("trainer/loop.py", "from ... import other", "leaves our folders"),
        ("launch/job.py", "import numpy.linalg", "not a package"),
    ],
)
def test_a_forbidden_import_is_found(tmp_path: Path, module: str, line: str, expected: str) -> None:
    _make_tree(tmp_path, {module: line})
    (found,) = find_faults(tmp_path)
    assert expected in found


def test_allowed_imports_are_left_alone(tmp_path: Path) -> None:
    _make_tree(
        tmp_path,
        {
            "autograd/primitive.py": "import os.path\nfrom . import backends",
            "autograd/context.py": "if TYPE_CHECKING:\n    from .tape import Tape",
            "autograd/backends/__init__.py": "def f():\n    from . import meta",
            "autograd/testing.py": "from .backends import meta\nfrom . import nn, Tensor",
            "autograd/nn/b.py": "from . import a\nfrom ..tensor import Tensor",
            "trainer/commands/ranks.py": "import numpy\ndef f():\n    from ...launch import a",
            "trainer/distributed/mpi.py": "from mpi4py import MPI\nfrom ...datasets import a",
        },
    )
    assert find_faults(tmp_path) == []


def test_a_circle_is_found(tmp_path: Path) -> None:
    chain = {
        "nn/a.py": "from .b import x",
        "nn/b.py": "from . import c",
        "nn/c.py": "from .a import y",
    }
    _make_tree(tmp_path, {f"autograd/{name}": text for name, text in chain.items()})
    names = " -> ".join(f"autograd.nn.{letter}" for letter in "abca")
    assert find_faults(tmp_path) == [f"circle: {names}"]
    guarded = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .a import y"
    for harmless in (guarded, "def f():\n    from .a import y"):
        _make_tree(tmp_path, {"autograd/nn/c.py": harmless})
        assert find_faults(tmp_path) == []


def _make_tree(root: Path, files: dict[str, str]) -> None:
    empty = ["context", "tensor", "tape", "primitive", "nn/a", "optim/b", "backends/meta"]
    paths = [f"autograd/{name}.py" for name in empty] + ["datasets/a.py", "launch/job.py"]
    packages = ["", "nn/", "optim/", "ops/", "models/", "backends/"]
    paths += [f"autograd/{name}__init__.py" for name in packages]
    for path, text in {**dict.fromkeys(paths, ""), **files}.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if path in files or not target.exists():
            target.write_text(text)


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    """Every text file of the checkout that git does not ignore, by its path."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        answer = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=30)
    except OSError:
        pytest.skip("git is not installed")
    if answer.returncode:
        pytest.skip("not a git checkout")
    found = {}
    for name in filter(None, answer.stdout.decode().split("\0")):
        path = ROOT / name
        if path.is_file() and not path.is_symlink() and b"\0" not in (data := path.read_bytes()):
            found[name] = data.decode("utf-8")
    return found


def test_tests_mirror_the_folders() -> None:
    """A test of `trainer/cost` lies in `tests/trainer/cost`; what concerns all lies at the top."""
    tests = ROOT / "tests"
    files = [path.relative_to(tests) for path in tests.rglob("*.py")]
    astray = {file.parent for file in files if not (ROOT / file.parent).is_dir()}
    assert not astray, f"no such folders beside tests/: {sorted(map(str, astray))}"
    assert {file.name for file in files if len(file.parts) == 1} == AT_THE_TOP


def test_files_stay_short(texts: dict[str, str]) -> None:
    code = [name for name in texts if name.endswith((".py", ".sh"))]
    long = [name for name in code if texts[name].count("\n") > MOST_LINES]
    assert code and long == []


# Absolute paths of one machine, such as those of a home folder.
MACHINE_PATH = re.compile(r"(?<![\w.~$})/-])/(?:(?:work|root|home)/\w|tmp/\w+/)|\.\./shared/")


def test_no_file_names_a_path_of_one_machine(texts: dict[str, str]) -> None:
    found = [
        f"{name}:{number}: {line.strip()}"
        for name, text in texts.items()
        for number, line in enumerate(text.splitlines(), 1)
        if MACHINE_PATH.search(line) and name != ".ci/run"
    ]
    assert found == []


@pytest.mark.parametrize("folder", ["work", "root", "home", "tmp"])
def test_paths_of_one_machine_are_recognised(folder: str) -> None:
    path = "/".join(["", folder, "someone"])
    assert MACHINE_PATH.search(f"see {path}/x") and MACHINE_PATH.search(f'"{path}/"')
    assert not MACHINE_PATH.search(f"net{path} ~{path} $ROOT{path}")


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["train", "--help"], ["inspect", "--help"], ["cost", "--help"], ["cost", "lenet"]],
)
def test_help_and_cost_do_not_load_mpi(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from tallygrad.trainer.cli import main\n"
        "try:\n"
        "    status = main(sys.argv[1:])\n"
        "except SystemExit as stop:\n"
        "    status = stop.code\n"
        "loaded = [name for name in sys.modules if name.partition('.')[0] == 'mpi4py']\n"
        "sys.exit(f'loaded: {loaded}' if loaded else status)\n"
    )
    command = [sys.executable, "-P", "-c", code, *arguments]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 0, answer.stderr
    assert ("usage" if "--help" in arguments else "lenet") in answer.stdout.lower()
