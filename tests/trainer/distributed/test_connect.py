"""Which launcher started this process, with how many others, and whether MPI connects them."""

from __future__ import annotations

import sys
import types

import pytest

from tallygrad.trainer.distributed import comm
from tallygrad.trainer.distributed.comm import SerialComm, expected_size
from tallygrad.trainer.errors import UserError
from tallygrad.trainer.threads import launched_rank

STEP = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2"}
SIZES: list[tuple[dict[str, str], int | None]] = [
    ({}, None),
    ({"OMPI_COMM_WORLD_SIZE": "4"}, 4),
    ({"PMI_SIZE": "2"}, 2),
    ({"OMPI_COMM_WORLD_SIZE": "8", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_ID": "0"}, 8),
    ({"SLURM_NTASKS": "16", "SLURM_PROCID": "0"}, None),
    ({"SLURM_NTASKS": "16", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "3"}, 3),
    ({"SLURM_STEP_NUM_TASKS": "3"}, None),
    ({"PMI_SIZE": "many"}, None),
    ({"PMI_SIZE": "9" * 5000}, None),
]


@pytest.mark.parametrize(("env", "size"), SIZES)
def test_expected_size(env: dict[str, str], size: int | None) -> None:
    assert expected_size(env) == size


RANKS: list[tuple[dict[str, str], int]] = [
    ({}, 0),
    ({"PMI_RANK": "3"}, 3),
    ({"OMPI_COMM_WORLD_RANK": "2", "PMI_RANK": "3"}, 2),
    ({"SLURM_STEP_ID": "0", "SLURM_PROCID": "5"}, 5),
    ({"SLURM_PROCID": "5"}, 0),
    ({"PMI_RANK": "9" * 5000}, 0),
    ({"SLURM_STEP_ID": "0", "SLURM_PROCID": "9" * 5000}, 0),
]


@pytest.mark.parametrize(("env", "rank"), RANKS)
def test_launched_rank(env: dict[str, str], rank: int) -> None:
    assert launched_rank(env) == rank


@pytest.mark.parametrize(
    "names", [("RANK", "WORLD_SIZE"), ("HOROVOD_RANK", "HOROVOD_SIZE")], ids=["torchrun", "horovod"]
)
def test_launchers_without_mpi_are_refused_by_one_rank(
    names: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where each of their processes is one of a launcher with MPI."""
    monkeypatch.setattr(comm, "PATIENCE", 0.0)
    rank, size = names
    said = f"{size}=2: .*tallygrad launch -n 2 -- .* unset {size}"
    for more in ({}, {"PMI_SIZE": "1"}):
        with pytest.raises(UserError, match=said):
            comm.connect({rank: "0", size: "2", **more})
        with pytest.raises(SystemExit) as end:
            comm.connect({rank: "1", size: "2", **more})
        assert end.value.code == 2
    for harmless in ({rank: "0", size: "1"}, {size: "2"}, {rank: "0", size: "x"}):
        assert type(comm.connect(harmless)) is SerialComm


@pytest.mark.parametrize(
    ("library", "plugin"), [("MPICH Version: 5.0.2", "pmi2"), ("Open MPI v5.0.1, x", "pmix")]
)
def test_ranks_of_srun_that_do_not_meet_name_its_option(
    library: str, plugin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("mpi")
    module.MpiComm = lambda: types.SimpleNamespace(size=1, library=library)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tallygrad.trainer.distributed.mpi", module)
    said = rf"got 1 by .*: start them with `srun --mpi={plugin}`, or use"
    with pytest.raises(UserError, match=said):
        comm.connect(STEP)
    with pytest.raises(UserError, match=r"got 1 by .*: use the mpirun that belongs"):
        comm.connect({"PMI_SIZE": "2"})


@pytest.mark.parametrize("env", [{"PMI_SIZE": "1"}, {**STEP, "SLURM_STEP_NUM_TASKS": "1"}])
def test_one_rank_needs_no_mpi_library(
    env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tallygrad.trainer.distributed.mpi", None)
    assert type(comm.connect(env)) is SerialComm
    with pytest.raises(UserError, match=r"started 2 ranks: .*\(then `srun --mpi=pmi2`\)"):
        comm.connect(STEP)
