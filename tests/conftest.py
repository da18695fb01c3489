"""Fixtures that several test files share."""

import fcntl
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

# What a test compares are NumPy's bits, unless it asks for another backend.
os.environ.setdefault("TALLYGRAD_BACKEND", "numpy")

# Children inherit what is ignored, as under nohup or in the background of a script, and Python
# heeds that; what a signal does is for the tests to say.
signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)

Run = Callable[..., subprocess.CompletedProcess[str]]
Write = Callable[[Path, int, int], Path]


@pytest.fixture(scope="session")
def write_mnist() -> Write:
    """Return write_mnist(folder, train, test): it makes a folder with a tiny data set, of so many
    images, in MNIST's files."""
    import numpy as np

    from tallygrad.datasets.formats.idx import write_idx

    def write(folder: Path, train: int, test: int) -> Path:
        folder.mkdir()
        rng = np.random.default_rng(0)
        for name, count in (("train", train), ("t10k", test)):
            images = rng.integers(0, 256, (count, 28, 28), np.uint8)
            write_idx(folder / f"{name}-images-idx3-ubyte", images)
            write_idx(folder / f"{name}-labels-idx1-ubyte", rng.integers(0, 10, count, np.uint8))
        return folder

    return write


@pytest.fixture(scope="session")
def bench_package() -> Any:
    """bench/, which is not installed: the root on the path would bring a bare `autograd`."""
    place = Path(__file__).resolve().parents[1] / "bench"
    spec = importlib.util.spec_from_file_location(
        "bench", place / "__init__.py", submodule_search_locations=[str(place)]
    )
    assert spec and spec.loader
    sys.modules["bench"] = package = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
    return package


def _find_mpirun() -> str | None:
    # The wheels put mpirun beside Python: the only one sure to belong to the library in use.
    beside = Path(sys.executable).parent / "mpirun"
    return str(beside) if beside.exists() else shutil.which("mpirun")


def _launcher_arguments(mpirun: str) -> list[str]:
    version = subprocess.run([mpirun, "--version"], capture_output=True, text=True, timeout=30)
    if "Open MPI" not in version.stdout:
        return []
    yielding = ["--mca", "mpi_yield_when_idle", "1"]
    return ["--map-by", ":OVERSUBSCRIBE", "--bind-to", "none", *yielding]


def _finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    # The launcher takes its ranks along on SIGTERM; on SIGKILL it could not.
    process.terminate()
    try:
        return process.communicate(timeout=5)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.communicate()


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], AbstractContextManager[None]]:
    """Return alone(): a block that one process at a time may be in, of those that run tests. Ranks
    of two MPI jobs, which all wait busily, would take the cores from one another."""
    path = tmp_path_factory.getbasetemp().parent / "alone.lock"

    @contextmanager
    def block() -> Iterator[None]:
        with path.open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    return block


@pytest.fixture(scope="session")
def mpirun(
    tmp_path_factory: pytest.TempPathFactory, alone: Callable[[], AbstractContextManager[None]]
) -> Run:
    """Return run(ranks, code, *arguments, env={}, timeout=60): Python code on some ranks.

    `code` is a snippet, or a list such as ["-m", "tallygrad.trainer.cli"] that follows `python`.
    Works for Open MPI and MPICH, as root, with more ranks than cores. A run that outlives
    `timeout` seconds is ended and raises subprocess.TimeoutExpired with its output so far.
    """
    launcher = _find_mpirun()
    if launcher is None:
        pytest.skip("no mpirun beside Python or on PATH: pip install mpich")
    extra = _launcher_arguments(launcher)
    folder = tmp_path_factory.mktemp("mpirun")

    def run(
        ranks: int,
        code: str | list[str],
        *arguments: str,
        env: Mapping[str, str] | None = None,
        timeout: float = 60.0,
    ) -> subprocess.CompletedProcess[str]:
        if isinstance(code, str):
            script = folder / f"snippet{len(list(folder.iterdir()))}.py"
            script.write_text(code)
            code = [str(script)]
        command = [launcher, *extra, "-n", str(ranks), sys.executable, *code, *arguments]
        root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with alone():
            process = subprocess.Popen(
                command,
                env={**os.environ, **root, **threads, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            try:
                out, err = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired as late:
                out, err = _finish(process)
                raise subprocess.TimeoutExpired(command, timeout, out, err) from late
            except BaseException:  # an interrupt, or the time limit of the test itself
                _finish(process)
                raise
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    return run


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal on which no line is cut."""
    monkeypatch.setenv("COLUMNS", "400")
