"""What operators and methods of a tensor promise beside the table of samples: types, errors, edges.

Where torch is installed, it says what is right."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import context, nn
from tallygrad.autograd.ops import activation
from tallygrad.autograd.testing import gradcheck

TYPES = ("bool", "uint8", "int64", "float32", "float64")
BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "*": operator.mul,
    "/": operator.truediv,
    "**": operator.pow,
    "<": operator.lt,
}


def of(dtype: str, *shape: int) -> np.ndarray:
    return np.ones(shape or (3,), dtype)


@pytest.mark.parity
@pytest.mark.parametrize("sign", BINARY)
@pytest.mark.parametrize("first", TYPES)
@pytest.mark.parametrize("second", TYPES)
def test_types_of_results_are_those_of_torch(sign: str, first: str, second: str) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if sign == "**" and first == second == "bool":
        return
    function = BINARY[sign]
    ours = function(ag.tensor(of(first)), ag.tensor(of(second)))
    theirs = function(torch.tensor(of(first)), torch.tensor(of(second)))
    assert str(ours.dtype) == str(theirs.dtype).removeprefix("torch.")
    np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    with context.using(backend="meta"):
        assert function(ag.tensor(of(first)), ag.tensor(of(second))).dtype == ours.dtype


@pytest.mark.parametrize("dtype", TYPES)
def test_types_with_python_numbers(dtype: str) -> None:
    x = ag.tensor(of(dtype))
    real = dtype if "float" in dtype else "float32"
    assert (x * 0.5).dtype == (0.5 + x).dtype == (x / 2).dtype == (1 / x).dtype == real
    assert (x * 2).dtype == ("int64" if dtype == "bool" else dtype)
    if "float" in dtype:
        assert (x**2).dtype == (x * np.int64(2)).dtype == (x ** np.int64(2)).dtype == dtype


def test_the_only_device() -> None:
    x, net = ag.ones(2), nn.Linear(2, 1)
    assert x.to("cpu") is x and net.to("cpu") is net and x.to(x.double()).dtype == np.float64
    assert x.to("int64").dtype == np.int64 and net.to("float64").weight.dtype == np.float64
    with pytest.raises(TypeError, match="cuda"):
        x.to("cuda")


def test_a_gradient_has_the_type_of_its_operand() -> None:
    x = ag.tensor(np.array([1.0, 2.0], np.float32), requires_grad=True)
    w = ag.tensor(np.array([3.0, 0.5]), requires_grad=True)
    k = ag.tensor([3, 2])
    p = ag.tensor(np.array([0.25, 0.5], np.float32), requires_grad=True)
    q = ag.tensor(np.array([0.5, 1.0]), requires_grad=True)
    results = [
        (x * w / k + x**w + x**k + k**x).sum(),
        ag.maximum(x, k).sum() + ag.where(x > 1.5, x, w).sum() + ag.where(k > 2, k, x).sum(),
        (ag.cat([x, w]) * ag.cat([w, x])).sum() + (ag.stack([x, w, x * 2]) ** 2).sum(),
        ag.binary_cross_entropy(p, q) + ag.binary_cross_entropy(q * 0.5, p),
        (x.reshape(1, 2) @ w.reshape(2, 1)).sum() + (x @ k.float()),
    ]
    for y in results:
        leaves = [t for t in (x, w, p, q)]
        found = ag.grad(y, leaves, allow_unused=True)
        assert [g.dtype for g, t in zip(found, leaves, strict=True) if g is not None] == [
            t.dtype for g, t in zip(found, leaves, strict=True) if g is not None
        ]


def test_integer_power() -> None:
    k = ag.tensor([2, 3])
    assert (k**2).tolist() == [4, 9] and (k**2).dtype == np.int64
    with pytest.raises(TypeError, match=r"^pow: expected numbers, got truth values$"):
        (k > 2) ** (k > 2)


@pytest.mark.parametrize(
    ("input", "other", "expected", "dtype"),
    [
        (2, 0, [2, 0], "int64"),
        (2, 0.5, [2.0, 0.5], "float32"),
        (True, False, [True, False], "bool"),
        ("arange", 0.5, [0.0, 0.5], "float32"),
        ("arange", True, [0, 1], "int64"),
        (-1, "arange", [-1, 1], "int64"),
        ("truth", 3, [1, 3], "int64"),
        (np.float32(2), 0, [2.0, 0.0], "float32"),
    ],
)
def test_where_promotes_numbers(input: Any, other: Any, expected: list[Any], dtype: str) -> None:
    named = {"arange": ag.arange(2), "truth": ag.tensor([True, True])}
    given = [named[v] if isinstance(v, str) else v for v in (input, other)]
    y = ag.where(ag.tensor([True, False]), *given)
    assert y.tolist() == expected and y.dtype == dtype


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int32"])
def test_sums_of_integers_do_not_overflow(dtype: str) -> None:
    x = ag.tensor(np.full((2, 200), 1 if dtype == "bool" else 3, dtype))
    assert x.sum().dtype == x.prod(0).dtype == np.int64
    assert x.sum().item() == x.numpy().sum(dtype=np.int64)


def test_argmin_of_unsigned_integers() -> None:
    x = ag.tensor(np.array([[3, 0, 1], [0, 0, 9]], np.uint8))
    assert x.argmin().item() == 1 and x.argmin(1).tolist() == [1, 0]
    assert ag.tensor([True, False]).argmin().item() == 1


def test_momentum_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected momentum as a number such as 0\.1, got None"):
        nn.BatchNorm2d(3, momentum=None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected momentum as a number such as 0\.1, got None"):
        ag.batch_norm(ag.ones(4, 2), None, None, training=True, momentum=None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "key", [slice(-6, None, -1), slice(-9, -7), slice(7, 9), slice(-6, -9, -1), slice(None, 9, -1)]
)
def test_empty_slices(key: slice) -> None:
    x = ag.tensor(np.arange(5.0), requires_grad=True)
    y = x[key]
    np.testing.assert_array_equal(y.numpy(), x.numpy()[key])
    y.sum().backward()
    assert x.grad is not None and x.grad.tolist() == [0.0] * 5


@pytest.mark.parametrize(
    ("name", "axis", "call"),
    [
        ("cat", 2, lambda x: ag.cat([x, x], 2)),
        ("stack", 3, lambda x: ag.stack([x, x], 3)),
        ("stack", -4, lambda x: ag.stack([x, x], -4)),
        ("permute", 3, lambda x: x.permute(0, 3)),
        ("unsqueeze", 4, lambda x: x.unsqueeze(4)),
        ("squeeze", 2, lambda x: x.squeeze(2)),
        ("flatten", 2, lambda x: x.flatten(0, 2)),
        ("flatten", -3, lambda x: x.flatten(-3)),
        ("split", -3, lambda x: ag.split(x, 1, -3)),
        ("transpose", 2, lambda x: x.transpose(0, 2)),
        ("transpose", -3, lambda x: x.transpose(0, -3)),
        ("argmax", 2, lambda x: x.argmax(2)),
        ("max", 2, lambda x: x.max(2)),
        ("argmin", 2, lambda x: x.argmin(2)),
        ("softmax", 2, lambda x: x.softmax(2)),
        ("softmax", 2, lambda x: ag.softmax(x, 2)),
        ("log_softmax", -3, lambda x: ag.log_softmax(x, -3)),
        ("chunk", 2, lambda x: ag.chunk(x, 2, 2)),
        ("unbind", 2, lambda x: ag.unbind(x, 2)),
    ],
)
def test_axes_out_of_range(name: str, axis: int, call: Callable[[ag.Tensor], object]) -> None:
    message = rf"^{name}: expected an axis in \[-[23], [23]\), got {axis}$"
    with pytest.raises(ValueError, match=message):
        call(ag.ones(2, 3))


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("sum", lambda x: x.sum(2)),
        ("prod", lambda x: x.prod(2)),
        ("any", lambda x: x.any(2)),
        ("all", lambda x: x.all(2)),
        ("mean", lambda x: x.mean(2)),
        ("var", lambda x: x.var(2)),
        ("amax", lambda x: x.amax(2)),
        ("amin", lambda x: x.amin(2)),
        ("flip", lambda x: x.flip(2)),
    ],
)
def test_distinct_axes_out_of_range(name: str, call: Callable[[ag.Tensor], object]) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: expected distinct axes in \[-2, 2\), got .*2"):
        call(ag.ones(2, 3))


@pytest.mark.parametrize(
    ("message", "call"),
    [
        (r"^add: expected shapes that broadcast, got \(2, 3\) and \(2,\)$", lambda x, v: x + v),
        (r"^mul: expected shapes that broadcast, got \(2, 3\) and \(2,\)$", lambda x, v: x * v),
        (r"^lt: expected shapes that broadcast, got \(2, 3\) and \(2,\)$", lambda x, v: x < v),
        (
            r"^where: expected shapes that broadcast, got \(2, 3\) and \(2, 3\) and \(2,\)$",
            lambda x, v: ag.where(x > 0, x, v),
        ),
        (r"^relu: expected numbers, got truth values$", lambda x, v: ag.relu(x > 0)),
        (r"^pow: expected numbers, got truth values$", lambda x, v: (x > 0) ** (x > 0)),
        (r"^bit_or: expected truth values or integers, got float32$", lambda x, v: x | x),
        (
            r"^stack: expected equal shapes, got \[\(2, 3\), \(2,\)\]$",
            lambda x, v: ag.stack([x, v]),
        ),
        (
            r"^expand: expected a shape that \(2,\) broadcasts to, got \(3,\)$",
            lambda x, v: v.expand(3),
        ),
        (
            r"^expand: expected at least 2 extents, .* got \(3,\) for \(2, 3\)$",
            lambda x, v: x.expand(3),
        ),
    ],
)
def test_errors_name_the_operation_and_both_values(
    message: str, call: Callable[[ag.Tensor, ag.Tensor], object]
) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        call(ag.ones(2, 3), ag.ones(2))


def test_axes_of_a_number() -> None:
    x = ag.tensor(1.0)
    assert x.squeeze(0).shape == x.squeeze(-1).shape == () and x.flatten().shape == (1,)
    assert x.unsqueeze(-1).shape == (1,)
    with pytest.raises(ValueError, match=r"^squeeze: expected an axis in \[-1, 1\), got 1$"):
        x.squeeze(1)
    with pytest.raises(ValueError, match=r"^cat: expected an axis in \[0, 0\), got 0$"):
        ag.cat([x, x])
    assert ag.zeros(2, 0, 3).flatten(1).shape == (2, 0)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_only_ignored_labels(smoothing: float, reduction: str) -> None:
    x = ag.randn(3, 4, requires_grad=True)
    ignored = ag.tensor([-100] * 3)
    loss = ag.cross_entropy(x, ignored, reduction=reduction, label_smoothing=smoothing)
    assert np.isnan(loss.item()) if reduction == "mean" else loss.item() == 0
    loss.backward()
    assert x.grad is not None and not x.grad.numpy().any()
    (slope,) = ag.grad(ag.nll_loss(x, ignored, reduction=reduction), x)
    assert slope is not None and not slope.numpy().any()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_relu_stops_infinite_gradients(dtype: str) -> None:
    y = ag.tensor(np.array([0.0, 2.0, 0.0, 1.0], dtype))
    dy = ag.tensor(np.array([np.inf, -np.inf, np.nan, 3.0], dtype))
    assert activation.relu_dx(dy, y).tolist() == [0.0, -np.inf, 0.0, 3.0]


def test_numpy_integers_as_extents() -> None:
    six, two = np.prod([2, 3]), np.int64(2)
    made = [
        ag.zeros(2, 3).reshape(six, 1),
        ag.zeros(two, six),
        ag.randn(two),
        ag.full((two,), 1.0),
        ag.full(two, 1.0),
        ag.ones(1, 3).expand(two, -1),
        ag.arange(6).reshape(np.array([2, 3])),
        ag.conv2d(ag.ones(1, 1, 4, 4), ag.ones(1, 1, 2, 2), stride=two, padding=np.int64(0)),
        nn.Conv2d(1, 1, two, stride=two)(ag.ones(1, 1, 4, 4)),
        nn.AdaptiveAvgPool2d(two)(ag.ones(1, 1, 5, 5)),
        ag.ones(2, 3).sum(np.int64(1)),
        ag.split(ag.ones(4), two)[0],
        ag.pad(ag.ones(3), (two, 0)),
    ]
    for x in made:
        assert all(type(n) is int for n in x.shape), x.shape


def test_extents_as_one_sequence() -> None:
    made = [ag.zeros((2, 3)), ag.ones([2, 3]), ag.randn((2, 3)), ag.rand([2, 3])]
    made += [ag.zeros(6).reshape([2, 3]), ag.zeros(3, 2).permute((1, 0))]
    made += [ag.zeros(3).expand((2, 3)), ag.zeros(1, 3).expand(2, -1), ag.zeros(3).expand([2, -1])]
    assert {x.shape for x in made} == {(2, 3)}
    assert ag.zeros().shape == ag.zeros(()).shape == ()
    with pytest.raises(ValueError, match=r"^expand: expected .* got \(-1, 3\) for \(3,\)$"):
        ag.zeros(3).expand(-1, 3)


def test_product_over_nothing() -> None:
    x, w = ag.zeros(2, 4, 0, requires_grad=True), ag.zeros(0, 3, requires_grad=True)
    y = x @ w
    assert y.shape == (2, 4, 3) and not y.numpy().any()
    y.sum().backward()
    assert x.grad is not None and x.grad.shape == x.shape
    assert w.grad is not None and w.grad.shape == w.shape


def test_comparison_with_none() -> None:
    x = ag.ones(2)
    assert (x == None) is False and (x != None) is True  # noqa: E711


def test_logic() -> None:
    a, b = ag.tensor([True, True, False]), ag.tensor([True, False, False])
    assert (a & b).tolist() == [True, False, False] and (a | b).tolist() == [True, True, False]
    assert (a ^ b).tolist() == [False, True, False] and (~a).tolist() == [False, False, True]
    assert (a & True).tolist() == (True & a).tolist() == a.tolist()
    assert (np.array([False, True, True]) | b).tolist() == [True, True, True]
    assert (ag.tensor([6]) & 3).tolist() == [2]
    with pytest.raises(
        TypeError, match=r"^bit_and: expected truth values or integers, got float32$"
    ):
        a & ag.ones(3)
    with context.using(ledger=ag.Ledger()) as state:
        a ^ b
    assert state.ledger.total().cmp == 3


def test_ndarray_times_tensor() -> None:
    w = ag.tensor(np.arange(6.0).reshape(3, 2), requires_grad=True)
    x = np.arange(12.0).reshape(4, 3)
    y = x @ w
    np.testing.assert_array_equal(y.numpy(), x @ w.numpy())
    np.testing.assert_array_equal((x[0] @ w).numpy(), x[0] @ w.numpy())
    y.sum().backward()
    assert w.grad is not None
    np.testing.assert_array_equal(w.grad.numpy(), x.T @ np.ones((4, 2)))


def test_clamp_at_the_bounds() -> None:
    x = ag.tensor([-2.0, -1.0, 0.0, 1.0, 2.0], requires_grad=True)
    (slope,) = ag.grad(x.clamp(-1, 1).sum(), x)
    assert slope is not None and slope.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]
    assert x.clamp(min=0.5).tolist() == [0.5, 0.5, 0.5, 1.0, 2.0]
    assert x.clip(max=0).tolist() == [-2.0, -1.0, 0.0, 0.0, 0.0]
    (slope,) = ag.grad(x.clamp(max=0).sum(), x)
    assert slope is not None and slope.tolist() == [1.0, 1.0, 1.0, 0.0, 0.0]
    assert ag.arange(3).clamp(1).tolist() == [1, 1, 2]
    assert ag.arange(3).clamp(0.5).tolist() == [0.5, 1.0, 2.0]
    with pytest.raises(ValueError, match=r"^clamp: expected min, max or both, got neither$"):
        x.clamp()


def test_any_and_all() -> None:
    x = ag.tensor([[0, 2], [0, 0]])
    assert x.any().item() is True and x.all().item() is False
    assert x.any(1).tolist() == [True, False]
    assert x.all(0, keepdim=True).tolist() == [[False, False]]
    assert ag.zeros(0).any().item() is False and ag.zeros(0).all().item() is True


@pytest.mark.parametrize("zeros", [0, 1, 2])
@pytest.mark.parametrize("axes", [None, 1, (0, 2)])
def test_gradient_of_a_product_beside_zeros(zeros: int, axes: Any) -> None:
    x = np.random.default_rng(0).uniform(0.5, 2.0, (2, 3, 2))
    x.reshape(-1)[[1, 4][:zeros]] = 0
    gradcheck(lambda t: t.prod(axes), [x])


def test_small_methods() -> None:
    x = ag.tensor(np.arange(6.0).reshape(2, 3))
    assert x.to("float32").dtype == np.float32 and x.to(x.dtype) is x
    assert x.numel() == 6 and x.dim() == 2
    assert x.matmul(x.T).tolist() == (x @ x.T).tolist()
    for ours, plain in (
        (x.chunk(2, 1), ag.chunk(x, 2, 1)),
        (x.split([1, 2], 1), ag.split(x, [1, 2], 1)),
        (x.unbind(1), ag.unbind(x, 1)),
        ([x.flip(0, 1), x.flip((1,))], [ag.flip(x, (0, 1)), ag.flip(x, 1)]),
        ([x.softmax(1), x.log_softmax(0)], [ag.softmax(x, 1), ag.log_softmax(x, 0)]),
    ):
        assert [a.tolist() for a in ours] == [b.tolist() for b in plain]
    with pytest.raises(ValueError, match="size of at least 1, got 0"):
        x.split(0)


@pytest.mark.parametrize(
    ("widths", "mode", "piece"),
    [
        ((3, 0), "reflect", r"expected reflect widths up to 2 along axis 0 of 3, got \(3, 0\)"),
        ((0, 4), "circular", r"expected circular widths up to 3 along axis 0 of 3, got \(0, 4\)"),
        (
            (-2, -2),
            "constant",
            r"expected to cut off at most 3 along axis 0, got widths \(-2, -2\)",
        ),
        ((1, 1), "mirror", r"expected mode in \(.*\), got 'mirror'"),
        ((1,), "constant", "1 widths"),
    ],
)
def test_wrong_borders(widths: tuple[int, ...], mode: str, piece: str) -> None:
    with pytest.raises(ValueError, match=piece):
        ag.pad(ag.ones(3), widths, mode)


def test_division_by_zero_is_silent() -> None:
    x = ag.tensor([1.0, 0.0, -1.0])
    np.testing.assert_array_equal((x / 0.0).numpy(), [np.inf, np.nan, -np.inf])
    np.testing.assert_array_equal((ag.arange(2) / 0).numpy(), [np.nan, np.inf])
    assert np.isnan(ag.softmax(ag.full((2,), -np.inf), 0).numpy()).all()


@pytest.mark.parametrize(
    ("data", "dtype"),
    [
        (ag.ones(2, dtype="float64"), "float64"),
        ([ag.ones(2, dtype="float64"), ag.ones(2)], "float64"),
        ([ag.ones(2), ag.ones(2)], "float32"),
        (np.float64(1), "float64"),
        ([np.float64(1), 2.0], "float64"),
        ([[np.zeros(2)], [[1.0, 2.0]]], "float64"),
        ([np.float16(1)], "float16"),
        ([1.0, 2], "float32"),
        (((1.0, True),), "float32"),
        ([], "float32"),
        (range(3), "int64"),
        (True, "bool"),
    ],
    ids=str,
)
def test_types_of_new_tensors_are_those_of_torch(data: Any, dtype: str) -> None:
    made = ag.tensor(data)
    assert made.dtype == dtype
    assert ag.tensor(data, dtype="float32").dtype == "float32"
