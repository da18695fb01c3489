"""The run folder and shared memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from .finding import ERROR, OK, WARNING, Finding, Setting
from .probe import ProbeError, ask

MEGABYTE = 1 << 20
WRITTEN = 64  # MB
SLOW = 50.0  # MB/s: a checkpoint of ResNet-50 with its momentum, 200 MB, would take 4 s
LITTLE, TIGHT = 256, 2048  # MB of free space below which is an error or a warning
# What both MPIs took for a job of 2 to 8 ranks that exchange 4 MB: 40 MB and 6 MB a rank.
SHARED, SHARED_EACH = 64, 16  # MB
LIMIT = 60.0

# In processes of their own, for a file system that does not answer stops whoever asks it.
DISK = """
import json, os, sys, tempfile, time
block = os.urandom(1 << 20)
with tempfile.TemporaryFile(dir=sys.argv[1], buffering=0) as file:
    start = time.perf_counter()
    for _ in range(int(sys.argv[2])):
        rest = memoryview(block)
        while rest:
            rest = rest[file.write(rest):]
    os.fsync(file.fileno())
    print(json.dumps(time.perf_counter() - start))
"""
SPACE = """
import json, os, sys
state = os.statvfs(sys.argv[1])
print(json.dumps([state.f_bavail * state.f_frsize, state.f_favail if state.f_files else None]))
"""
LOCKS = """
import json, sys, tempfile
import h5py
with tempfile.TemporaryDirectory(prefix=".tallygrad-doctor-", dir=sys.argv[1]) as folder:
    path = f"{folder}/locks.h5"
    with h5py.File(path, "w") as file:
        file["x"] = [1.0, 2.0]
    with h5py.File(path, "r") as file:
        assert file["x"][1] == 2
print(json.dumps([h5py.__version__, h5py.version.hdf5_version]))
"""


def check_disk(setting: Setting) -> Iterator[Finding]:
    """Write a file to the run folder and see how fast it reaches the disk."""
    folder = setting.existing_folder
    try:
        seconds = float(ask(DISK, str(folder), str(WRITTEN), limit=LIMIT))
    except ProbeError as error:
        remedy = "name a folder that you may write to, on a disk with room: --out FOLDER"
        yield Finding("disk-speed", ERROR, f"{folder}: cannot write {WRITTEN} MB: {error}", remedy)
        return
    speed = WRITTEN * MEGABYTE / 1e6 / max(seconds, 1e-9)
    seen = f"{folder} ({file_system(folder)}): {speed:,.0f} MB/s"
    remedy = "put --out on a faster disk, or write less often: train --checkpoint-every STEPS"
    yield (
        Finding("disk-speed", WARNING, f"{seen}; checkpoints will hold up training", remedy)
        if speed < SLOW
        else Finding("disk-speed", OK, seen)
    )


def check_space(setting: Setting) -> Iterator[Finding]:
    """See how much the run folder can still take."""
    folder = setting.existing_folder
    try:
        free, files = ask(SPACE, str(folder), limit=LIMIT)
    except ProbeError as error:
        yield Finding(
            "disk-space", ERROR, f"{folder}: {error}", "name another folder: --out FOLDER"
        )
        return
    megabytes = int(free) // MEGABYTE
    seen = f"{folder}: {megabytes / 1024:,.1f} GB free"
    if files is not None and int(files) < 100:
        seen, megabytes = f"{seen}, but room for {files} files only", 0
    status = ERROR if megabytes < LITTLE else WARNING if megabytes < TIGHT else OK
    remedy = f"make room (du -xh {folder} | sort -h | tail), or name another folder: --out FOLDER"
    yield Finding("disk-space", status, seen, "" if status == OK else remedy)


def check_locks(setting: Setting) -> Iterator[Finding]:
    """Write and read an HDF5 file in the run folder, which needs a lock."""
    folder = setting.existing_folder
    try:
        versions = ask(LOCKS, str(folder), env=setting.worker_env, limit=LIMIT)
    except ProbeError as error:
        yield _no_lock(folder, str(error), setting)
        return
    locking = setting.worker_env.get("HDF5_USE_FILE_LOCKING")
    said = f" (HDF5_USE_FILE_LOCKING={locking})" if locking else ""
    seen = f"{folder}: files open with their locks{said}; h5py {versions[0]}, HDF5 {versions[1]}"
    yield Finding("hdf5-locks", OK, seen)


def _no_lock(folder: Path, reason: str, setting: Setting) -> Finding:
    if "No module named" in reason:
        return Finding("hdf5-locks", ERROR, reason, "python -m pip install h5py")
    if "lock" not in reason.lower():
        return Finding("hdf5-locks", ERROR, f"{folder}: {reason}", "name another: --out FOLDER")
    seen = f"{folder} ({file_system(folder)}) has no locks: {reason}"
    return Finding("hdf5-locks", WARNING, seen, "export HDF5_USE_FILE_LOCKING=FALSE")


def check_shared_memory(setting: Setting, folder: Path = Path("/dev/shm")) -> Iterator[Finding]:
    """See whether the ranks of this host can share memory, by which MPI exchanges in a host."""
    needed = SHARED + SHARED_EACH * setting.local_ranks
    remedy = f"docker run --shm-size={max(1024, needed)}m; on Kubernetes mount an emptyDir of " \
             f"medium Memory there; else mount -o remount,size=50% {folder}"  # fmt: skip
    try:
        state = os.statvfs(folder)
    except OSError as error:
        yield Finding("shared-memory", ERROR, f"{folder}: {error.strerror}", remedy)
        return
    size, free = (n * state.f_frsize // MEGABYTE for n in (state.f_blocks, state.f_bavail))
    seen = f"{folder}: {free:,} of {size:,} MB free"
    if not os.access(folder, os.W_OK | os.X_OK):
        yield Finding("shared-memory", ERROR, f"{seen}, not writable", f"chmod 1777 {folder}")
    elif free < needed:
        left = remedy if size < needed else f"remove what ended jobs left: ls -l {folder}"
        seen += f"; {setting.local_ranks} ranks may need {needed}"
        yield Finding("shared-memory", WARNING, seen, left)
    else:
        yield Finding("shared-memory", OK, seen)


def file_system(folder: Path) -> str:
    """Return the type of the file system that a folder lies on, such as "ext4" or "nfs4"."""
    real = os.path.realpath(folder)
    best, kind = "", "unknown"
    with suppress(OSError):
        for line in Path("/proc/self/mounts").read_text(errors="replace").splitlines():
            _, mount, this, *_ = line.split()
            mount = mount.replace("\\040", " ")
            inside = real == mount or real.startswith(mount.rstrip("/") + "/")
            if inside and len(mount) >= len(best):
                best, kind = mount, this
    return kind
