"""Threads for this rank's arithmetic, settled before NumPy loads its BLAS.

Every rank's BLAS would otherwise start a thread on each core of the node, and round otherwise with
another number of them. It gets one: the threads that share a rank's cores are the engine's own,
whose results do not depend on how many there are.
"""

import ctypes
import os
import sys
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path

from .numbers import whole_number

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
MOST_THREADS = 1024  # of a rank
_LOCAL_SIZES = (
    "OMPI_COMM_WORLD_LOCAL_SIZE",  # Open MPI
    "MPI_LOCALNRANKS",  # MPICH, Intel MPI
    "MV2_COMM_WORLD_LOCAL_SIZE",  # MVAPICH
    "JSM_NAMESPACE_LOCAL_SIZE",  # LSF's jsrun
)
_LOCAL_RANKS = (
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "MPI_LOCALRANKID",
    "MV2_COMM_WORLD_LOCAL_RANK",
    "JSM_NAMESPACE_LOCAL_RANK",
)
_RANKS = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK", "JSM_NAMESPACE_RANK")
_SETTERS = (
    "scipy_openblas_set_num_threads64_", "openblas_set_num_threads64_", "openblas_set_num_threads",
)  # fmt: skip
_AVX512 = {"avx512f", "avx512bw", "avx512dq", "avx512vl"}
_CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class HostCores:
    """Cores this process may use (mask), cores all of the node's ranks share, and /proc/cpuinfo."""

    mask: int
    cores: int
    cpuinfo: str = ""

    @classmethod
    def here(cls, env: Mapping[str, str]) -> "HostCores":
        """Look at this host; `cores` heeds a container's and a Slurm job's limits."""
        cores = [os.cpu_count() or 1, *_cgroup_limits()]
        if of_job := whole_number(env.get("SLURM_CPUS_ON_NODE", "")):
            cores.append(of_job)
        affinity = getattr(os, "sched_getaffinity", None)
        mask = len(affinity(0)) if affinity else cores[0]
        return cls(mask, min(cores), _read(Path("/proc/cpuinfo")))


def configure(
    env: MutableMapping[str, str] = os.environ, machine: HostCores | None = None, wanted: int = 0
) -> int:
    """Return this rank's number of threads: the wanted, else OMP_NUM_THREADS, else its cores; and
    keep its BLAS to one, in `env`.

    A rank's cores are its part of the node's, and never more than its affinity mask holds: right
    whether the launcher bound the rank to a core, to a socket shared with others, or not at all.
    Once NumPy is loaded its BLAS has its threads: nothing is touched then.
    """
    machine = machine or HostCores.here(env)
    share = max(1, machine.cores // local_ranks(env))
    threads = wanted or _user_threads(env) or max(1, min(machine.mask, share))
    if "numpy" in sys.modules and env is os.environ:
        return threads
    for name in THREAD_VARIABLES:
        env[name] = "1"
    if _wants_skylake_kernels(machine.cpuinfo):
        env.setdefault("OPENBLAS_CORETYPE", "SkylakeX")
    return threads


def limit_blas() -> None:
    """Keep a BLAS that is loaded already to one thread, where it is OpenBLAS, as in NumPy's
    wheels: a script has often loaded NumPy before it joins the other ranks."""
    libraries = {line.split()[-1] for line in _read(Path("/proc/self/maps")).splitlines()}
    for path in filter(lambda path: "openblas" in path, libraries):
        library = ctypes.CDLL(path)
        for name in _SETTERS:
            if hasattr(library, name):
                getattr(library, name)(1)


def launched_rank(env: Mapping[str, str] = os.environ) -> int:
    """Return the rank that the launcher gave this process, 0 without a launcher."""
    for name in _RANKS:
        if (rank := whole_number(env.get(name, ""))) is not None:
            return rank
    in_step = env.get("SLURM_STEP_ID", "").isdecimal()
    return (in_step and whole_number(env.get("SLURM_PROCID", ""))) or 0


def launched_local_rank(env: Mapping[str, str] = os.environ) -> int | None:
    """Return this process's place among the ranks of its node, None where the launcher does not
    tell."""
    for name in _LOCAL_RANKS:
        if (rank := whole_number(env.get(name, ""))) is not None:
            return rank
    in_step = env.get("SLURM_STEP_ID", "").isdecimal()
    return whole_number(env.get("SLURM_LOCALID", "")) if in_step else None


def local_ranks(env: Mapping[str, str]) -> int:
    """Return how many ranks the launcher started on this node, 1 without a launcher."""
    for name in _LOCAL_SIZES:
        if ranks := whole_number(env.get(name, "")):
            return ranks
    # A batch script has Slurm's job variables too; only srun's steps have a number.
    if env.get("SLURM_STEP_ID", "").isdecimal():
        return _slurm_tasks(env)
    return 1


def _slurm_tasks(env: Mapping[str, str]) -> int:
    """Read this node's entry of a list such as "4(x2),3"; 1 where it cannot be read."""
    node = whole_number(env.get("SLURM_NODEID", "0"))
    for item in env.get("SLURM_STEP_TASKS_PER_NODE", "").split(","):
        text, _, times = item.rstrip(")").partition("(x")
        tasks, nodes = whole_number(text), whole_number(times or "1")
        if tasks is None or nodes is None or node is None:
            break
        node -= nodes
        if node < 0:
            return max(1, tasks)
    return whole_number(env.get("SLURM_NTASKS_PER_NODE", "")) or 1


def _user_threads(env: Mapping[str, str]) -> int:
    # OpenMP allows one number for each level of nesting: "4,2".
    text = env.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return whole_number(text) or 0


def _wants_skylake_kernels(cpuinfo: str) -> bool:
    """Whether OpenBLAS would pass over this processor's AVX-512, as it does on AMD's."""
    fields = {}
    for line in cpuinfo.partition("\n\n")[0].splitlines():
        name, _, value = line.partition(":")
        fields[name.strip()] = value.strip()
    is_amd = fields.get("vendor_id") == "AuthenticAMD"
    return is_amd and set(fields.get("flags", "").split()) >= _AVX512


def _cgroup_limits() -> list[int]:
    """Return the cores that a container's core set and quota allow (cgroups version 2)."""
    lines = _read(Path("/proc/self/cgroup")).splitlines()
    own = next((line[3:] for line in lines if line.startswith("0::")), "/")
    group = _CGROUPS / own.lstrip("/")
    limits = [_count_cores(_read(group / "cpuset.cpus.effective"))]
    quota, _, period = _read(group / "cpu.max").strip().partition(" ")
    if quota.isdecimal() and period.isdecimal():
        limits.append(max(1, int(quota) // max(1, int(period))))
    return [limit for limit in limits if limit > 0]


def _count_cores(text: str) -> int:
    """Count a list of cores such as "0-3,8"."""
    total = 0
    for item in filter(None, text.strip().split(",")):
        first, _, last = item.partition("-")
        total += int(last or first) - int(first) + 1
    return total


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
