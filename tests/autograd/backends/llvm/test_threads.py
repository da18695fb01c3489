"""Convolutions of the llvm backend in several threads: the same bits as in one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tallygrad.autograd import get_num_threads, set_num_threads
from tallygrad.autograd.array import Spec
from tallygrad.autograd.ops import conv

pytest.importorskip("llvmlite", reason="llvmlite is not installed")

from tallygrad.autograd.backends.llvm.compiler.isa.targets import target
from tallygrad.autograd.backends.llvm.plans import conv as conv_plans
from tallygrad.autograd.backends.llvm.plans import conv_winograd
from tallygrad.autograd.backends.llvm.runtime import parallel

ONE, NONE = ((1, 1), (1, 1)), ((0, 0), (0, 0))
# Images, channels, results, taps, stride, padding; how convolutions are planned.
LAYERS = {
    "F4": ((13, 17, 9, 9), 20, 3, 1, ONE, "winograd"),
    "F2": ((11, 16, 4, 4), 16, 3, 1, ONE, "winograd"),
    "fewer tiles of dy": ((10, 5, 12, 12), 7, 5, 1, NONE, "winograd"),
    "direct": ((13, 3, 9, 8), 21, 3, 1, ONE, "direct"),
    "no border": ((11, 1, 12, 12), 6, 5, 1, NONE, "direct"),
    "strided": ((9, 5, 9, 9), 18, 3, 2, ONE, "direct"),
}


@pytest.fixture(autouse=True)
def _everything_is_shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(parallel, "WORTHWHILE", 1)
    monkeypatch.setattr(parallel, "CALL", 1)
    monkeypatch.setattr(conv_plans, "FOLD", 0)
    monkeypatch.setattr(conv_winograd, "FOLD", 0)
    before = get_num_threads()
    yield
    set_num_threads(before)


@pytest.mark.parametrize("name", LAYERS)
def test_bits_do_not_depend_on_threads(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shape, m, r, stride, padding, kind = LAYERS[name]
    attributes: dict[str, Any] = {
        "stride": (stride, stride), "padding": padding, "dilation": (1, 1), "groups": 1
    }  # fmt: skip
    rng = np.random.default_rng(0)

    def draw(*sizes: int) -> np.ndarray:
        return rng.standard_normal(sizes).astype("float32")

    x, w, b = draw(*shape), draw(m, shape[1], r, r), draw(m)
    e, f = conv.extents("conv2d", shape[2:], (r, r), (stride, stride), padding, (1, 1))
    dy = draw(shape[0], m, e, f)
    calls = {
        "conv2d": ((x, w, b), {}),
        "conv2d_dx": ((dy, w), {"size": shape[2:]}),
        "conv2d_dw": ((x, dy), {"size": (r, r)}),
    }
    workers = set[int]()
    address = parallel.Scratch.address

    def noted(self: parallel.Scratch, worker: int) -> int:
        workers.add(worker)
        return address(self, worker)

    monkeypatch.setattr(parallel.Scratch, "address", noted)
    for primitive, (arrays, more) in calls.items():
        given = {**attributes, **more}
        specs = [Spec(a.shape, a.dtype) for a in arrays]
        kernel = getattr(conv_plans, primitive)(target(convolution=kind), *specs, **given)
        found = []
        for threads in (1, 2, 3):
            workers.clear()
            set_num_threads(threads)
            found.append(np.array(kernel(*arrays)))
            assert workers == {*range(threads)}
        reference = getattr(conv, primitive).reference
        expected = reference(*[a.astype("float64") for a in arrays], **given)
        assert np.abs(found[0] - expected).max() < 1e-4 * np.abs(expected).max()
        for other in found[1:]:
            np.testing.assert_array_equal(other, found[0])


def test_parts_are_few_where_folding_costs() -> None:
    """Their number follows from the sizes; a small call is one part."""
    assert parallel.parts_of(0, 64, 0) == 1
    assert parallel.parts_of(1 << 30, 64, 10) == 8
    assert parallel.parts_of(1 << 30, 3, 10) == 3
    assert parallel.parts_of(1 << 24, 64, 1 << 20) == 1
    assert parallel.parts_of(1 << 26, 64, (1 << 20) - 1) == 3


def test_each_thread_has_memory_of_its_own() -> None:
    scratch = parallel.Scratch(10, "float32")
    places = [scratch.address(worker) for worker in (0, 1, 2)]
    assert len({*places}) == 3
    assert places == [scratch.address(worker) for worker in (0, 1, 2)]
    assert all((memory == 0).all() and memory.size == 10 for memory in scratch.arrays.values())


def test_each_part_is_of_its_own_images() -> None:
    seen = list[tuple[int, int, int]]()
    parallel.in_parts(7, 3, lambda part, first, count, worker: seen.append((part, first, count)))
    assert seen == [(0, 0, 2), (1, 2, 2), (2, 4, 3)]
