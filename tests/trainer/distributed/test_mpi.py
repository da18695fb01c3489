"""How ranks that share cores wait for each other, and who waits in a gather."""

import subprocess
from collections.abc import Callable

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]

# Rank 0 alone has too few cores: all must wait in the same way, or collectives would not match.
NAPPING = """
import threading, time
import numpy as np
from tallygrad.trainer.distributed import mpi
from tallygrad.trainer.distributed.comm import connect

cores = 0 if connect().rank == 0 else 1 << 20
mpi.HostCores.here = classmethod(lambda cls, env: cls(1, cores))
comm = mpi.MpiComm()
rank, size = comm.rank, comm.size
other, half = comm.stream("other"), comm.split(rank // 2, "half")
assert comm.leaders() == [0] * size
# The watchdog sees ranks wait in these, too.
assert [call.name for call in comm.journal.latest] == ["stream", "split", "leaders", "allgather"]
mine, late = np.arange(3.0) + rank, size - 1
everyone = np.arange(3.0) + np.arange(size)[:, None]

def bcast():
    array = mine.copy()
    other.bcast(array, late)
    return array, everyone[late]

def allreduce():
    array = mine.copy()
    comm.allreduce(array, "max")
    return array, everyone[late]

def request():
    array = mine.copy()
    comm.iallreduce(array).wait()
    return array, everyone.sum(0)

def neighbours():
    out = np.empty(3)
    comm.sendrecv(mine, out, (rank + 1) % size, (rank - 1) % size)
    return out, everyone[rank - 1]

def gather():
    found = comm.gather_bytes(bytes([rank]) * rank, late)
    return found, [bytes([r]) * r for r in range(size)] if rank == late else []

sleep = time.sleep
for way in (
    bcast, allreduce, request, neighbours, gather,
    lambda: (comm.allgather(mine), everyone), lambda: (comm.barrier(), None),
):
    comm.idle_barrier()
    naps = []
    time.sleep = lambda seconds: (naps.append(threading.current_thread()), sleep(seconds))
    if rank == late:
        sleep(0.2)
    found, expected = way()
    time.sleep = sleep
    assert np.array_equal(found, expected), (way, found, expected)
    asleep = threading.main_thread() in naps  # other threads watch the launcher
    assert asleep or rank == late or (way is neighbours and rank > 0) or (way is gather), way
pair = np.array(rank)
half.allreduce(pair)
assert pair == sum(r for r in range(size) if r // 2 == rank // 2)
print(f"rank {rank} of {size} is right")
"""

# Rank 0 gathers only once the others have gone on.
GATHER = """
import numpy as np
from tallygrad.trainer.distributed import mpi

for naps in (False, True):
    comm = mpi.MpiComm(naps=naps)
    word = np.zeros(1)
    if comm.rank:
        assert comm.gather_bytes(bytes([comm.rank]) * comm.rank) == []
        comm.sendrecv(word, word.copy(), 0)
    else:
        for rank in range(1, comm.size):
            comm.sendrecv(word, word.copy(), rank)
        assert comm.gather_bytes(b"") == [bytes([r]) * r for r in range(comm.size)]
    print("is right")
"""


def test_only_the_root_waits_in_a_gather(mpirun: Run) -> None:
    result = mpirun(3, GATHER)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("is right") == 6, result.stdout


def test_ranks_that_share_cores_sleep_while_they_wait(mpirun: Run) -> None:
    result = mpirun(4, NAPPING)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("is right") == 4, result.stdout


# As under `taskset`, on a host with many cores.
MASKED = """
import os, sys
from tallygrad.trainer.distributed import mpi
from tallygrad.trainer.distributed.comm import connect

rank, cores = connect().rank, int(sys.argv[1])
mpi.HostCores.here = classmethod(lambda cls, env: cls(1, 1 << 20))
os.sched_getaffinity = lambda process: {100 + rank % cores}
print(f"naps {mpi.MpiComm()._naps}")
"""


@pytest.mark.parametrize(("cores", "naps"), [("2", True), ("3", False)])
def test_cores_are_those_that_the_ranks_of_a_host_may_use(
    mpirun: Run, cores: str, naps: bool
) -> None:
    result = mpirun(3, MASKED, cores)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count(f"naps {naps}") == 3, result.stdout
