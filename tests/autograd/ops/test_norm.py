"""Normalisation beyond single results: running statistics, accuracy, counts."""

from __future__ import annotations

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import context


def images(*shape: int, dtype: str = "float32", seed: int = 0) -> np.ndarray:
    n, c, h, w = shape
    numbers = np.random.default_rng(seed).standard_normal((n, h, w, c)).astype(dtype)
    return numbers.transpose(0, 3, 1, 2)


def running(channels: int, dtype: str = "float32") -> tuple[ag.Tensor, ag.Tensor]:
    mean = ag.tensor(np.linspace(-1, 1, channels).astype(dtype))
    return mean, ag.tensor(np.linspace(1, 2, channels).astype(dtype))


def test_running_statistics_move_towards_the_batch() -> None:
    x = images(4, 3, 5, 2, dtype="float64")
    mean, var = running(3, "float64")
    before = mean.numpy().copy(), var.numpy().copy()
    ag.batch_norm(ag.from_numpy(x), mean, var, training=True, momentum=0.3)
    moved = x.mean((0, 2, 3)), x.var((0, 2, 3), ddof=1)
    for now, old, seen in zip((mean, var), before, moved, strict=True):
        np.testing.assert_allclose(now.numpy(), old + 0.3 * (seen - old), rtol=1e-12)


def test_a_running_mean_alone() -> None:
    x = images(4, 3, 5, 2, dtype="float64")
    mean, _ = running(3, "float64")
    ag.batch_norm(ag.from_numpy(x), mean, None, training=True, momentum=1.0)
    np.testing.assert_allclose(mean.numpy(), x.mean((0, 2, 3)), atol=1e-12)


def test_evaluation_leaves_running_statistics_alone() -> None:
    mean, var = running(3)
    ag.batch_norm(ag.from_numpy(images(4, 3, 5, 2)), mean, var)
    np.testing.assert_array_equal(mean.numpy(), running(3)[0].numpy())
    np.testing.assert_array_equal(var.numpy(), running(3)[1].numpy())


def test_running_statistics_are_needed_in_evaluation() -> None:
    with pytest.raises(
        ValueError, match=r"^batch_norm: expected running statistics if training=False, got None$"
    ):
        ag.batch_norm(ag.from_numpy(images(4, 3, 5, 2)), None, None)


@pytest.mark.parity
@pytest.mark.parametrize("momentum", [0.1, 0.0, 1.0])
def test_three_steps_as_in_torch(momentum: float) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    ours, theirs = running(3), tuple(torch.tensor(t.numpy().copy()) for t in running(3))
    for step in range(3):
        x = images(4, 3, 5, 2, seed=step) * (step + 1) + step
        y = ag.batch_norm(ag.from_numpy(x), *ours, training=True, momentum=momentum)
        z = torch.nn.functional.batch_norm(
            torch.tensor(x), *theirs, training=True, momentum=momentum
        )
        np.testing.assert_allclose(y.numpy(), z.numpy(), rtol=1e-4, atol=1e-5)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-5)


@pytest.mark.parametrize("mean", [0.0, 100.0, 1e4])
@pytest.mark.parametrize("shape", [(32, 5, 64, 64), (37, 3, 41, 1), (2, 700, 3, 3)])
def test_accuracy_far_from_zero(shape: tuple[int, ...], mean: float) -> None:
    """Many blocks, a number of rows that no width divides, and more channels than a row is wide."""
    x = images(*shape) + np.float32(mean)
    exact = x.astype(np.float64)
    rounding = 1e-6 + 2e-7 * mean
    seen = [ag.zeros(shape[1]), ag.zeros(shape[1])]
    w, b = (ag.full((shape[1],), v, requires_grad=True) for v in (1.5, -0.5))
    y = ag.batch_norm(ag.from_numpy(x), seen[0], seen[1], w, b, True, 1.0, 0.0)
    axes = (0, 2, 3)
    np.testing.assert_allclose(seen[0].numpy(), exact.mean(axes), rtol=3e-7, atol=1e-6)
    np.testing.assert_allclose(seen[1].numpy(), exact.var(axes, ddof=1), rtol=2e-6)
    off = exact - exact.mean(axes, keepdims=True)
    scaled = off / off.std(axes, keepdims=True)
    np.testing.assert_allclose(y.numpy(), 1.5 * scaled - 0.5, rtol=1e-5, atol=10 * rounding)
    dy = images(*shape, seed=1)
    y.backward(ag.from_numpy(dy))
    assert w.grad is not None and b.grad is not None
    size = np.sqrt(x.size / shape[1])
    np.testing.assert_allclose(b.grad.numpy(), dy.sum(axes, dtype=np.float64), atol=1e-5 * size)
    expected = (dy * scaled).sum(axes)
    np.testing.assert_allclose(w.grad.numpy(), expected, rtol=1e-4, atol=size * (1e-5 + rounding))


def test_the_layout_is_kept() -> None:
    for x in (images(4, 3, 5, 2), np.ascontiguousarray(images(4, 3, 5, 2))):
        t = ag.from_numpy(x).requires_grad_()
        y = ag.batch_norm(t, None, None, training=True)
        y.backward(ag.ones_like(y))
        assert y.numpy().strides == x.strides
        assert t.grad is not None and t.grad.numpy().strides == x.strides


def test_the_first_image_may_be_unlike_the_rest() -> None:
    x = images(64, 4, 32, 32)
    x[:8] += np.float32(1000)
    var = ag.zeros(4)
    ag.batch_norm(ag.from_numpy(x), None, var, training=True, momentum=1.0)
    expected = x.astype(np.float64).var((0, 2, 3), ddof=1)
    np.testing.assert_allclose(var.numpy(), expected, rtol=1e-5)


def test_constant_channels_have_no_variance() -> None:
    x = np.full((4, 2, 3, 3), 1e6, np.float32)
    y = ag.batch_norm(ag.from_numpy(x), None, None, training=True)
    np.testing.assert_array_equal(y.numpy(), 0)


def test_numbers_that_are_none_spread_without_a_warning() -> None:
    x = images(4, 2, 3, 3).copy()
    x[0, 0, 0, 0] = np.inf
    y = ag.batch_norm(ag.from_numpy(x), None, None, training=True)
    assert np.isnan(y.numpy()[:, 0]).any() and np.isfinite(y.numpy()[:, 1]).all()


def test_phases_and_stash() -> None:
    x = ag.from_numpy(images(4, 3, 5, 2)).requires_grad_()
    w, b = ag.Parameter(ag.ones(3)), ag.Parameter(ag.zeros(3))
    with context.using(ledger=ag.Ledger()) as state:
        ag.batch_norm(x * 1.0, *running(3), w, b, training=True).sum().backward()
    phases = {(row.key.primitive, row.key.phase) for row in state.ledger}
    assert ("batch_norm", "forward") in phases and ("running_average", "forward") in phases
    assert ("batch_norm_sums", "backward_weights") in phases
    assert ("batch_norm_dx", "backward_data") in phases
    stashed = sum(row.stashed for row in state.ledger if row.key.primitive == "batch_norm")
    assert stashed == x.size * 4 + 2 * 3 * 4


def test_krizhevskys_response_norm() -> None:
    x = images(2, 6, 3, 3, dtype="float64")
    y = ag.local_response_norm(ag.from_numpy(x), 5, alpha=5e-4, beta=0.75, k=2.0)
    for c in range(6):
        near = x[:, max(c - 2, 0) : c + 3]
        paper = x[:, c] / (2 + 1e-4 * (near**2).sum(1)) ** 0.75
        np.testing.assert_allclose(y.numpy()[:, c], paper, rtol=1e-12)


def test_wrong_windows() -> None:
    with pytest.raises(
        ValueError, match=r"^local_response_norm: expected a size of at least 1 channel, got 0"
    ):
        ag.local_response_norm(ag.zeros(2, 3, 4), 0)


@pytest.mark.parametrize("backend", ["numpy", "llvm", "llvm:eager"])
@pytest.mark.parametrize("shape", [(16, 5, 64, 64), (37, 3, 41, 1)])
def test_a_mean_of_ten_thousand_deviations(shape: tuple[int, ...], backend: str) -> None:
    """The variance is exact, and y lacks no more than the mean in float32 does: half the distance
    of its neighbours, 2^-11. torch 2.13 is off by 6e-4 there."""
    if backend != "numpy":
        pytest.importorskip("llvmlite", reason="llvmlite is not installed")
    x = images(*shape) + np.float32(1e4)
    exact = x.astype(np.float64)
    var = exact.var((0, 2, 3), keepdims=True)
    exact = (exact - exact.mean((0, 2, 3), keepdims=True)) / np.sqrt(var + 1e-5)
    running = ag.zeros(shape[1]), ag.zeros(shape[1])
    with context.using(backend=backend):
        y = ag.batch_norm(ag.from_numpy(x), *running, training=True, momentum=1.0).numpy()
    assert np.abs(y - exact).max() < 2**-11 / np.sqrt(var.min()) + 2e-6
    count = exact[:, 0].size
    np.testing.assert_allclose(running[1].numpy(), var.ravel() * count / (count - 1), rtol=1e-6)


PER_SAMPLE = {
    "layer_norm": (lambda x, w, b: ag.layer_norm(x, w.shape, w, b, 0.0), (2, 3), (3000,)),
    "group_norm": (lambda x, w, b: ag.group_norm(x, 2, w, b, 0.0), (3, 4, 41, 31), (4,)),
    "instance_norm": (
        lambda x, w, b: ag.instance_norm(x, None, None, w, b, eps=0.0), (3, 4, 41, 31), (4,),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PER_SAMPLE)
def test_statistics_of_a_sample_far_from_zero(name: str) -> None:
    """Deviations are formed in float64: y is exact, whatever the mean."""
    function, lead, each = PER_SAMPLE[name]
    shape = lead if len(lead) == 4 else (*lead, *each)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32) + np.float32(1e4)
    groups = x.astype(np.float64).reshape({"group_norm": (6, -1)}.get(name, (*shape[:2], -1)))
    off = groups - groups.mean(-1, keepdims=True)
    exact = (off / np.sqrt(np.square(off).mean(-1, keepdims=True))).reshape(shape)
    w, b = ag.full(each, 1.5, requires_grad=True), ag.zeros(*each, requires_grad=True)
    y = function(ag.from_numpy(x), w, b)
    np.testing.assert_allclose(y.numpy(), 1.5 * exact, rtol=1e-6, atol=1e-7)
    y.sum().backward()
    assert w.grad is not None
    axes = (0, 1) if name == "layer_norm" else (0, 2, 3)
    np.testing.assert_allclose(w.grad.numpy(), exact.sum(axes), rtol=1e-5, atol=2e-3)


def test_what_a_norm_of_samples_keeps() -> None:
    """The standardized input, which the weight's gradient takes, and one number for each row."""
    x = ag.from_numpy(images(4, 6, 5, 2)).requires_grad_()
    w, b = ag.Parameter(ag.ones(6)), ag.Parameter(ag.zeros(6))
    with context.using(ledger=ag.Ledger()) as state:
        ag.group_norm(x * 1.0, 3, w, b)
    stashed = {row.key.primitive: row.stashed for row in state.ledger if row.stashed}
    assert stashed["standardize"] == x.size * 4 + 4 * 3 * 4
    assert sum(stashed.values()) - stashed["standardize"] <= w.size * 4


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm", "group_norm"])
def test_autocast_normalises_in_float32(name: str) -> None:
    pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    x = ag.randn(2, 4).bfloat16()
    with ag.autocast():
        y = getattr(ag, name)(x, 4)
    assert y.dtype == np.float32
    assert getattr(ag, name)(x, 4).dtype == x.dtype
