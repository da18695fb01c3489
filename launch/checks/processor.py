"""Cores and threads, instructions, and the libraries that compute."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path

from .finding import ERROR, OK, WARNING, Finding, Setting
from .probe import ProbeError, ask

CPUINFO = Path("/proc/cpuinfo")
AVX512 = {"avx512f", "avx512bw", "avx512dq", "avx512vl"}
AMX = {"amx_tile", "amx_int8", "amx_bf16"}
# arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA): Linux's Documentation/arch/x86/xstate.rst
PERMISSION = """
import ctypes, json, os
libc = ctypes.CDLL(None, use_errno=True)
failed = libc.syscall(158, 0x1023, 18)
print(json.dumps(os.strerror(ctypes.get_errno()) if failed else ""))
"""
# A product, so that a kernel is compiled and runs.
BACKEND = """
import json, warnings
warnings.simplefilter("ignore")
import tallygrad.autograd as ag
from tallygrad.autograd import backends
name = backends.default()
backend = backends.get(name)  # NumPy's in the place of a default that does not load
x = ag.ones((33, 47)) @ ag.ones((47, 8))
assert x.numpy().min() == x.numpy().max() == 47, "a matrix product is wrong"
loaded = "llvm" if "llvm" in type(backend).__module__.split(".") else "numpy"
target = getattr(backend, "target", None)
print(json.dumps([name, loaded, target.name if target else ""]))
"""
# NumPy's wheels rename OpenBLAS's functions; 64_ marks 64-bit indices.
BLAS = """
import ctypes, json
import numpy
names = [f"{p}openblas_get_corename{s}" for p in ("scipy_", "") for s in ("64_", "")]
kernel = ""
for path in {line.split()[-1] for line in open("/proc/self/maps") if "openblas" in line}:
    library = ctypes.CDLL(path)
    for name in names:
        if hasattr(library, name):
            function = getattr(library, name)
            function.restype = ctypes.c_char_p
            kernel = function().decode()
blas = numpy.show_config(mode="dicts")["Build Dependencies"]["blas"]
print(json.dumps([numpy.__version__, str(blas.get("name", "")), kernel]))
"""
# OpenBLAS's names of kernels, by the instructions that they use.
OF_AVX512 = {"SkylakeX", "Cooperlake", "SapphireRapids"}
OF_AVX2 = {"Haswell", "Zen", "Excavator"}


def check_threads(setting: Setting) -> Iterator[Finding]:
    """Compare the threads of the ranks of this host with its cores."""
    ranks, threads, cores = setting.local_ranks, setting.threads, setting.cores
    seen = f"{ranks} x {threads} thread{'s' * (threads > 1)} on {cores} core{'s' * (cores > 1)}"
    each = max(1, cores // ranks)
    asked = setting.env.get("OMP_NUM_THREADS")
    said = f" (OMP_NUM_THREADS={asked})" if asked else ""
    if ranks > cores:
        remedy = f"at most {cores} rank{'s' * (cores > 1)} on this host"
        yield Finding("threads", WARNING, f"{seen}{said}: ranks take turns on a core", remedy)
    elif ranks * threads > cores:
        seen += f"{said}: threads take turns on a core"
        yield Finding("threads", WARNING, seen, f"export OMP_NUM_THREADS={each}")
    elif asked and threads * 2 <= each:
        yield Finding("threads", WARNING, f"{seen}{said}: cores stay idle", "unset OMP_NUM_THREADS")
    else:
        yield Finding("threads", OK, seen)


def check_instructions(setting: Setting) -> Iterator[Finding]:
    """Look for wide vectors and matrix tiles, and ask Linux for the right to use the latter."""
    flags = cpu_flags()
    if platform.machine() not in ("x86_64", "AMD64"):
        yield Finding("instructions", OK, platform.machine())
        return
    found = [name for name, has in (("AVX2", "avx2" in flags), ("AVX-512", flags >= AVX512)) if has]
    if "avx2" not in flags:
        remedy = "use a newer processor or, in a virtual machine, pass the host's (-cpu host)"
        yield Finding("instructions", WARNING, "neither AVX2 nor AVX-512", remedy)
        return
    if not flags >= AMX:
        yield Finding("instructions", OK, f"{', '.join(found)}; no AMX")
        return
    yield _amx(", ".join([*found, "AMX"]))


def _amx(found: str) -> Finding:
    try:
        refused = ask(PERMISSION)
    except ProbeError as error:
        refused = str(error)
    if refused:
        remedy = "use Linux 5.16 or newer; in a container, let seccomp pass arch_prctl"
        return Finding("instructions", WARNING, f"{found}, which Linux denies: {refused}", remedy)
    return Finding("instructions", OK, f"{found}, which Linux permits")


def check_backend(setting: Setting) -> Iterator[Finding]:
    """Compute a product on the backend that is used by default."""
    try:
        asked, loaded, target = ask(BACKEND, env=setting.worker_env)
    except ProbeError as error:
        remedy = "python -m pip install --upgrade 'tallygrad[llvm]', or train --backend numpy"
        yield Finding("backend", ERROR, f"no matrix product: {error}", remedy)
        return
    seen = f"{loaded} for {target}" if target else loaded
    if loaded == "llvm" or setting.env.get("TALLYGRAD_BACKEND") == asked:
        yield Finding("backend", OK, seen)
        return
    remedy = "python -m pip install 'tallygrad[llvm]'"
    yield Finding("backend", WARNING, "numpy: without llvmlite, training is slower", remedy)


def check_blas(setting: Setting) -> Iterator[Finding]:
    """Compare the kernels that NumPy's OpenBLAS chose with this processor's instructions."""
    try:
        version, name, kernel = ask(BLAS, env=setting.worker_env)
    except ProbeError as error:
        remedy = "python -m pip install --force-reinstall numpy"
        yield Finding("blas", ERROR, f"NumPy does not load: {error}", remedy)
        return
    seen = f"NumPy {version}, {name or 'no BLAS'}{f' with kernels for {kernel}' if kernel else ''}"
    yield _judge_kernel(kernel, cpu_flags(), setting) or Finding("blas", OK, seen)


def _judge_kernel(kernel: str, flags: set[str], setting: Setting) -> Finding | None:
    """Return a warning if OpenBLAS passes over wider vectors, as it does on some AMD processors."""
    better = "SkylakeX" if flags >= AVX512 else "Haswell" if "avx2" in flags else ""
    good = OF_AVX512 if better == "SkylakeX" else OF_AVX512 | OF_AVX2
    if not kernel or not better or kernel in good:
        return None
    asked = setting.env.get("OPENBLAS_CORETYPE")
    remedy = "unset OPENBLAS_CORETYPE" if asked else f"export OPENBLAS_CORETYPE={better}"
    width = "AVX-512" if better == "SkylakeX" else "AVX2"
    return Finding("blas", WARNING, f"OpenBLAS uses kernels for {kernel}, without {width}", remedy)


def cpu_flags() -> set[str]:
    """Return the names of this processor's features, as Linux lists them."""
    try:
        lines = CPUINFO.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    return next((set(x.partition(":")[2].split()) for x in lines if x.startswith("flags")), set())
