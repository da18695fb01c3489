"""Cores and threads, instructions, backend and BLAS."""

from __future__ import annotations

import platform
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tallygrad.launch.checks import processor
from tallygrad.launch.checks.finding import ERROR, OK, WARNING, Setting

Make = Callable[..., Setting]
Stub = Callable[..., dict[str, str]]
WIDE = "avx avx2 fma avx512f avx512bw avx512dq avx512vl"


@pytest.mark.parametrize(
    ("ranks", "threads", "cores", "asked", "status", "remedy"),
    [
        (2, 4, 8, "", OK, ""),
        (1, 8, 8, "8", OK, ""),
        (2, 8, 8, "8", WARNING, "export OMP_NUM_THREADS=4"),
        (16, 1, 8, "", WARNING, "at most 8 ranks on this host"),
        (2, 1, 1, "", WARNING, "at most 1 rank on this host"),
        (2, 1, 8, "1", WARNING, "unset OMP_NUM_THREADS"),
        (2, 3, 8, "3", OK, ""),
        (2, 1, 8, "", OK, ""),  # bound to a core each: see binding
    ],
)
def test_threads(
    ranks: int, threads: int, cores: int, asked: str, status: str, remedy: str
) -> None:
    env = {"OMP_NUM_THREADS": asked} if asked else {}
    job = Setting(local_ranks=ranks, threads=threads, cores=cores, env=env)
    (found,) = processor.check_threads(job)
    assert (found.status, found.remedy) == (status, remedy)
    assert found.seen.startswith(f"{ranks} x {threads} thread")


def flags(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let /proc/cpuinfo list these features."""
    if platform.machine() != "x86_64":
        pytest.skip("the features are those of x86-64")
    path = tmp_path / "cpuinfo"
    path.write_text(f"processor\t: 0\nflags\t\t: fpu {text}\nbugs\t\t: avx2\n\nflags\t: none\n")
    monkeypatch.setattr(processor, "CPUINFO", path)


@pytest.mark.parametrize(
    ("found_flags", "status", "seen"),
    [
        ("sse4_2", WARNING, "neither AVX2 nor AVX-512"),
        ("avx2", OK, "AVX2; no AMX"),
        ("avx2 avx512f", OK, "AVX2; no AMX"),
        (WIDE, OK, "AVX2, AVX-512; no AMX"),
    ],
)
def test_instructions(
    found_flags: str, status: str, seen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags(found_flags, tmp_path, monkeypatch)
    (found,) = processor.check_instructions(Setting())
    assert (found.status, found.seen) == (status, seen)
    assert bool(found.remedy) == (status != OK)


def test_matrix_tiles_that_linux_denies(
    apart: Callable[..., list[dict[str, Any]]], tmp_path: Path
) -> None:
    """As a container's seccomp does: arch_prctl(ARCH_REQ_XCOMP_PERM) fails."""
    path = tmp_path / "cpuinfo"
    path.write_text(f"flags : {WIDE} amx_tile amx_int8 amx_bf16\n")
    code = f"processor.CPUINFO = Path({str(path)!r})\ndeny(158, 1, 0x1023)\n"
    (found,) = apart(code + "tell(processor.check_instructions)")
    assert found["status"] == WARNING and "arch_prctl" in found["remedy"]
    assert found["seen"] == "AVX2, AVX-512, AMX, which Linux denies: Operation not permitted"


def test_matrix_tiles_that_linux_permits(setting: Make) -> None:
    if not processor.cpu_flags() >= processor.AMX:
        pytest.skip("no AMX here")
    (found,) = processor.check_instructions(setting())
    if "permits" not in found.seen:
        pytest.skip(f"not permitted here: {found.seen}")
    assert found.status == OK and found.seen.endswith("AMX, which Linux permits")


def test_the_backend_computes(setting: Make, stub: Stub) -> None:
    (found,) = processor.check_backend(setting())
    if find_spec("llvmlite"):
        assert found.status == OK and found.seen.startswith("llvm for ")
    env = {**setting().env, "TALLYGRAD_BACKEND": "numpy"}
    (found,) = processor.check_backend(setting(env=env, worker_env=env))
    assert (found.status, found.seen) == (OK, "numpy")
    (found,) = processor.check_backend(
        setting(worker_env=stub("llvmlite", "raise ImportError('no LLVM')"))
    )
    assert found.status == WARNING and found.remedy == "python -m pip install 'tallygrad[llvm]'"


def test_a_backend_that_crashes_leaves_doctor_alive(setting: Make, stub: Stub) -> None:
    env = stub("llvmlite", "import os; os.kill(os.getpid(), 11)")
    (found,) = processor.check_backend(setting(worker_env=env))
    assert found.status == ERROR and "killed by SIGSEGV" in found.seen and found.remedy


def test_blas_kernels(setting: Make) -> None:
    """The real OpenBLAS, told to use narrower vectors than this processor has."""
    (found,) = processor.check_blas(setting())
    assert found.status == OK, found
    if "with kernels for" not in found.seen or "avx2" not in processor.cpu_flags():
        pytest.skip(f"not OpenBLAS with AVX2 here: {found.seen}")
    forced = {**setting().env, "OPENBLAS_CORETYPE": "Nehalem"}
    (found,) = processor.check_blas(setting(env=forced, worker_env=forced))
    assert found.status == WARNING and "kernels for Nehalem, without AVX" in found.seen
    assert found.remedy == "unset OPENBLAS_CORETYPE"


@pytest.mark.parametrize(
    ("kernel", "has", "remedy"),
    [
        ("Zen", WIDE, "export OPENBLAS_CORETYPE=SkylakeX"),  # AMD with AVX-512
        ("Cooperlake", WIDE, ""),
        ("Zen", "avx2 fma", ""),
        ("Sandybridge", "avx2 fma", "export OPENBLAS_CORETYPE=Haswell"),
        ("Nehalem", "sse4_2", ""),
        ("", WIDE, ""),  # not OpenBLAS
    ],
)
def test_kernels_against_instructions(
    kernel: str, has: str, remedy: str, setting: Make, stub: Stub, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    flags(has, tmp_path, monkeypatch)
    monkeypatch.setattr(processor, "BLAS", f'print(\'["2", "b", "{kernel}"]\')')
    env = {k: v for k, v in setting().env.items() if k != "OPENBLAS_CORETYPE"}
    (found,) = processor.check_blas(setting(env=env))
    assert (found.status, found.remedy) == (WARNING if remedy else OK, remedy)


def test_a_numpy_that_does_not_load(setting: Make, stub: Stub) -> None:
    (found,) = processor.check_blas(setting(worker_env=stub("numpy", "raise ImportError('x')")))
    assert found.status == ERROR and "ImportError: x" in found.seen and found.remedy
