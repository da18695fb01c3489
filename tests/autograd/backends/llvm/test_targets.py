"""Which instructions multiply bfloat16: the fastest ones that the processor and the system give."""

from __future__ import annotations

import platform
import sys

import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed")
pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")

from tallygrad.autograd import backends
from tallygrad.autograd.backends.llvm.compiler.isa import amx, targets

if "avx512" not in targets.available():
    pytest.skip("tiles need AVX-512", allow_module_level=True)


@pytest.mark.parametrize(
    ("options", "said"),
    [("tiles=other", "expected options .*tiles=emulated.*, got 'tiles=other'"),
     ("avx2,tiles=emulated", "tiles: expected avx512 to emulate them, got avx2")],
)  # fmt: skip
def test_other_tiles_are_refused(options: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        backends.get(f"llvm:{options}")


@pytest.mark.parametrize("has_amx", [False, True])
def test_the_fastest_products_are_used(has_amx: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amx, "permitted", lambda: has_amx)
    has_dots = "+avx512bf16" in targets.target().features.split(",")
    fast = has_dots and targets.target().cpu in targets.FAST_DOTS
    chosen, named = targets.target(), targets.target("avx512")
    assert chosen.tiles == ("amx" if has_amx else "dot" if fast else "")
    assert chosen.convolves == has_amx
    assert named.tiles == ("dot" if fast else "") and not named.convolves
    assert not targets.target(tiles="off").tiles
    assert targets.target(tiles="emulated").convolves
    if has_dots:
        assert targets.target(convolution="direct", tiles="dot").convolves


def test_without_amx_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amx, "permitted", lambda: False)
    for options in ("tiles=amx", "amx"):
        with pytest.raises(ValueError, match="tiles: expected a processor with AMX, and leave to"):
            backends.get(f"llvm:{options},eager")


@pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="Linux on x86-64 is asked"
)
@pytest.mark.parametrize(("vnni", "instead"), [(True, "AVX512-VNNI"), (False, "NumPy")])
def test_a_refusal_is_one_line(
    vnni: bool, instead: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {**dict.fromkeys(amx.FEATURES, True), "avx512vnni": vnni}
    monkeypatch.setattr(amx.llvm, "get_host_cpu_features", lambda: known)
    monkeypatch.setattr(amx, "_request", lambda: 95)
    amx.permitted.cache_clear()
    try:
        assert not amx.permitted() and not amx.permitted()
    finally:
        amx.permitted.cache_clear()
    assert capsys.readouterr().err == (
        "tallygrad: not using AMX: Operation not supported; bfloat16 is computed in float32, int8 "
        f"with {instead}\n"
    )
