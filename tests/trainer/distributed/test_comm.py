"""Ranks: collectives against analytic sums, the end of failing jobs, and threads per rank."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import numpy as np
import pytest

from tallygrad.datasets import DataError
from tallygrad.trainer import threads
from tallygrad.trainer.distributed.comm import SerialComm
from tallygrad.trainer.distributed.failures.guard import guard
from tallygrad.trainer.errors import Interrupted, NotFinite, UserError
from tallygrad.trainer.threads import THREAD_VARIABLES, HostCores, configure

Run = Callable[..., subprocess.CompletedProcess[str]]

PRELUDE = """
import sys
import threading
import time
import numpy as np
from tallygrad.trainer.distributed.comm import connect
from tallygrad.trainer.distributed.failures.guard import guard
from tallygrad.trainer.errors import NotFinite, UserError
comm = connect()
rank, size = comm.rank, comm.size
"""

COLLECTIVES = """
# Every rank's contribution is a function of its rank, so each result has a closed form.
total = size * (size - 1) // 2
for dtype in ("float32", "float64", "int64", "uint8"):
    for shape in ((), (0, 3), (3,), (2, 5)):
        ramp = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
        x = np.asarray(ramp + np.asarray(rank, dtype))
        comm.allreduce(x)
        assert x.dtype == dtype and np.array_equal(x, size * ramp + total), (dtype, shape, x)
        for op, edge in (("max", size - 1), ("min", 0)):
            x = np.asarray(ramp + np.asarray(rank, dtype))
            comm.allreduce(x, op)
            assert np.array_equal(x, ramp + edge), (op, dtype, shape, x)
        gathered = comm.allgather(np.asarray(ramp + np.asarray(rank, dtype)))
        assert gathered.shape == (size, *shape) and gathered.dtype == dtype
        assert all(np.array_equal(gathered[r], ramp + r) for r in range(size))
        for root in range(size):
            x = np.asarray(ramp + np.asarray(rank, dtype))
            comm.bcast(x, root)
            assert np.array_equal(x, ramp + root), (root, dtype, shape, x)

for dtype in ("bool", "float16"):
    flags = np.full(4, rank == 0, dtype)
    comm.bcast(flags)
    assert flags.all()
    assert comm.allgather(flags).dtype == dtype

flat = np.arange(40000, dtype=np.float32) + rank
cuts = [0, 7, 7, 1000, 39999, 40000]
requests = [comm.iallreduce(flat[a:b]) for a, b in zip(cuts, cuts[1:])]
requests[2].test()
for request in reversed(requests):
    request.wait()
    assert request.test()
assert np.array_equal(flat, np.arange(40000, dtype=np.float32) * size + total)

for dtype, width in (("float32", 5), ("int64", 1), ("float64", 0)):
    sent = np.asarray(100 * rank + 10 * np.arange(size)[:, None] + np.arange(width), dtype)
    request, got = comm.ialltoall(sent)
    request.wait()
    expected = 100 * np.arange(size)[:, None] + 10 * rank + np.arange(width)
    assert got.dtype == dtype and np.array_equal(got, expected), (got, expected)

other = rank ^ 1 if rank ^ 1 < size else rank
sent, got = np.full(3, 10.0 * rank), np.zeros(3)
comm.sendrecv(sent, got, other)
assert got.tolist() == [10.0 * other] * 3, got
got = np.zeros((size - 1 + rank) % size + 1)
comm.sendrecv(np.full(rank + 1, 1.0 * rank), got, (rank + 1) % size, (rank - 1) % size)
assert got.tolist() == [(rank - 1.0) % size] * len(got), got

texts = [b"", b"one", b"\\0" * 70000, "drei \\u00e9".encode()]
for root in range(size):
    assert comm.bcast_bytes(texts[(root + rank) % 4], root) == texts[2 * root % 4]
    gathered = comm.gather_bytes(texts[rank], root)
    assert gathered == (texts[:size] if rank == root else [])

try:
    comm.ialltoall(np.zeros((size + 1, 2)))
except ValueError as error:
    assert f"all-to-all: expected shape ({size}, ..)" in str(error)
else:
    raise AssertionError("an all-to-all took a row too many")

comm.barrier()
sleep, naps = time.sleep, []
time.sleep = lambda seconds: (naps.append(threading.current_thread()), sleep(seconds))
if rank == 0:
    sleep(0.3)
comm.idle_barrier()  # most libraries' own waits at full speed
time.sleep = sleep
total = np.array(naps.count(threading.main_thread()))  # others watch the launcher
comm.allreduce(total)
assert total > 0 or size == 1, "no rank has slept, though one has come late"
assert comm.local_size == size and comm.local_rank == rank
assert comm.library.startswith(("MPICH", "Open MPI", "Intel", "MVAPICH")), comm.library
print(f"rank {rank} of {size} is right")
"""


def write(body: str) -> str:
    return PRELUDE + textwrap.dedent(body)


def error_lines(result: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in result.stderr.splitlines() if "tallygrad: error:" in line]


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_collectives(mpirun: Run, ranks: int) -> None:
    result = mpirun(ranks, write(COLLECTIVES))
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("is right") == ranks, result.stdout


def test_both_comms_refuse_the_same_arrays(mpirun: Run) -> None:
    body = """
    from tallygrad.trainer.distributed.comm import SerialComm
    frozen = np.zeros(3)
    frozen.flags.writeable = False
    cases = [
        lambda c: c.bcast(np.zeros((2, 3)).T),
        lambda c: c.bcast(frozen),
        lambda c: c.allreduce(np.zeros((2, 3), order="F")),
        lambda c: c.allreduce(np.zeros(3), "mean"),
        lambda c: c.allreduce(np.zeros(3, bool)),
        lambda c: c.iallreduce(np.zeros(3, np.float16)),
        lambda c: c.allgather(np.zeros(6)[::2]),
    ]
    for case in cases:
        messages = []
        for each in (SerialComm(), comm):
            try:
                case(each)
            except ValueError as error:
                messages.append(str(error))
        assert len(messages) == 2 and messages[0] == messages[1], messages
    print("alike")
    """
    result = mpirun(2, write(body))
    assert result.stdout.count("alike") == 2, result.stderr


@pytest.mark.parametrize("failing", [0, 1])
def test_exception_in_one_rank_ends_the_job(mpirun: Run, failing: int) -> None:
    body = f"""
    print(f"before {{rank}}")
    with guard(comm):
        if rank == {failing}:
            raise ZeroDivisionError("only here")
        comm.allreduce(np.zeros(3))
    """
    result = mpirun(2, write(body), timeout=30)  # else it would hang for ever
    assert result.returncode == 1, result
    marked = [line for line in result.stderr.splitlines() if line.startswith(f"[rank {failing}] ")]
    assert marked[0].endswith("Traceback (most recent call last):")
    assert marked[-1].endswith("ZeroDivisionError: only here")
    assert f"[rank {1 - failing}]" not in result.stderr
    assert f"before {failing}" in result.stdout


@pytest.mark.parametrize(
    ("ranks", "raising", "error", "status"),
    [
        (2, "True", "UserError", 2),
        (4, "True", "UserError", 2),
        (2, "rank == 1", "UserError", 2),
        (2, "True", "NotFinite", 3),
    ],
)
def test_user_error_prints_one_line(
    mpirun: Run, ranks: int, raising: str, error: str, status: int
) -> None:
    body = f"""
    with guard(comm):
        if {raising}:
            raise {error}("conv1.weight:\\nno such file")
        comm.barrier()
    """
    result = mpirun(ranks, write(body), timeout=30)
    assert result.returncode == status, result
    assert len(error_lines(result)) == 1, result.stderr
    assert "tallygrad: error: conv1.weight: no such file" in result.stderr
    assert "Traceback" not in result.stderr


def test_exit_status_of_one_rank_ends_the_job(mpirun: Run) -> None:
    body = """
    with guard(comm):
        if rank == 1:
            sys.exit(5)
        comm.barrier()
    """
    assert mpirun(2, write(body), timeout=30).returncode == 5


def test_job_that_ends_well_has_status_0(mpirun: Run) -> None:
    body = """
    with guard(comm):
        comm.barrier()
        sys.exit(0)
    """
    result = mpirun(2, write(body))
    assert (result.returncode, result.stderr) == (0, "")


class Impostor(Exception):
    """An exception of some library that happens to carry a status."""

    status = 404


class TruncatedFile(DataError):
    """A data set's own kind of error."""


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (UserError("no model"), 2, "tallygrad: error: no model\n"),
        (NotFinite("loss is nan"), 3, "tallygrad: error: loss is nan\n"),
        (TruncatedFile("train.idx: truncated"), 2, "tallygrad: error: train.idx: truncated\n"),
        (KeyboardInterrupt(), 130, "tallygrad: interrupted by SIGINT\n"),
        (Interrupted(signal.SIGTERM), 143, "tallygrad: interrupted by SIGTERM\n"),
        (
            MemoryError(),
            71,
            "tallygrad: error: not enough memory: no more memory is available; free some memory\n",
        ),
        (SystemExit(7), 7, ""),
        (SystemExit("usage"), 1, "usage\n"),
    ],
)
def test_guard_of_one_process(
    error: BaseException, status: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end, guard(SerialComm()):
        raise error
    assert end.value.code == status
    assert capsys.readouterr().err == text


@pytest.mark.parametrize("error", [Impostor("x"), ValueError("x")])
def test_guard_keeps_the_traceback_of_a_defect(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end, guard(SerialComm()):
        raise error
    assert end.value.code == 1
    shown = capsys.readouterr().err
    assert "Traceback" in shown and all(line.startswith("[rank 0] ") for line in shown.splitlines())


@pytest.mark.parametrize(("stream", "seen"), [("stderr", ""), ("stdout", "error: lost")])
def test_guard_aborts_when_a_stream_is_closed(
    stream: str, seen: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, stream, closed := StringIO())
    closed.close()
    with pytest.raises(SystemExit) as end, guard(SerialComm()):
        raise UserError("lost")
    assert end.value.code == 2 and seen in capsys.readouterr().err


def test_serial_comm_copies_nothing() -> None:
    comm = SerialComm()
    x = np.arange(6.0)
    comm.bcast(x)
    comm.allreduce(x)
    comm.iallreduce(x).wait()
    assert comm.iallreduce(x).test()
    gathered = comm.allgather(x)
    assert gathered.shape == (1, 6) and np.shares_memory(gathered, x)
    request, sent = comm.ialltoall(x[None])
    assert request.test() and sent.shape == (1, 6) and not np.shares_memory(sent, x)
    assert np.array_equal(x, np.arange(6.0))
    comm.sendrecv(x, twin := np.zeros(6), 0)
    assert np.array_equal(twin, x)
    assert comm.bcast_bytes(b"ab") == b"ab" and comm.gather_bytes(b"ab") == [b"ab"]
    with pytest.raises(ValueError, match="root: expected 0, the only rank, got 1"):
        comm.bcast(x, 1)
    with pytest.raises(ValueError, match=r"all-to-all: expected shape \(1, ..\), .* got \(2, 3\)"):
        comm.ialltoall(np.zeros((2, 3)))


def test_connect_without_a_launcher_never_loads_mpi() -> None:
    code = (
        "import sys; from tallygrad.trainer.distributed.comm import connect, SerialComm;"
        "assert type(connect({})) is SerialComm; assert 'mpi4py' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_mismatch_of_launcher_and_library_names_both_sizes() -> None:
    code = PRELUDE.replace("connect()", "connect({'PMI_SIZE': '3'})")
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    last = result.stderr.strip().splitlines()[-1]
    assert "UserError: expected 3 ranks, as the launcher started, got 1" in last


@pytest.mark.parametrize("failure", ["RuntimeError('cannot load MPI library')", "ImportError()"])
def test_absent_mpi_library_is_a_user_error(tmp_path: Path, failure: str) -> None:
    (tmp_path / "mpi4py").mkdir()
    (tmp_path / "mpi4py" / "__init__.py").write_text(f"raise {failure}")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    code = PRELUDE.replace("connect()", "connect({'PMI_SIZE': '3'})")
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    last = result.stderr.strip().splitlines()[-1]
    assert "UserError: MPI cannot be loaded" in last and "started 3 ranks" in last


OMPI = "OMPI_COMM_WORLD_LOCAL_SIZE"
STEP = {"SLURM_STEP_ID": "0", "SLURM_STEP_TASKS_PER_NODE": "4(x2),1"}
THREADS = [
    ({}, HostCores(8, 8), 8),
    ({}, HostCores(3, 8), 3),
    ({OMPI: "2"}, HostCores(8, 8), 4),
    ({OMPI: "2"}, HostCores(1, 2), 1),  # bound to one core
    ({OMPI: "8"}, HostCores(32, 64), 8),  # bound to a socket, four ranks on each
    ({OMPI: "4"}, HostCores(2, 2), 1),  # more ranks than cores
    ({"MPI_LOCALNRANKS": "3"}, HostCores(8, 8), 2),
    ({**STEP, "SLURM_NODEID": "1"}, HostCores(16, 16), 4),
    ({**STEP, "SLURM_NODEID": "2"}, HostCores(16, 16), 16),
    ({**STEP, "SLURM_NODEID": "7", "SLURM_NTASKS_PER_NODE": "2"}, HostCores(16, 16), 8),
    ({**STEP, "SLURM_STEP_TASKS_PER_NODE": f"4(x{10**12})"}, HostCores(16, 16), 4),
    ({"SLURM_NTASKS_PER_NODE": "4"}, HostCores(16, 16), 16),  # a plain process of a batch script
    ({"OMP_NUM_THREADS": "5", OMPI: "2"}, HostCores(8, 8), 5),
    ({"OMP_NUM_THREADS": "3,2"}, HostCores(8, 8), 3),
    ({"OPENBLAS_NUM_THREADS": "6"}, HostCores(8, 8), 8),  # of BLAS, which has one
    ({"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "6"}, HostCores(8, 8), 2),
    ({"OMP_NUM_THREADS": "0"}, HostCores(8, 8), 8),
    ({OMPI: "0"}, HostCores(4, 4), 4),
]


@pytest.mark.parametrize(("env", "machine", "count"), THREADS)
def test_threads(env: dict[str, str], machine: HostCores, count: int) -> None:
    assert configure(dict(env), machine, wanted=7) == 7
    env = dict(env)
    assert configure(env, machine) == count
    assert {env[name] for name in THREAD_VARIABLES} == {"1"}
    assert "OPENBLAS_CORETYPE" not in env


@pytest.mark.parametrize(
    ("files", "env", "cores"),
    [
        ({}, {}, 64),
        ({"jobs/7/cpuset.cpus.effective": "0-3,8\n"}, {}, 5),
        ({"jobs/7/cpu.max": "250000 100000\n"}, {}, 2),
        ({"jobs/7/cpu.max": "50000 100000\n"}, {}, 1),
        ({"jobs/7/cpu.max": "max 100000\n", "jobs/7/cpuset.cpus.effective": "\n"}, {}, 64),
        ({}, {"SLURM_CPUS_ON_NODE": "6"}, 6),
    ],
)
def test_cores_heed_containers_and_jobs(
    monkeypatch: pytest.MonkeyPatch, files: dict[str, str], env: dict[str, str], cores: int
) -> None:
    root = Path("/sys/fs/cgroup")
    texts = {Path("/proc/self/cgroup"): "4:memory:/other\n0::/jobs/7\n"}
    texts |= {root / name: text for name, text in files.items()}
    monkeypatch.setattr(threads, "_read", lambda path: texts.get(path, ""))
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert HostCores.here(env).cores == cores


def cpuinfo(vendor: str, flags: str) -> str:
    core = f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: fpu {flags}\n\n"
    return core + core


AVX512 = "avx512f avx512bw avx512dq avx512vl"


@pytest.mark.parametrize(
    ("vendor", "flags", "user", "chosen"),
    [
        ("AuthenticAMD", AVX512, None, "SkylakeX"),
        ("AuthenticAMD", AVX512, "Zen", "Zen"),
        ("AuthenticAMD", "avx2 avx512f", None, None),
        ("GenuineIntel", AVX512, None, None),
    ],
)
def test_kernels_of_openblas(vendor: str, flags: str, user: str | None, chosen: str | None) -> None:
    env = {} if user is None else {"OPENBLAS_CORETYPE": user}
    configure(env, HostCores(1, 1, cpuinfo(vendor, flags)))
    assert env.get("OPENBLAS_CORETYPE") == chosen


def test_threads_are_left_alone_once_numpy_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert configure() >= 1
    assert not any(name in os.environ for name in THREAD_VARIABLES)


def test_threads_of_a_fresh_process() -> None:
    code = (
        "import os, sys; from tallygrad.trainer.threads import configure; n = configure();"
        "assert 'numpy' not in sys.modules; print(os.environ['OPENBLAS_NUM_THREADS'], n)"
    )
    clean = {k: v for k, v in os.environ.items() if k not in THREAD_VARIABLES}
    shown = subprocess.run(
        [sys.executable, "-c", code], env=clean, capture_output=True, text=True, check=True
    ).stdout.split()
    assert shown[0] == "1" and 1 <= int(shown[1]) <= (os.cpu_count() or 1)
