"""Which launcher started this process, with how many others, and whether MPI connects them."""

from __future__ import annotations

import os
import sys
import types

import pytest

from tallygrad.trainer.distributed import comm, launchers
from tallygrad.trainer.distributed.comm import SerialComm
from tallygrad.trainer.distributed.launchers import expected_size, launcher, offered
from tallygrad.trainer.errors import UserError
from tallygrad.trainer.threads import launched_local_rank, launched_rank

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


# What each way to start a process leaves in its environment, as Slurm 23.11, MPICH 5, Open MPI 5,
# Spectrum MPI and torchrun 2 set it: name, variables, launcher, ranks, place, srun's interface.
PMIX = {"PMIX_NAMESPACE": "slurm.pmix.7.0", "PMIX_RANK": "1"}
PMI2 = {"PMI_FD": "12", "PMI_JOBID": "7.0", "PMI_RANK": "1", "PMI_SIZE": "2"}
PLACE = {"SLURM_PROCID": "1", "SLURM_LOCALID": "0"}
WAYS: list[tuple[str, dict[str, str], str, int | None, int, int | None, str]] = [
    ("alone", {}, "", None, 0, None, ""),
    ("batch script", {"SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, "",
     None, 0, None, ""),
    ("srun, PMIx", {**STEP, **PLACE, **PMIX}, "srun", 2, 1, 0, "PMIx"),
    ("srun, PMI2", {**STEP, **PLACE, **PMI2}, "srun", 2, 1, 0, "PMI2"),
    ("srun, no PMI", {**STEP, **PLACE}, "srun", 2, 1, 0, "no PMI"),
    ("srun, one task", {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0",
                        "SLURM_LOCALID": "0"}, "srun", 1, 0, 0, "no PMI"),
    ("hydra", {"PMI_FD": "5", "PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALNRANKS": "2",
               "MPI_LOCALRANKID": "1"}, "mpirun", 2, 1, 1, ""),
    ("hydra in a step of Slurm", {**STEP, "SLURM_PROCID": "0", "PMI_RANK": "3", "PMI_SIZE": "4",
                                  "MPI_LOCALNRANKS": "2", "MPI_LOCALRANKID": "1"},
     "mpirun", 4, 3, 1, ""),
    ("prterun in a step of Slurm", {**STEP, **PMIX, "OMPI_COMM_WORLD_SIZE": "4",
                                    "OMPI_COMM_WORLD_RANK": "2",
                                    "OMPI_COMM_WORLD_LOCAL_RANK": "0"}, "mpirun", 4, 2, 0, ""),
    ("jsrun", {"JSM_NAMESPACE_SIZE": "6", "JSM_NAMESPACE_RANK": "5",
               "JSM_NAMESPACE_LOCAL_RANK": "2"}, "mpirun", 6, 5, 2, ""),
    ("torchrun", {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}, "", None, 0, None, ""),
]  # fmt: skip


@pytest.mark.parametrize(
    ("env", "name", "size", "rank", "local", "way"),
    [way[1:] for way in WAYS],
    ids=[way[0] for way in WAYS],
)
def test_launchers_are_told_apart(
    env: dict[str, str], name: str, size: int | None, rank: int, local: int | None, way: str
) -> None:
    assert (launcher(env), expected_size(env)) == (name, size)
    assert (launched_rank(env), launched_local_rank(env)) == (rank, local)
    if way:
        assert offered(env) == way


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
    monkeypatch.setattr(launchers, "PATIENCE", 0.0)
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


TORCHRUN = {"RANK": "0", "TORCHELASTIC_RUN_ID": "none", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
SUGGESTED = [
    ({**TORCHRUN, "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4", "GROUP_WORLD_SIZE": "1"},
     r"4 processes of torchrun; run `tallygrad launch -n 4 -- train"),
    ({**TORCHRUN, "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4", "GROUP_WORLD_SIZE": "2"},
     r"8 processes of torchrun; run `tallygrad launch -n 8 --hosts HOST:4,\.\.\. -- train"),
    ({"RANK": "0", "WORLD_SIZE": "3", "MASTER_ADDR": "a"},
     r"3 processes of a launcher without it, such as torchrun; run `tallygrad launch -n 3 -- "),
    ({"HOROVOD_RANK": "0", "HOROVOD_SIZE": "4", "HOROVOD_LOCAL_SIZE": "2"},
     r"horovodrun without MPI; run `tallygrad launch -n 4 --hosts HOST:2,\.\.\. -- train"),
]  # fmt: skip


@pytest.mark.parametrize(("env", "said"), SUGGESTED)
def test_another_launcher_is_told_what_to_run_instead(env: dict[str, str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        comm.connect(env)


@pytest.mark.parametrize(
    ("library", "plugin"), [("MPICH Version: 5.0.2", "pmi2"), ("Open MPI v5.0.1, x", "pmix")]
)
def test_ranks_of_srun_that_do_not_meet_name_its_option(
    library: str, plugin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("mpi")
    module.MpiComm = lambda: types.SimpleNamespace(size=1, library=library)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tallygrad.trainer.distributed.mpi", module)
    meant = {"pmi2": PMI2, "pmix": PMIX}
    for env, here in [
        ({}, "srun offers no PMI; "),
        (meant.pop(plugin), ""),
        (*meant.values(), "srun offers " + {"pmi2": "PMIx", "pmix": "PMI2"}[plugin] + "; "),
    ]:
        said = rf"got 1 by .*: {here}start them with `srun --mpi={plugin}`, or use"
        with pytest.raises(UserError, match=said):
            comm.connect({**STEP, **env})
    with pytest.raises(UserError, match=r"got 1 by .*: use the mpirun that belongs"):
        comm.connect({"PMI_SIZE": "2"})
    with pytest.raises(UserError, match=r"got 1 by .*: use the mpirun that belongs"):
        comm.connect({**STEP, "PMI_SIZE": "2", "MPI_LOCALNRANKS": "2"})


@pytest.mark.parametrize(
    ("env", "told"),
    [
        ({"PMI_SIZE": "2", "PMI_RANK": "1", "MPI_LOCALNRANKS": "2"}, b"cmd=abort exitcode=3\n"),
        ({**STEP, **PMI2}, b""),  # whose manager would call that an invalid command
    ],
    ids=["hydra", "srun"],
)
def test_a_rank_that_fails_before_it_meets_others_tells_hydra(
    env: dict[str, str], told: bytes
) -> None:
    reading, writing = os.pipe()
    with pytest.raises(SystemExit) as end:
        comm.UnmetComm({**env, "PMI_FD": str(writing)}).abort(3)
    os.close(writing)
    with open(reading, "rb") as pipe:
        assert (end.value.code, pipe.read()) == (3, told)


@pytest.mark.parametrize("env", [{"PMI_SIZE": "1"}, {**STEP, "SLURM_STEP_NUM_TASKS": "1"}])
def test_one_rank_needs_no_mpi_library(
    env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tallygrad.trainer.distributed.mpi", None)
    assert type(comm.connect(env)) is SerialComm
    with pytest.raises(UserError, match=r"started 2 ranks: .*\(then `srun --mpi=pmi2`\)"):
        comm.connect(STEP)
