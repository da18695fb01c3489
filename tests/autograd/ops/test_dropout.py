"""Dropout: what is dropped hangs on seed, step, use and sample, not on ranks or memory layout."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import context, random
from tallygrad.autograd.array import Array, Spec
from tallygrad.autograd.ops import dropout as ops

SAMPLES = np.arange(100, 112)
Drop = Callable[[ag.Tensor], ag.Tensor]


def ones(*shape: int) -> ag.Tensor:
    return ag.ones(*shape, requires_grad=True)


def drawn(samples: np.ndarray, step: int = 3, seed: int = 7, uses: int = 1) -> list[np.ndarray]:
    with random.keyed(samples, seed, step):
        return [ag.dropout(ones(len(samples), 5, 3, 4), 0.4).numpy() for _ in range(uses)]


def test_any_spread_over_ranks_drops_the_same() -> None:
    (whole,) = drawn(SAMPLES)
    for parts in (2, 3, 12):
        shares = [drawn(share)[0] for share in np.split(SAMPLES, parts)]
        np.testing.assert_array_equal(np.concatenate(shares), whole)
    np.testing.assert_array_equal(drawn(SAMPLES[::-1])[0], whole[::-1])


def test_seed_step_use_and_sample_all_matter() -> None:
    first, second = drawn(SAMPLES, uses=2)
    others = [second, drawn(SAMPLES, step=4)[0], drawn(SAMPLES, seed=8)[0], drawn(SAMPLES + 1)[0]]
    for other in others:
        # Independent masks agree where both keep or both drop: 0.6 0.6 + 0.4 0.4 of the time.
        assert np.mean(first == other) == pytest.approx(0.52, abs=0.06)
    np.testing.assert_array_equal(first, drawn(SAMPLES)[0])


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_share_of_the_dropped(p: float) -> None:
    ag.manual_seed(1)
    y = ag.dropout(ones(200, 501), p).numpy()
    assert np.mean(y == 0) == pytest.approx(p, abs=0.005)
    np.testing.assert_allclose(y[y != 0], 1 / (1 - p), rtol=1e-6)
    kept = y != 0
    for shifted in (kept[:, 1:] == kept[:, :-1], kept[1:] == kept[:-1]):
        assert np.mean(shifted) == pytest.approx(p * p + (1 - p) ** 2, abs=0.006)


def test_p_of_0_and_1_are_exact() -> None:
    x = ones(4, 6)
    assert ag.dropout(x, 0.0) is x
    y = ag.dropout(x, 1.0)
    assert not y.numpy().any()
    y.sum().backward()
    assert x.grad is not None and not x.grad.numpy().any()


@pytest.mark.parametrize("drop", [ag.dropout, ag.dropout2d, ag.alpha_dropout])
def test_evaluation_changes_nothing(drop: Callable[..., ag.Tensor]) -> None:
    x = ones(2, 3, 4, 5)
    assert drop(x, 0.5, training=False) is x


def test_memory_layout_does_not_matter() -> None:
    x = np.random.default_rng(0).standard_normal((6, 3, 4, 5)).astype(np.float32)
    last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    found = []
    for array in (x, last):
        with random.keyed(SAMPLES[:6], 0, 0):
            found.append(ag.dropout(ag.from_numpy(array), 0.3).numpy())
    np.testing.assert_array_equal(*found)
    assert found[1].strides == last.strides


def test_gradient_passes_where_kept() -> None:
    ag.manual_seed(0)
    x = ag.tensor(np.random.default_rng(0).standard_normal((5, 7)), requires_grad=True)
    y = ag.dropout(x, 0.25)
    dy = ag.tensor(np.random.default_rng(1).standard_normal((5, 7)), requires_grad=True)
    (dx,) = ag.grad(y, x, dy, create_graph=True)
    mask = (y.numpy() != 0) / 0.75
    np.testing.assert_allclose(dx.numpy(), dy.numpy() * mask)
    (ddy,) = ag.grad(dx.sum(), dy)
    np.testing.assert_allclose(ddy.numpy(), mask)


def test_the_tape_keeps_a_byte_an_element() -> None:
    with context.using(ledger=ag.Ledger()) as state:
        ag.dropout(ones(8, 16), 0.5)
    assert sum(row.stashed for row in state.ledger) == 8 * 16


def test_channels_go_as_a_whole() -> None:
    ag.manual_seed(2)
    x = ones(16, 8, 3, 5)
    y = ag.dropout2d(x, 0.5)
    flat = y.numpy().reshape(16, 8, 15)
    assert (flat == flat[:, :, :1]).all()
    assert 0.3 < np.mean(flat[:, :, 0] == 0) < 0.7
    y.sum().backward()
    assert x.grad is not None
    np.testing.assert_array_equal(x.grad.numpy(), y.numpy())


def test_recomputation_draws_the_same() -> None:
    x = ones(12, 30)
    with random.keyed(SAMPLES, 0, 0):
        y = ag.checkpoint(lambda x: ag.dropout(x, 0.5) * 1.0, x)
        y.sum().backward()
    assert x.grad is not None
    np.testing.assert_array_equal(x.grad.numpy(), y.numpy())


@pytest.mark.parametrize("drop", [ag.dropout, ag.dropout2d])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_meta_equals_real(drop: Callable[..., ag.Tensor], dtype: str) -> None:
    ledgers = []
    for backend in ("numpy", "meta"):
        with context.using(backend=backend, ledger=ag.Ledger()) as state:
            x = ag.ones(4, 3, 2, 2, dtype=dtype, requires_grad=True)
            y = drop(x, 0.5)
            assert y.spec == x.spec
            y.backward(ag.ones_like(y))
            assert x.grad is not None and x.grad.spec == x.spec
        ledgers.append(state.ledger)
    assert ledgers[0] == ledgers[1]


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (5,), ()])
def test_odd_shapes(shape: tuple[int, ...]) -> None:
    x = ones(*shape)
    y = ag.dropout(x, 0.5)
    assert y.shape == shape
    y.backward(ag.ones_like(y))
    np.testing.assert_array_equal(x.grad.numpy(), y.numpy())  # type: ignore[union-attr]


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_wrong_probability(p: float) -> None:
    for drop in (ag.dropout, ag.dropout2d):
        with pytest.raises(ValueError, match=rf"expected p in \[0, 1\], got {p}$"):
            drop(ones(2, 3, 4), p)
        with pytest.raises(ValueError, match=rf"expected p in \[0, 1\], got {p}$"):
            drop(ones(2, 3, 4), p, training=False)
    with pytest.raises(ValueError, match=rf"expected p in \[0, 1\], got {p}$"):
        given = [Array(Spec((2,), np.dtype(t)), None) for t in ("f4", "u8")]
        ops.dropout(*given, p=p, use=0, channels=False)


def test_channels_are_needed() -> None:
    with pytest.raises(
        ValueError, match=r"^dropout2d: expected an input \(N, C, \.\.\), got shape \(2, 3\)$"
    ):
        ag.dropout2d(ones(2, 3))


@pytest.mark.parametrize("rows", [1, 7, 36])
def test_rows_that_are_no_samples_go_by_the_micro_batch(rows: int) -> None:
    """As folded axes (N L, ..), sequences (L, N, ..) and weights have them."""

    def masks(samples: np.ndarray, step: int = 3, seed: int = 7) -> list[np.ndarray]:
        with random.keyed(samples, seed, step):
            return [ag.dropout(ones(rows, 300), 0.4).numpy() for _ in range(2)]

    first, second = masks(SAMPLES)
    np.testing.assert_array_equal(masks(SAMPLES)[0], first)
    assert np.mean(first == 0) == pytest.approx(0.4, abs=0.1)
    others = [second, masks(SAMPLES, 4)[0], masks(SAMPLES, seed=8)[0], masks(SAMPLES[1:])[0]]
    if rows > 1:
        others.append(np.roll(first, 1, 0))
    for other in others:
        assert np.mean(first == other) == pytest.approx(0.52, abs=0.12)


@pytest.mark.parametrize(
    ("drop", "shape", "wrong"),
    [
        (ag.dropout1d, (8, 5, 3), (4, 3, 2, 1)),
        (ag.dropout3d, (8, 5, 1, 3, 2), (4, 3, 2, 1)),
        (ag.feature_alpha_dropout, (8, 5, 3), (4, 3)),
    ],
)
def test_channels_of_signals_and_volumes(
    drop: Drop, shape: tuple[int, ...], wrong: tuple[int, ...]
) -> None:
    y = drop(ones(*shape), 0.5, True).numpy().reshape(40, -1)
    np.testing.assert_array_equal(y, np.broadcast_to(y[:, :1], y.shape))
    assert len(np.unique(y)) == 2
    with pytest.raises(ValueError, match=rf"^{drop.__name__}: expected an input .+, got shape"):
        drop(ones(*wrong), 0.5, True)


def test_alpha_dropout_keeps_mean_and_variance() -> None:
    ag.manual_seed(3)
    x = ag.randn(100, 1000, requires_grad=True)
    y = ag.alpha_dropout(x, 0.3, True)
    values, counts = np.unique(y.numpy(), return_counts=True)
    dropped = y.numpy() == values[counts.argmax()]
    assert np.mean(dropped) == pytest.approx(0.3, abs=0.01)
    assert y.numpy().mean() == pytest.approx(0, abs=0.02)
    assert y.numpy().var() == pytest.approx(1, abs=0.02)
    y.sum().backward()
    assert x.grad is not None
    slope = x.grad.numpy()
    assert not slope[dropped].any() and np.ptp(slope[~dropped]) == 0
    kept, old = y.numpy()[~dropped], x.numpy()[~dropped]
    np.testing.assert_allclose(np.diff(kept), slope[~dropped][0] * np.diff(old), atol=1e-5)
    assert not ag.alpha_dropout(x, 1.0, True).numpy().any()


def test_bernoulli_draws_ones_with_the_given_probabilities() -> None:
    p = np.tile(np.array([0, 0.1, 0.5, 1], np.float32), (2000, 25))
    ag.manual_seed(2)
    y = ag.bernoulli(ag.tensor(p)).numpy()
    assert {*np.unique(y)} == {0, 1} and y.dtype == np.float32
    shares = y.reshape(2000, 25, 4).mean((0, 1))
    np.testing.assert_allclose(shares, p[0, :4], atol=0.006)
    assert shares[0] == 0 and shares[3] == 1
    half = y[:, 2::4] != 0
    assert np.mean(half[:, 1:] == half[:, :-1]) == pytest.approx(0.5, abs=0.01)
    assert ag.bernoulli(ag.zeros(0, 3)).shape == (0, 3) and ag.bernoulli(ag.ones(())).item() == 1


def test_bernoulli_goes_by_the_sample_and_has_no_gradient() -> None:
    found = []
    for samples in (SAMPLES, SAMPLES[:5]):
        with random.keyed(samples, 7, 3):
            p = ag.full((len(samples), 9), 0.5, requires_grad=True)
            y = ag.bernoulli(p)
        assert not y.requires_grad
        found.append(y.numpy()[:5])
    np.testing.assert_array_equal(*found)
    with context.using(backend="meta"):
        assert ag.bernoulli(ag.zeros(4, 3)).shape == (4, 3)
