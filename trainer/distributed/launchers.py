"""What started this process: mpirun, srun, a launcher without MPI such as torchrun, or nobody."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from ..errors import UserError
from ..numbers import whole_number

# Open MPI's mpirun; MPICH's and Intel MPI's, and srun with PMI or PMI2; MVAPICH's; LSF's jsrun.
SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "JSM_NAMESPACE_SIZE")
# What an mpirun sets, also one that starts its daemons by srun; srun itself sets none of them.
OF_MPIRUN = (
    "OMPI_COMM_WORLD_SIZE", "MPI_LOCALNRANKS", "MV2_COMM_WORLD_SIZE", "JSM_NAMESPACE_SIZE",
)  # fmt: skip
OTHERS = (("WORLD_SIZE", "RANK"), ("HOROVOD_SIZE", "HOROVOD_RANK"))  # launchers without MPI
PATIENCE = 1.0  # seconds that rank 0 gets to report an error that all ranks meet alike


def expected_size(env: Mapping[str, str] = os.environ) -> int | None:
    """Return how many ranks the launcher says it started, None without a launcher.

    srun with PMIx, or without any PMI, tells it only through the step's own variables:
    SLURM_NTASKS is of no use, because a batch script that starts one plain process has it too,
    while SLURM_STEP_ID is a number only in what srun started.
    """
    for name in SIZES:
        if (size := _count(env, name)) is not None:
            return size
    return _count(env, "SLURM_STEP_NUM_TASKS") if _in_step(env) else None


def launcher(env: Mapping[str, str] = os.environ) -> str:
    """Return "srun", "mpirun" for it and its relatives, or "" without a launcher."""
    if expected_size(env) is None:
        return ""
    return "srun" if _in_step(env) and not any(name in env for name in OF_MPIRUN) else "mpirun"


def offered(env: Mapping[str, str] = os.environ) -> str:
    """Return the interface by which srun connects its tasks: "PMIx", "PMI2" or "no PMI"."""
    if "PMIX_NAMESPACE" in env or "PMIX_RANK" in env:
        return "PMIx"
    return "PMI2" if "PMI_FD" in env or "PMI_SIZE" in env else "no PMI"


def way_to_meet(library: str, env: Mapping[str, str] = os.environ) -> str:
    """Return what to do about ranks that the MPI library of a name does not connect."""
    way = "use the mpirun that belongs to this library"
    if launcher(env) != "srun":
        return way
    plugin = "pmix" if library.startswith("Open MPI") else "pmi2"
    here = f"srun offers {offered(env)}; " if offered(env).lower() != plugin else ""
    return f"{here}start them with `srun --mpi={plugin}`, or {way}"


def refuse_others(env: Mapping[str, str] = os.environ) -> None:
    """Refuse the processes of a launcher without MPI, such as torchrun: each would train the whole
    model. One line is enough, from the first of them: UserError there, SystemExit elsewhere."""
    for size_name, rank_name in OTHERS:
        size, rank = _count(env, size_name), _count(env, rank_name)
        if size is None or rank is None or size < 2:
            continue
        if rank > 0:
            time.sleep(PATIENCE)
            raise SystemExit(UserError.status)
        raise UserError(
            f"{size_name}={size}: expected ranks that MPI connects, got {size} processes of "
            f"{_named(env)}; run `tallygrad launch {_hosts(env, size)} -- train ...`, or mpirun or "
            f"srun; to run alone, unset {size_name}"
        )


def _named(env: Mapping[str, str]) -> str:
    if "TORCHELASTIC_RUN_ID" in env:
        return "torchrun"
    if "HOROVOD_SIZE" in env:
        return "horovodrun without MPI"
    return "a launcher without it, such as torchrun"


def _hosts(env: Mapping[str, str], size: int) -> str:
    """Return the options of `tallygrad launch` for as many ranks: torchrun's groups are hosts."""
    hosts = _count(env, "GROUP_WORLD_SIZE") or 1
    local = _count(env, "LOCAL_WORLD_SIZE") or _count(env, "HOROVOD_LOCAL_SIZE") or size
    if hosts == 1 and local == size:
        return f"-n {size}"
    return f"-n {size} --hosts HOST:{local},..."


def _count(env: Mapping[str, str], name: str) -> int | None:
    return whole_number(env.get(name, ""))


def _in_step(env: Mapping[str, str]) -> bool:
    return _count(env, "SLURM_STEP_ID") is not None
