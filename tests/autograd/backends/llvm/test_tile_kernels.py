"""Kernels of tiles by themselves: how weights are packed, and what is compiled for AMX."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed")

import llvmlite.binding as llvm

from tallygrad.autograd.backends.llvm.compiler.isa import targets
from tallygrad.autograd.backends.llvm.compiler.jit import build
from tallygrad.autograd.backends.llvm.compiler.language import KernelBuilder
from tallygrad.autograd.backends.llvm.kernels.conv_tiles import TileCorrelation, correlate, depth
from tallygrad.autograd.backends.llvm.kernels.conv_tiles_weights import correlate_weights
from tallygrad.autograd.backends.llvm.kernels.tile_weights import pack
from tallygrad.autograd.backends.llvm.plans.conv_tiles import padded as filled_up

if "avx512" not in targets.available():
    pytest.skip("tiles are emulated with AVX-512", allow_module_level=True)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("sizes", [(20, 16, 9), (34, 40, 4), (70, 34, 1), (6, 6, 3)], ids=str)
def test_weights_are_packed_in_pairs_of_channels(sizes: Any, turned: bool) -> None:
    """As [result / 32][channel / depth][matrix][half][pair of channels][16 results][2]."""
    numbers = np.random.default_rng(0).integers(1, 2**16, sizes).astype(np.uint16)
    w = numbers.transpose(1, 0, 2) if turned else numbers
    results, channels, matrices = w.shape
    padded = filled_up(channels, 2)
    deep, outer = depth(padded), -(-results // 32)
    whole = np.zeros((outer * 32, padded, matrices), np.uint16)
    whole[:results, :channels] = w
    parts = whole.reshape(outer, 2, 16, padded // deep, deep // 2, 2, matrices)
    expected = parts.transpose(0, 3, 6, 1, 4, 2, 5)
    packed = np.zeros((*expected.shape[:4], 512), np.uint16)
    function = build(pack, targets.target(), sizes, deep, padded, turned)
    function(numbers.ctypes.data, packed.ctypes.data)
    found = packed[..., : deep // 2 * 32].reshape(expected.shape)
    np.testing.assert_array_equal(found, expected)


def assembly(kernel: KernelBuilder, target: targets.Target) -> str:
    """Return what LLVM makes of a kernel."""
    module = llvm.parse_assembly(kernel.text())
    module.triple = llvm.get_process_triple()
    made_for = llvm.Target.from_default_triple()
    machine = made_for.create_target_machine(cpu=target.cpu, features=target.features)
    return str(machine.emit_assembly(module))


@pytest.mark.parametrize(
    ("kind", "instruction"),
    [("bfloat16", "tdpbf16ps"), ("int8", "tdpbssd"), ("uint8", "tdpbusd")],
)
def test_amx_multiplies_where_it_is_asked_for(kind: str, instruction: str) -> None:
    """Kernels are compiled for AMX, which need not be there."""
    features = "+avx512bf16,+avx512bw,+avx512dq,+avx512vl,+amx-tile,+amx-bf16,+amx-int8"
    here = targets.target(tiles="emulated")
    there = replace(here, cpu="sapphirerapids", features=features, tiles="amx")
    taps = (0, 0, 0), (0, 1, 1)
    c = TileCorrelation(64, 64, 40, 2, (3, 3), (3, 2), taps, (1, 1), (3, 2), kind=kind)
    written = assembly(correlate(there, c, 2, (16,), False), there)
    assert ("vcvtne2ps2bf16" in written) == (kind == "bfloat16")
    for each in ("ldtilecfg", "tileloadd", instruction, "tilestored", "tilerelease"):
        assert each in written
    if kind == "bfloat16":
        assert instruction in assembly(correlate_weights(there, c, (4, 2), 6, 64), there)
