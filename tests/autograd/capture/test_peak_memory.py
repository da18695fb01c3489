"""Bytes of results that are alive at once: the same of shapes and of numbers, on any backend, and
however a step comes about."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import Ledger, Tensor, context, models, nn
from tallygrad.autograd.capture.peak_memory import PeakMemory
from tallygrad.trainer.cost.workload import count

SHAPES = {"mlp": (1, 28, 28), "lenet": (1, 28, 28), "lstm": (1, 28, 28), "resnet20": (3, 32, 32)}


def peaks(ledger: Ledger) -> dict[tuple[str, ...], int]:
    """Return peaks whatever the backend's name."""
    return {names[:3]: size for names, size in ledger.peaks.items()}


def trained(name: str, backend: str, sizes: tuple[int, ...]) -> list[dict[tuple[str, ...], int]]:
    """Return the peaks of each of some steps on batches of the given sizes."""
    ag.manual_seed(0)
    model = models.create(name, input_shape=SHAPES[name], classes=10)
    parameters = nn.flatten([*model.parameters()]).parameters
    draw = np.random.default_rng(0)
    found = []

    @lambda f: ag.trace(f, training=True)
    def fit(x: Tensor, labels: Tensor, share: Tensor) -> Tensor:
        loss = ag.cross_entropy(model(x), labels)
        loss.backward(share)
        return loss

    for size in sizes:
        x = ag.from_numpy(draw.standard_normal((size, *SHAPES[name]), dtype=np.float32))
        with context.using(backend=backend, ledger=Ledger()) as state:
            fit(x, ag.from_numpy(draw.integers(0, 10, size)), ag.ones(()))
        for p in parameters:
            p.grad = None
        found.append(peaks(state.ledger))
    return found


@pytest.mark.parametrize("backend", ["numpy", "llvm", "llvm:eager"])
@pytest.mark.parametrize("name", SHAPES)
def test_every_step_has_the_peaks_of_its_shapes(name: str, backend: str) -> None:
    """The first, the one that is recorded and those that are repeated."""
    if backend != "numpy":
        pytest.importorskip("llvmlite", reason="llvmlite is not installed")
    predicted = {n: count(name, n, SHAPES[name], 10, training=True) for n in (4, 3)}
    sizes = (4, 4, 4, 3, 4)
    for size, found in zip(sizes, trained(name, backend, sizes), strict=True):
        assert found == peaks(predicted[size].ledger)
        assert max(found.values()) == predicted[size].peak


@pytest.mark.parametrize("backend", ["numpy", "llvm"])
def test_so_has_inference(backend: str) -> None:
    if backend != "numpy":
        pytest.importorskip("llvmlite", reason="llvmlite is not installed")
    model = models.create("resnet20").eval()
    predicted = count("resnet20", 5, (3, 32, 32), 10, training=False)
    traced = ag.trace(model)
    for _ in range(4):
        with context.using(backend=backend, ledger=Ledger()) as state, ag.no_grad():
            traced(ag.ones(5, 3, 32, 32))
        assert peaks(state.ledger) == peaks(predicted.ledger)


def test_a_view_keeps_what_it_is_of_and_numbers_from_elsewhere_do_not_count() -> None:
    watch = PeakMemory(Ledger())
    with context.using(backend="numpy", ledger=watch.ledger, observer=watch), ag.no_grad():
        given = ag.ones(250)
        x = ag.relu(given)
        part = x.reshape(25, 10)
        del x
        ag.relu(given)
        ag.relu(part)
    assert watch.lifetimes.alive() == [1000, 1000, 2000, 2000]


def test_of_peaks_the_largest_stays_and_files_keep_it() -> None:
    key, ledger, other = ("conv1", "forward", "relu", "llvm"), Ledger(), Ledger()
    for one, size in ((ledger, 7), (ledger, 5), (other, 6)):
        one.peak(key, size)
    other.merge(ledger)
    held = Ledger.from_json(other.to_json())
    assert held.peaks == other.copy().peaks == {key: 7}
    assert [row.peak for row in held] == [7]
    held.clear()
    assert not held.peaks and not held.rows()


def test_rows_show_what_is_stashed_whoever_computes() -> None:
    """A backend with options has another name on the tape than in the calls."""
    pytest.importorskip("llvmlite", reason="llvmlite is not installed")
    found: list[Any] = []
    for backend in ("meta", "llvm:direct"):
        ag.manual_seed(0)
        model = models.create("lenet", input_shape=(1, 28, 28), classes=10)
        with context.using(backend=backend, ledger=Ledger()) as state:
            loss = ag.cross_entropy(model(ag.ones(2, 1, 28, 28)), ag.zeros(2, dtype=np.int64))
            loss.backward()
        found.append([(*row.key[:3], row.calls, row.stashed) for row in state.ledger])
    assert found[0] == found[1] and sum(row[-1] for row in found[1]) > 0
