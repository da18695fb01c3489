"""Sums of very many numbers keep their accuracy wherever the summed axes lie in memory. In a
running sum of float32 numbers, 2^20 times 0.1 is 1% off; expected values are exact products."""

from __future__ import annotations

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import context
from tallygrad.autograd.array import NDArray
from tallygrad.autograd.summation import sum_over
from tallygrad.autograd.tensor import Tensor

TENTH = float(np.float32(0.1))
NEAR = 2e-6  # of the sum; a running one is off by 1e-5 to 1e-2 in each case here
MANY = 1 << 20


def tenths(*shape: int) -> NDArray:
    return np.full(shape, TENTH, np.float32)


def last(x: NDArray) -> NDArray:
    """Return images channels-last in memory."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


# Every kind of layout: (array, axes).
LAYOUTS: dict[str, tuple[NDArray, tuple[int, ...]]] = {
    "rows": (tenths(MANY, 2), (0,)),
    "wide rows": (tenths(1 << 16, 33), (0,)),
    "rows by columns": (tenths(2, MANY).T, (0,)),
    "middle axis": (tenths(2, MANY // 4 + 3, 2), (1,)),
    "channels-last": (last(tenths(2, 2, 1 << 9, 1 << 9)), (0, 2, 3)),
    "row-major images": (tenths(MANY // 16, 2, 4, 4), (0, 2, 3)),
    "outer and inner axis": (tenths(1 << 10, 3, 1 << 9), (0, 2)),
    "every other row": (tenths(MANY, 2)[::2], (0,)),
    "backwards": (tenths(MANY // 2, 3)[::-1, ::-1], (0,)),
    "part of the columns": (tenths(MANY // 4, 5)[:, :2], (0, 1)),
    "repeated": (np.broadcast_to(tenths(3, 1), (1 << 8, 1 << 10, 3, 7)), (0, 1, 3)),
    "repeated rows": (np.broadcast_to(tenths(3), (MANY, 3)), (0,)),
    "all": (tenths(MANY, 3), (0, 1)),
}
each_layout = pytest.mark.parametrize("layout", LAYOUTS)


@each_layout
def test_sums_and_means(layout: str, backend: str) -> None:
    x, axes = LAYOUTS[layout]
    count = np.prod([x.shape[a] for a in axes])
    with context.using(backend=backend):
        total, mean = (f(axes).numpy() for f in (ag.from_numpy(x).sum, ag.from_numpy(x).mean))
    np.testing.assert_allclose(total, count * TENTH, rtol=NEAR)
    np.testing.assert_allclose(mean, TENTH, rtol=NEAR)


def test_the_variance_of_rows(backend: str) -> None:
    x = tenths(MANY, 2)
    x[::2] = 0
    with context.using(backend=backend):
        var, std = ag.from_numpy(x).var(0).numpy(), ag.from_numpy(x).std(0).numpy()
    exact = TENTH**2 / 4 * MANY / (MANY - 1)
    np.testing.assert_allclose(var, exact, rtol=NEAR)
    np.testing.assert_allclose(std, exact**0.5, rtol=NEAR)


def test_float64(backend: str) -> None:
    with context.using(backend=backend):
        found = ag.from_numpy(np.full((MANY, 2), 0.1)).sum(0).numpy()
    np.testing.assert_allclose(found, MANY * 0.1, rtol=2e-14)


@pytest.mark.parametrize("layout", ["wide rows", "middle axis", "repeated", "part of the columns"])
def test_random_numbers_of_any_shape(layout: str) -> None:
    """Pieces are put together right: against integers, whose sums are exact."""
    x, axes = LAYOUTS[layout]
    drawn = np.random.default_rng(0).integers(-9, 10, x.shape)
    like = np.lib.stride_tricks.as_strided(np.zeros(1), x.shape, (0,) * x.ndim)
    numbers = np.array(drawn + like, x.dtype).transpose(*range(x.ndim))
    np.testing.assert_array_equal(sum_over(numbers, axes), drawn.sum(axes))
    np.testing.assert_array_equal(sum_over(numbers.astype(np.int64), axes), drawn.sum(axes))


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (70, 1, 2), (65, 130), (1, 129, 1), (4097, 2)])
@pytest.mark.parametrize("axes", [(), (0,), (1,), (0, 1)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_axis_of_small_arrays(
    shape: tuple[int, ...], axes: tuple[int, ...], order: str
) -> None:
    x = np.asarray(np.arange(np.prod(shape)).reshape(shape), np.float64, order)  # type: ignore[call-overload]
    np.testing.assert_array_equal(sum_over(x, axes), x.sum(axes))
    np.testing.assert_array_equal(
        sum_over(x[::-1], axes), x.sum(axes) if 0 in axes else x[::-1].sum(axes)
    )


def gradients(y: Tensor, *tensors: Tensor) -> list[NDArray]:
    """Return gradients of the sum of y / 10."""
    dy = tenths(*y.shape)
    y.backward(ag.from_numpy(last(dy) if dy.ndim == 4 else dy))
    found = [t.grad for t in tensors]
    return [g.numpy() for g in found if g is not None]


def leaf(x: NDArray) -> Tensor:
    return ag.from_numpy(x).requires_grad_(True)


def test_gradients_of_what_is_broadcast(backend: str) -> None:
    with context.using(backend=backend):
        b, w = leaf(tenths(3)), leaf(tenths(3))
        x = ag.from_numpy(tenths(MANY, 3))
        db, dw = gradients(x * w + b, b, w)
    np.testing.assert_allclose(db, MANY * TENTH, rtol=NEAR)
    np.testing.assert_allclose(dw, MANY * TENTH**2, rtol=NEAR)


def test_gradients_of_a_linear_layer(backend: str) -> None:
    with context.using(backend=backend):
        w, b = leaf(tenths(3, 4)), leaf(tenths(3))
        dw, db = gradients(ag.linear(ag.from_numpy(tenths(MANY, 4)), w, b), w, b)
    np.testing.assert_allclose(dw, MANY * TENTH**2, rtol=NEAR)
    np.testing.assert_allclose(db, MANY * TENTH, rtol=NEAR)


def test_biases_of_convolutions(backend: str) -> None:
    with context.using(backend=backend):
        x, b = ag.from_numpy(last(tenths(2, 1, 1 << 8, 1 << 8))), leaf(tenths(2))
        (db,) = gradients(ag.conv2d(x, ag.from_numpy(tenths(2, 1, 1, 1)), b), b)
        b = leaf(tenths(2))
        up = ag.conv_transpose2d(x, ag.from_numpy(tenths(1, 2, 2, 2)), b, stride=2)
        (wide,) = gradients(up, b)
    np.testing.assert_allclose(db, TENTH * (1 << 17), rtol=NEAR)
    np.testing.assert_allclose(wide, TENTH * (1 << 19), rtol=NEAR)


def test_filters_of_single_channels() -> None:
    x, w = ag.from_numpy(last(tenths(2, 2, 1 << 9, 1 << 9))), leaf(tenths(2, 1, 1, 1))
    (dw,) = gradients(ag.conv2d(x, w, groups=2), w)
    np.testing.assert_allclose(dw, TENTH**2 * (1 << 19), rtol=NEAR)


def test_gradients_of_a_recurrent_layer(backend: str) -> None:
    """All gates have the gradient 0.1, and all states are 0.1."""
    steps, batch = 32, 1 << 12
    with context.using(backend=backend):
        one, none = np.eye(2, dtype="f"), np.zeros(2, "f")
        params = [leaf(a.copy()) for a in (one, 0 * one, none, none)]
        y, _ = ag.rnn_relu(ag.from_numpy(tenths(steps, batch, 2)), None, params)
        dw_ih, dw_hh, db_ih, db_hh = gradients(y, *params)
    near = 3e-5  # kernels add up sums of 64 rows
    np.testing.assert_allclose(dw_ih, steps * batch * TENTH**2, rtol=near)
    np.testing.assert_allclose(dw_hh, (steps - 1) * batch * TENTH**2, rtol=near)
    np.testing.assert_allclose([db_ih, db_hh], steps * batch * TENTH, rtol=near)


def test_gradients_of_batch_norm(backend: str) -> None:
    with context.using(backend=backend):
        w, b = leaf(np.ones(2, "f")), leaf(np.zeros(2, "f"))
        x = last(tenths(4, 2, 1 << 8, 1 << 8))
        x[:2] = -TENTH
        y = ag.batch_norm(ag.from_numpy(x), None, None, w, b, training=True, eps=1e-12)
        dw, db = gradients(ag.relu(y), w, b)
    np.testing.assert_allclose([dw, db], TENTH * (1 << 17), rtol=NEAR)


@pytest.mark.parametrize(
    ("rows", "inner", "columns"), [(1, MANY, 1), (1, MANY, 3), (3, MANY, 1), (2, 3 * 4097, 5)]
)
@pytest.mark.parametrize("turned", [False, True])
def test_products_of_few_rows_and_columns(
    rows: int, inner: int, columns: int, turned: bool, backend: str
) -> None:
    x, w = tenths(rows, inner), tenths(inner, columns)
    if turned:
        x, w = np.asfortranarray(x), np.asfortranarray(w)
    with context.using(backend=backend):
        y = (ag.from_numpy(x) @ ag.from_numpy(w)).numpy()
        stack = (ag.from_numpy(np.stack([x, x])) @ ag.from_numpy(w)).numpy()
    np.testing.assert_allclose(y, inner * TENTH**2, rtol=NEAR)
    np.testing.assert_allclose(stack, inner * TENTH**2, rtol=NEAR)


def test_a_row_of_very_many_features(backend: str) -> None:
    with context.using(backend=backend):
        y = ag.linear(ag.from_numpy(tenths(1, MANY)), ag.from_numpy(tenths(8, MANY))).numpy()
    np.testing.assert_allclose(y, MANY * TENTH**2, rtol=NEAR)


@pytest.mark.parametrize("size", [(1 << 6, 1 << 8), (1, 1 << 14)])
def test_means_of_large_windows(size: tuple[int, int], backend: str) -> None:
    with context.using(backend=backend):
        found = ag.avg_pool2d(ag.from_numpy(last(tenths(1, 16, *size))), size).numpy()
    np.testing.assert_allclose(found, TENTH, rtol=2 * NEAR)


@pytest.mark.parametrize("axis", [0, 1])
def test_shares_of_many_classes(axis: int, backend: str) -> None:
    """Of 2^18 classes, half have e^0 and half nearly 0.1; so their sum is 0.55 times as large."""
    x = np.zeros((1 << 18, 2), np.float32)
    x[::2] = np.log(TENTH)
    x = x if axis == 0 else np.ascontiguousarray(x.T)
    total = np.exp(x.astype(float)).sum(axis).mean()
    with context.using(backend=backend):
        largest = ag.softmax(ag.from_numpy(x), axis).numpy().max()
        logarithm = ag.log_softmax(ag.from_numpy(x), axis).numpy().max()
    np.testing.assert_allclose(largest, 1 / total, rtol=NEAR)
    np.testing.assert_allclose(logarithm, -np.log(total), atol=NEAR)


def test_losses_and_gradients_of_many_classes(backend: str) -> None:
    """Of 2^18 classes, the first has e^0 and the others 0.1."""
    x = np.full((1, 1 << 18), np.log(TENTH), np.float32)
    x[0, 0] = 0
    powers = np.exp(x.astype(float))
    p, weights = powers / powers.sum(), np.arange(1 << 18) % 7
    with context.using(backend=backend):
        t = leaf(x)
        loss = ag.cross_entropy(t, ag.tensor([0]))
        smooth = ag.cross_entropy(t, ag.tensor([0]), label_smoothing=0.5)
        (dx,) = gradients(loss, t)
        (share,) = ag.grad((ag.softmax(t, 1) * ag.tensor(weights.astype("f"))).sum(), t)
    np.testing.assert_allclose(loss.item(), np.log(powers.sum()), rtol=NEAR)
    np.testing.assert_allclose(smooth.item(), np.log(powers.sum()) - x.mean() / 2, rtol=NEAR)
    np.testing.assert_allclose(dx[0], [-p[0, 1:].sum() * TENTH, *(p[0, 1:] * TENTH)], rtol=NEAR)
    np.testing.assert_allclose(
        share.numpy(), p * (weights - (p * weights).sum()), rtol=NEAR, atol=1e-11
    )
