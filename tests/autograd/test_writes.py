"""Memory that came from outside: what must not be written to stays as it is, with one error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided, sliding_window_view

import tallygrad.autograd as ag
from tallygrad.autograd import nn, optim

SIZE = 5000  # large enough for every kernel
Numbers = np.ndarray


pytestmark = pytest.mark.usefixtures("backend")


def frozen_bytes(folder: Path) -> Numbers:
    return np.frombuffer(np.ones(SIZE, np.float32).tobytes(), np.float32)


def mapped(folder: Path) -> Numbers:
    np.save(folder / "x.npy", np.ones(SIZE, np.float32))
    return np.load(folder / "x.npy", mmap_mode="r")


def flagged(folder: Path) -> Numbers:
    x = np.ones(SIZE, np.float32)
    x.setflags(write=False)
    return x


def broadcast(folder: Path) -> Numbers:
    return np.broadcast_to(np.float32(1), SIZE)


def one_place(folder: Path) -> Numbers:
    return as_strided(np.ones(1, np.float32), (SIZE,), (0,))


SOURCES = [frozen_bytes, mapped, flagged, broadcast, one_place]
READ_ONLY = "expected writable memory, got a read-only array of shape"
SHARED = "whose elements share memory"


def ones() -> ag.Tensor:
    return ag.ones(SIZE)


def copy(x: ag.Tensor) -> None:
    x.copy_(2 * ones())


def zero(x: ag.Tensor) -> None:
    x.zero_()


def load(x: ag.Tensor) -> None:
    model = nn.Module()
    model.first, model.second = nn.Parameter(ones()), nn.Parameter(x)
    try:
        model.load_state_dict({"first": np.zeros(SIZE), "second": np.zeros(SIZE)})
    finally:
        np.testing.assert_array_equal(model.first.numpy(), 1)


def batch_norm(x: ag.Tensor) -> None:
    for mean, var in ((x, ones()), (ones(), x)):
        before = [t.numpy().copy() for t in (mean, var)]
        with pytest.raises(ValueError, match=f"{READ_ONLY}|{SHARED}"):
            ag.batch_norm(ag.randn(4, SIZE), mean, var, training=True)
        for t, numbers in zip((mean, var), before, strict=True):
            np.testing.assert_array_equal(t.numpy(), numbers)
    raise ValueError(READ_ONLY)  # as for the others


def velocity(x: ag.Tensor) -> None:
    sgd = optim.SGD([nn.Parameter(ones())], 0.1, momentum=0.9)
    sgd.groups[0].velocity = x.array
    sgd.parameters[0].deliver(ones())
    try:
        sgd.step()
    finally:
        np.testing.assert_array_equal(sgd.parameters[0].numpy(), 1)


def gradient_slot(x: ag.Tensor) -> None:
    p = nn.Parameter(ones())
    p.slot = x.array
    (2 * p).sum().backward()


@pytest.mark.parametrize(
    "write", [copy, zero, load, batch_norm, velocity, gradient_slot], ids=lambda f: f.__name__
)
@pytest.mark.parametrize("source", SOURCES, ids=lambda f: f.__name__)
def test_memory_that_must_not_be_written(
    source: Callable[[Path], Numbers], write: Callable[[ag.Tensor], None], tmp_path: Path
) -> None:
    numbers = source(tmp_path)
    with pytest.raises(ValueError, match=f"{READ_ONLY}|{SHARED}"):
        write(ag.from_numpy(numbers))
    np.testing.assert_array_equal(numbers, 1)


def test_the_error_tells_what_and_where() -> None:
    x = ag.from_numpy(flagged(Path()))
    with pytest.raises(ValueError, match=rf"^store: {READ_ONLY} \({SIZE},\); copy it first"):
        x.zero_()
    model = nn.Linear(2, 2)
    model.bias.numpy().setflags(write=False)
    with pytest.raises(ValueError, match=rf"^bias: {READ_ONLY} \(2,\)"):
        model.load_state_dict({"weight": np.ones((2, 2)), "bias": np.ones(2)})
    with pytest.raises(ValueError, match=rf"^store: .* of shape \(3, 4\) {SHARED}"):
        ag.ones(4).expand(3, 4).zero_()


@pytest.mark.parametrize(
    ("view", "shared"),
    [
        (lambda x: sliding_window_view(x, 3, writeable=True), True),
        (lambda x: as_strided(x, (4, 3), (4, 4)), True),
        (lambda x: as_strided(x, (3,), (2,)), True),  # half of a number further each
        (lambda x: as_strided(x, (2, 3), (20, 12)), False),  # out of order, but never the same
        (lambda x: x.reshape(6, 4)[::-2, ::-1].T, False),
        (lambda x: np.diagonal(x[:18].reshape(3, 2, 3), 0, 0, 2).copy().T, False),
        (lambda x: as_strided(x, (2, 0), (0, 4)), False),
        (lambda x: as_strided(x, (1, 4), (0, 4)), False),
    ],
)
def test_views_whose_elements_share_memory(
    view: Callable[[Numbers], Numbers], shared: bool
) -> None:
    x = view(np.arange(24, dtype=np.float32))
    before, t = x.copy(), ag.from_numpy(x)
    if shared:
        with pytest.raises(ValueError, match=SHARED):
            t.zero_()
        np.testing.assert_array_equal(x, before)
    else:
        t.zero_()
        np.testing.assert_array_equal(x, 0)


def test_views_that_overlap_one_another() -> None:
    x = np.arange(SIZE + 1, dtype=np.float32)
    ag.from_numpy(x[1:]).copy_(ag.from_numpy(x[:-1]))
    np.testing.assert_array_equal(x, [0, *range(SIZE)])


def test_read_only_memory_is_trained_in_a_copy(tmp_path: Path) -> None:
    numbers = mapped(tmp_path)
    p = nn.Parameter(ag.from_numpy(numbers))
    sgd = optim.SGD([p], 0.5)
    (2 * p).sum().backward()
    sgd.step()
    np.testing.assert_array_equal(p.numpy(), 0)
    np.testing.assert_array_equal(numbers, 1)
