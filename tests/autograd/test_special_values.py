"""Infinite numbers, those that are none, and nothing at all, on every backend. Expected values are
torch 2.13's, or arithmetic by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import nn

nan, inf = np.nan, np.inf
Function = Callable[[ag.Tensor], ag.Tensor]


@pytest.fixture(autouse=True)
def no_warnings(small_kernels: str) -> Iterator[None]:
    """Compute on every backend, without NumPy's warnings about what the tests do on purpose."""
    with np.errstate(all="ignore"):
        yield


def leaf(numbers: Any) -> ag.Tensor:
    return ag.tensor(np.asarray(numbers, np.float32), requires_grad=True)


def gradient(y: ag.Tensor, x: ag.Tensor, dy: Any = 1.0) -> np.ndarray:
    top = ag.tensor(np.broadcast_to(np.asarray(dy, y.dtype), y.shape))
    found = ag.grad(y, x, top, retain_graph=True)[0]
    assert found is not None
    return found.numpy()


IGNORED = [[nan, 0, 0], [inf, 0, 1], [-inf, -inf, -inf], [-inf, 0, 1]]
WEIGHTS = [None, [0.0, 2.0, 0.5]]


@pytest.mark.parametrize("row", IGNORED, ids=str)
@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_ignored_samples_do_not_count(
    row: list[float], weights: list[float] | None, smoothing: float, reduction: str
) -> None:
    x, alone = leaf([row, [0.5, 1, -1], row]), leaf([[0.5, 1, -1]])
    w = None if weights is None else ag.tensor(weights)
    options = {"reduction": reduction, "label_smoothing": smoothing}
    y = ag.cross_entropy(x, ag.tensor([-100, 1, -100]), w, **options)
    z = ag.cross_entropy(alone, ag.tensor([1]), w, **options)
    if reduction == "none":
        y, z = y.sum(), z.sum()
    assert np.isfinite(y.item()) and y.item() == pytest.approx(z.item())
    got = gradient(y, x)
    assert not got[[0, 2]].any()
    np.testing.assert_allclose(got[1:2], gradient(z, alone), rtol=1e-6)


@pytest.mark.parametrize("row", IGNORED, ids=str)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_ignored_likelihoods_do_not_count(row: list[float], reduction: str) -> None:
    x = leaf([row, [-1, -0.5, -2]])
    y = ag.nll_loss(x, ag.tensor([-100, 1]), reduction=reduction)
    assert y.numpy().tolist() == ([0, 0.5] if reduction == "none" else 0.5)
    assert gradient(y, x).tolist() == [[0, 0, 0], [0, -1, 0]]


def test_first_values_of_ignored_samples() -> None:
    y = ag.cross_entropy(leaf([[-inf, 0], [0, 1]]), ag.tensor([-100, 1]))
    assert y.item() == pytest.approx(0.3132617, rel=1e-6)
    x = leaf([[-inf, 0], [0, 1]])
    y = ag.cross_entropy(x, ag.tensor([-100, 1]), reduction="none")
    assert np.isfinite(gradient(y, x, [inf, 1])).all()
    z = leaf([[nan, 0], [0, 1]])
    (first,) = ag.grad(ag.cross_entropy(z, ag.tensor([-100, 1])), z, create_graph=True)
    assert first is not None
    assert gradient(first.sum(), z)[0].tolist() == [0, 0]


def test_ignored_pixels_do_not_count() -> None:
    images = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)
    labels = np.arange(40).reshape(2, 4, 5) % 3
    labels[:, 1:3] = -100
    plain = ag.cross_entropy(leaf(images), ag.tensor(labels)).item()
    images.transpose(0, 2, 3, 1)[:, 1:3] = nan
    x = leaf(images)
    y = ag.cross_entropy(x, ag.tensor(labels))
    assert y.item() == pytest.approx(plain)
    got = gradient(y, x)
    assert np.isfinite(got).all() and not got[:, :, 1:3].any() and got[:, :, 0].all()


def test_counted_samples_pass_on_what_is_no_number() -> None:
    for row in ([nan, 0], [inf, 0], [-inf, -inf]):
        for label in (0, 1):
            assert np.isnan(ag.cross_entropy(leaf([row]), ag.tensor([label])).item())
        assert np.isnan(ag.log_softmax(leaf([row]), 1).numpy()).all()
        assert np.isnan(ag.softmax(leaf([row]), 1).numpy()).all()
    x = leaf([[-inf, 0]])
    assert ag.cross_entropy(x, ag.tensor([0])).item() == inf
    assert ag.cross_entropy(x, ag.tensor([1])).item() == 0
    weights = ag.tensor([0.0, 2.0])  # a weight of 0 is no mask
    assert np.isnan(ag.cross_entropy(leaf([[-inf, 0], [0, 1]]), ag.tensor([0, 1]), weights).item())


def steps(slope: float) -> Function:
    return lambda x: ag.leaky_relu(x, slope)


# Function, x, dy, y, dx.
POINTS: dict[str, tuple[Function, list[float], list[float], list[float], list[float]]] = {
    "relu": (
        ag.relu,
        [nan, inf, -inf, -1, 0, 2], [1, inf, inf, nan, inf, nan],
        [nan, inf, 0, 0, 0, 2], [1, inf, 0, 0, 0, nan],
    ),
    "leaky_relu/flat": (
        steps(0.0), [nan, inf, -1, 2], [1, inf, 1, nan], [nan, inf, 0, 2], [0, inf, 0, nan],
    ),
    "leaky_relu/steep": (
        steps(3.0),
        [nan, inf, -inf, -1, 2], [1, 1, 1, 1, inf],
        [nan, inf, -inf, -3, 2], [3, 1, 3, 3, inf],
    ),
    "elu": (
        ag.elu, [nan, inf, -inf, 0, 2], [1, inf, 1, inf, 1], [nan, inf, -1, 0, 2],
        [nan, inf, 0, inf, 1],
    ),
    "elu/negative": (lambda x: ag.elu(x, -2.0), [0, 3, -inf], [1] * 3, [0, 3, 2], [-2, 1, 0]),
    "sigmoid": (
        ag.sigmoid, [nan, inf, -inf, -1e30, -120], [1] * 5, [nan, 1, 0, 0, 0], [nan, 0, 0, 0, 0]
    ),
    "tanh": (ag.tanh, [nan, inf, -inf], [1] * 3, [nan, 1, -1], [nan, 0, 0]),
    "softplus": (ag.softplus, [nan, inf, -inf], [1] * 3, [nan, inf, 0], [nan, 1, 0]),
    "abs": (lambda x: x.abs(), [nan, inf, 0], [1] * 3, [nan, inf, 0], [0, 1, 0]),
    "maximum": (
        lambda x: ag.maximum(x, 0.0),
        [nan, inf, -inf, -1, 0], [1, inf, inf, nan, 1],
        [nan, inf, 0, 0, 0], [1, inf, 0, 0, 0.5],
    ),
    "minimum": (
        lambda x: ag.minimum(x, 0.0), [nan, inf, -inf, 0], [1, nan, inf, 1], [nan, 0, -inf, 0],
        [1, 0, inf, 0.5],
    ),
    "maximum/nan": (lambda x: ag.maximum(x, nan), [1, nan], [1, 1], [nan, nan], [1, 1]),
    "clamp": (
        lambda x: x.clamp(-1, 1), [nan, inf, -1, 1, 0], [1, inf, 1, 1, inf], [nan, 1, -1, 1, 0],
        [0, 0, 1, 1, inf],
    ),
    "where": (
        lambda x: ag.where(x > 0, x, 0.0), [nan, inf, -1], [inf, 1, nan], [0, inf, 0], [0, 1, 0],
    ),
    "0^x": (
        lambda x: 0.0**x, [-1, 0, 2, nan], [1] * 4, [inf, 1, 0, nan], [-inf, 0, 0, nan],
    ),
    "nan^x": (lambda x: nan**x, [0, 1], [1, 1], [1, nan], [nan, nan]),
    "(-2)^x": (lambda x: (-2.0) ** x, [2, 3], [1, 1], [4, -8], [nan, nan]),
    "x^-1": (lambda x: x**-1.0, [0, inf], [1, 1], [inf, 0], [-inf, 0]),
    "x^0": (lambda x: x**0.0, [nan, 0, inf, 2], [1, nan, inf, nan], [1] * 4, [0] * 4),
    "logistic/0": (
        lambda x: ag.binary_cross_entropy_with_logits(x, ag.zeros_like(x), reduction="none"),
        [nan, inf, 0], [1, 1, inf], [nan, inf, 0.6931472], [nan, 1, inf],
    ),
    "logistic/1": (
        lambda x: ag.binary_cross_entropy_with_logits(x, ag.ones_like(x), reduction="none"),
        [nan, -inf, 0], [1, 1, inf], [nan, inf, 0.6931472], [nan, -1, -inf],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", POINTS)
def test_points(name: str) -> None:
    function, numbers, dy, y, dx = POINTS[name]
    x = leaf(numbers)
    got = function(x)
    np.testing.assert_allclose(got.numpy(), y, rtol=1e-6)
    np.testing.assert_allclose(gradient(got, x, dy), dx, rtol=1e-6)


@pytest.mark.parametrize(
    ("numbers", "dx"),
    [([nan, 1, nan], [0.5, 0, 0.5]), ([2, 2, 1], [0.5, 0.5, 0]), ([inf, 1, inf], [0.5, 0, 0.5])],
)
def test_gradient_of_the_largest(numbers: list[float], dx: list[float]) -> None:
    x = leaf(numbers)
    assert gradient(x.max(), x).tolist() == dx
    assert gradient(x.amax(0), x, inf).tolist() == [inf if d else 0 for d in dx]
    assert gradient((-x).min(), x, inf).tolist() == [-inf if d else 0 for d in dx]
    (first,) = ag.grad(x.max(), x, create_graph=True)
    assert first is not None and not np.isnan(gradient((first * x.detach()).sum(), x)[1])


@pytest.mark.parametrize("correction", [0, 1])
def test_deviation_of_equal_numbers(correction: int) -> None:
    x = leaf([[1, 1], [1, 3]])
    y = x.std(1, correction=correction)
    rest = 0.5 if correction == 0 else 0.5**0.5
    np.testing.assert_allclose(gradient(y, x), [[0, 0], [-rest, rest]], rtol=1e-6)
    assert np.isnan(leaf([1]).std().item())


def test_adaptive_means_of_infinite_numbers() -> None:
    x = leaf(np.reshape([1, 2, inf], (1, 1, 1, 3)))
    y = ag.adaptive_avg_pool2d(x, (1, 2))
    assert y.numpy().ravel().tolist() == [1.5, inf]
    assert gradient(y, x, np.reshape([inf, 1], y.shape)).ravel().tolist() == [inf, inf, 0.5]
    assert gradient(y, x, np.reshape([1, nan], y.shape)).ravel()[0] == 0.5


@pytest.mark.parametrize(
    ("numbers", "places"),
    [([nan, nan, 0], [1, 1]), ([nan, 1, nan], [0, 2]), ([-inf] * 3, [0, 1]), ([2, 2, 2], [0, 1])],
)
def test_places_of_adaptive_maxima(numbers: list[float], places: list[int]) -> None:
    x = leaf(np.reshape(numbers, (1, 1, 1, 3)))
    y, found = ag.adaptive_max_pool2d(x, (1, 2), return_indices=True)
    assert found.numpy().ravel().tolist() == places
    np.testing.assert_array_equal(y.numpy().ravel(), np.asarray(numbers)[places])


def test_pooling_beside_padding() -> None:
    x = leaf(np.reshape([inf, 1, -inf, nan], (1, 1, 2, 2)))
    y = ag.max_pool2d(x, 2, 1, 1)
    wanted = [[inf, inf, 1], [inf, nan, nan], [-inf, nan, nan]]
    np.testing.assert_array_equal(y.numpy()[0, 0], wanted)
    assert gradient(y, x, inf).ravel().tolist() == [inf, inf, inf, inf]
    z = ag.avg_pool2d(leaf(np.full((1, 1, 2, 2), inf)), 2, 1, 1)
    assert (z.numpy() == inf).all()


@pytest.mark.parametrize("drop", [ag.dropout, ag.dropout2d])
@pytest.mark.parametrize("value", [inf, nan])
def test_dropped_elements_are_0(drop: Callable[..., ag.Tensor], value: float) -> None:
    x = leaf(np.full((4, 50, 1), value))
    y = drop(x, 0.5)
    kept = y.numpy() != 0
    assert 50 < kept.sum() < 150
    np.testing.assert_array_equal(y.numpy()[kept], value)
    np.testing.assert_array_equal(gradient(y, x, value), np.where(kept, value, 0))
    assert not drop(x, 1.0).numpy().any()


EMPTY: dict[str, Function] = {
    "relu": ag.relu,
    "elu": ag.elu,
    "softmax": lambda x: ag.softmax(x, 1),
    "softmax over nothing": lambda x: ag.softmax(x, 0),
    "log_softmax over nothing": lambda x: ag.log_softmax(x, 0),
    "max_pool2d": lambda x: ag.max_pool2d(x, 2),
    "adaptive_avg_pool2d": lambda x: ag.adaptive_avg_pool2d(x, (2, 3)),
    "adaptive_max_pool2d": lambda x: ag.adaptive_max_pool2d(x, (2, 3)),
    "dropout2d": ag.dropout2d,
    "lrn": lambda x: ag.local_response_norm(x, 3),
    "conv2d": lambda x: ag.conv2d(x, ag.ones(4, 3, 3, 3), ag.ones(4)),
    "conv_transpose2d": lambda x: ag.conv_transpose2d(x, ag.ones(3, 4, 3, 3), ag.ones(4)),
    "logistic": lambda x: ag.binary_cross_entropy_with_logits(x, x, reduction="none"),
}


@pytest.mark.parametrize("name", EMPTY)
def test_empty_batches(name: str) -> None:
    x = leaf(np.zeros((0, 3, 5, 5)))
    y = EMPTY[name](x)
    assert 0 in y.shape
    assert gradient(y, x).shape == x.shape


@pytest.mark.parametrize(("channels", "filters"), [(0, 3), (3, 0), (0, 0)])
@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("size", [1, 3])
def test_convolutions_without_channels(channels: int, filters: int, stride: int, size: int) -> None:
    """torch leaves out the bias of a convolution without input channels."""
    x, w = leaf(np.ones((2, channels, 7, 7))), leaf(np.ones((filters, channels, size, size)))
    b, back = leaf(np.arange(filters)), leaf(np.arange(channels))
    y = ag.conv2d(x, w, b, stride=stride)
    e = (7 - size) // stride + 1
    assert y.shape == (2, filters, e, e)
    np.testing.assert_array_equal(y.numpy(), np.arange(filters)[:, None, None] + 0 * y.numpy())
    z = ag.conv_transpose2d(y, w, back, stride=stride)
    assert z.shape[:2] == (2, channels)
    assert (z.numpy() == np.arange(channels)[:, None, None]).all()
    gradients = [gradient(t, v) for t, v in ((y, x), (y, w), (y, b), (z, y), (z, w), (z, back))]
    assert [g.shape for g in gradients] == [v.shape for v in (x, w, b, y, w, back)]
    assert not (gradients[0].any() or gradients[3].any())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(2, 0, 3, 3), (2, 0), (0, 0, 3)])
def test_batch_norm_without_channels(training: bool, shape: tuple[int, ...]) -> None:
    x, w, b = leaf(np.zeros(shape)), leaf([]), leaf([])
    y = ag.batch_norm(x, ag.zeros(0), ag.ones(0), w, b, training=training)
    assert y.shape == shape
    assert [gradient(y, v).shape for v in (x, w, b)] == [shape, (0,), (0,)]


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(3), nn.BatchNorm2d(3)])
def test_an_empty_batch_moves_no_statistics(layer: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
    x = leaf(np.zeros((0, 3, 4, 4) if isinstance(layer, nn.BatchNorm2d) else (0, 3)))
    y = layer(x)
    y.sum().backward()
    assert y.shape == x.shape
    assert layer.running_mean is not None and layer.running_var is not None
    assert not layer.running_mean.numpy().any() and (layer.running_var.numpy() == 1).all()
    assert layer.weight is not None and layer.weight.grad is not None
    assert not layer.weight.grad.numpy().any()
    layer.weight.grad = None


def test_a_transposed_convolution_without_results_is_refused() -> None:
    with pytest.raises(
        ValueError,
        match=r"^conv_transpose2d: expected an output of at least 1 x 1, got 0 x 0 from input",
    ):
        ag.conv_transpose2d(ag.ones(1, 2, 1, 1), ag.ones(2, 3, 2, 2), padding=1)


def test_a_leg_without_end_makes_a_hypotenuse_without_end() -> None:
    legs = ag.tensor([inf, -inf, nan, nan, 3.0]), ag.tensor([nan, 1.0, -inf, 1.0, 4.0])
    np.testing.assert_array_equal(ag.hypot(*legs).numpy(), [inf, inf, inf, nan, 5])


def test_rectified_integers_are_integers() -> None:
    y = ag.relu(ag.tensor([-2, 0, 3]))
    assert y.tolist() == [0, 0, 3] and y.dtype == ag.int64
    with pytest.raises(TypeError, match="relu: expected numbers, got truth values"):
        ag.relu(ag.tensor([True]))


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
def test_windows_of_zeros_have_no_gradient(axes: int, p: float) -> None:
    x = leaf(np.zeros((1, 1, *[2] * axes)))
    y = getattr(ag, f"lp_pool{axes}d")(x, p, 2)
    assert not y.numpy().any() and not gradient(y, x).any()


@pytest.mark.parametrize("channels", [3, 16])
@pytest.mark.parametrize("padding", [0, 1])
def test_a_weight_that_is_no_number_spreads_to_its_channel_alone(
    channels: int, padding: int
) -> None:
    """To all results that depend on it, and by padding of x to the others at the border."""
    x, w = leaf(np.ones((2, channels, 6, 6))), np.ones((channels, channels, 3, 3))
    w[1, 2, 0, 0] = nan
    y = ag.conv2d(x, ag.tensor(w.astype(np.float32)), padding=padding)
    found = np.isnan(y.numpy())
    assert found[:, 1].all() and found.sum() == found[:, 1].size
    found, seen = np.isnan(gradient(y, x)), 4 + padding  # pixels along an axis that see the weight
    assert found[:, 2, :seen, :seen].all() and found.sum() == found[:, 2].sum()


@pytest.mark.parametrize("channels", [3, 16])
def test_a_gradient_that_is_no_number_spreads_to_its_filter_alone(channels: int) -> None:
    x, w = ag.ones(2, channels, 6, 6), leaf(np.ones((channels, channels, 3, 3)))
    dy = np.ones((2, channels, 6, 6))
    dy[0, 1, 0, 0] = nan
    found = np.isnan(gradient(ag.conv2d(x, w, padding=1), w, dy))
    assert found[1].all() and found.sum() == found[1].size
