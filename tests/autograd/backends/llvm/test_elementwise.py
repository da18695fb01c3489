"""Kernels element by element, of updates, losses and cells: equal to the NumPy references on every
target, whatever the layout, and nowhere outside of their arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from tallygrad.autograd import context
from tallygrad.autograd.array import Spec
from tallygrad.autograd.backends.llvm import registry
from tallygrad.autograd.backends.llvm.compiler.isa import targets
from tallygrad.autograd.backends.llvm.plans import elementwise as pointwise_plans
from tallygrad.autograd.backends.llvm.plans import loss as loss_plans
from tallygrad.autograd.backends.llvm.plans import sums as sum_plans
from tallygrad.autograd.backends.llvm.plans import update as update_plans
from tallygrad.autograd.backends.llvm.runtime.layout import Layouts
from tallygrad.autograd.ops import activation, elementwise, gated, loss, recurrent, reduce, update
from tallygrad.autograd.ops import shape as shape_ops
from tallygrad.autograd.primitive import Primitive

SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-30, -1e-30, 88.8, -88.8, -103.5, 1e30, -1e30]
SHAPES = [(1,), (7,), (16, 17), (3, 5, 4, 3), (2, 50, 3, 3), (2, 1, 9, 7), (1337,)]
UNARY: list[tuple[Primitive, dict[str, float]]] = [
    (activation.relu, {}),
    (activation.leaky_relu, {"slope": 0.25}),
    (activation.leaky_relu, {"slope": 3.0}),
    (activation.elu, {"alpha": 1.5}),
    (activation.sigmoid, {}),
    (activation.tanh, {}),
    (gated.gelu, {}),
    (gated.gelu_tanh, {}),
    (gated.silu, {}),
    (gated.mish, {}),
    (gated.hardswish, {}),
    (gated.hardtanh, {"low": -0.3, "high": 0.5}),
    (elementwise.exp, {}),
    (elementwise.neg, {}),
    (reduce.scale, {"factor": 0.3}),
]
# Their slopes pass through 0, where errors are not relative.
GATED = [gated.gelu_dx, gated.gelu_tanh_dx, gated.silu_dx, gated.mish_dx, gated.hardswish_dx]
BINARY: list[tuple[Primitive, dict[str, float]]] = [
    (activation.relu_dx, {}),
    (activation.leaky_relu_dx, {"slope": 0.25}),
    (activation.leaky_relu_dx, {"slope": 3.0}),
    (activation.elu_dx, {"alpha": 1.5}),
    (activation.sigmoid_dx, {}),
    (activation.tanh_dx, {}),
    (gated.hardtanh_dx, {"low": -0.3, "high": 0.5}),
    *[(p, {}) for p in GATED],
    (elementwise.add, {}),
    (elementwise.sub, {}),
    (elementwise.mul, {}),
    (elementwise.div, {}),
]
ARITHMETIC = [elementwise.add, elementwise.sub, elementwise.mul, elementwise.div]


MACHINE = {"target": targets.target()}  # what kernels are made for


@pytest.fixture(autouse=True, params=targets.available())
def target(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make kernels for each target, for the smallest arrays too."""
    monkeypatch.setattr(pointwise_plans, "LEAST", 0)
    monkeypatch.setattr(sum_plans, "LEAST", 0)
    monkeypatch.setattr(update_plans, "LEAST", 0)
    monkeypatch.setattr(loss_plans, "LEAST", 0)
    monkeypatch.setitem(MACHINE, "target", targets.target(request.param))
    return str(request.param)


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> str:
    return request.param


def kernel(p: Primitive, *xs: np.ndarray, **attrs: Any) -> Any:
    """Return the kernel for a call, which there must be."""
    specs = tuple(Spec(x.shape, x.dtype) for x in xs)
    made = registry.find(MACHINE["target"], p.name, specs, attrs)
    assert made is not None
    return made


def numbers(*shape: int, dtype: str, seed: int = 0, layout: str = "plain") -> np.ndarray:
    """Return random numbers amid others that no kernel may touch."""
    drawn = np.random.default_rng(seed).standard_normal(shape)
    return guarded(np.asarray(drawn, dtype), layout)


def guarded(x: np.ndarray, layout: str = "plain") -> np.ndarray:
    """Return a copy of x that lies between canaries: row by row, channels-last, transposed or in
    every second place."""
    axes = list(range(x.ndim))
    if layout == "last" and x.ndim > 2:
        axes = [0, *axes[2:], 1]
    elif layout == "turned":
        axes = axes[::-1]
    step = 2 if layout == "gaps" else 1
    memory = np.full(x.size * step + 64, 7.25, x.dtype)
    inner = memory[32 : 32 + x.size * step : step].reshape([x.shape[a] for a in axes])
    view = inner.transpose(np.argsort(axes))
    view[...] = x
    return view


def intact(x: np.ndarray) -> bool:
    """Tell whether the canaries around an array of `guarded` are alive."""
    memory = x.base
    while memory.base is not None:
        memory = memory.base
    return bool((memory[:32] == 7.25).all() and (memory[-32:] == 7.25).all())


def check(p: Primitive, *xs: np.ndarray, ulps: float = 4, least: float = 0.0, **attrs: Any) -> Any:
    """Hold a kernel against its reference, but for `ulps` relative and `least` absolute errors;
    return its result."""
    before = [x.copy() for x in xs]
    with np.errstate(all="ignore"):
        wanted = p.reference(*xs, **attrs)
        got = kernel(p, *xs, **attrs)(*xs)
    for a, b in zip(*[r if isinstance(r, tuple) else (r,) for r in (got, wanted)], strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        eps = np.finfo(b.dtype).eps if b.dtype.kind == "f" else 0
        np.testing.assert_allclose(a, b, rtol=ulps * eps, atol=least or 4 * np.finfo(a.dtype).tiny)
    for x, old in zip(xs, before, strict=True):
        np.testing.assert_array_equal(x, old)
        if x.base is not None:
            assert intact(x)
    return got


@pytest.mark.parametrize("layout", ["plain", "last", "turned", "gaps"])
def test_casts(dtype: str, layout: str) -> None:
    other = np.dtype("float64" if dtype == "float32" else "float32")
    for i, shape in enumerate(SHAPES):
        x = numbers(*shape, dtype=dtype, seed=i, layout=layout)
        y = check(shape_ops.cast, x, ulps=0, dtype=other)
        if layout != "gaps":
            assert Layouts(Spec(shape, other)).of(y) is not None
    large = np.array([1e300, -1e300, np.nan, 1e-300] * 5)
    if dtype == "float64":
        check(shape_ops.cast, large, ulps=0, dtype=other)


def test_running_averages(dtype: str) -> None:
    for unbiased, size in ((1.0, 3), (1.25, 70)):
        drawn = [numbers(size, dtype=dtype, seed=i) for i in range(4)]
        rate = np.asarray(0.1, dtype)
        wanted = [x.copy() for x in drawn]
        update.running_average.reference(*wanted, rate, unbiased=unbiased)
        kernel(update.running_average, *drawn, rate, unbiased=unbiased)(*drawn, rate)
        for a, b in zip(drawn, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=4 * np.finfo(dtype).eps)
        apart = [np.repeat(x, 2)[::2] for x in drawn]
        wanted = [x.copy() for x in drawn]
        update.running_average.reference(*wanted, rate, unbiased=unbiased)
        kernel(update.running_average, *apart, rate, unbiased=unbiased)(*apart, rate)
        for a, b in zip(apart, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=4 * np.finfo(dtype).eps)


def named(case: Any) -> str:
    p, attrs = case
    return p.name + "".join(f"-{v}" for v in attrs.values())


@pytest.mark.parametrize("case", UNARY, ids=named)
def test_unary(case: tuple[Primitive, dict[str, float]], dtype: str) -> None:
    p, attrs = case
    for i, shape in enumerate(SHAPES):
        for layout in ("plain", "last", "turned", "gaps"):
            x = numbers(*shape, dtype=dtype, seed=i, layout=layout)
            y = check(p, x, ulps=8, **attrs)
            if layout != "gaps":
                assert Layouts(Spec(shape, y.dtype)).of(y) is not None
                assert y.strides == np.empty_like(x).strides
    check(p, guarded(np.array(SPECIAL * 9, dtype)), ulps=8, **attrs)


def around_zero(p: Primitive, dy: np.ndarray) -> float:
    """Return the error that a slope may have besides relative ones."""
    if p not in GATED:
        return 0.0
    return float(8 * np.finfo(dy.dtype).eps * np.abs(dy[np.isfinite(dy)]).max())


@pytest.mark.parametrize("case", BINARY, ids=named)
def test_binary(case: tuple[Primitive, dict[str, float]], dtype: str) -> None:
    p, attrs = case
    for i, shape in enumerate(SHAPES):
        for first, second in [("plain", "plain"), ("last", "last"), ("plain", "last"),
                              ("gaps", "last"), ("turned", "gaps")]:  # fmt: skip
            x = numbers(*shape, dtype=dtype, seed=i, layout=first)
            w = numbers(*shape, dtype=dtype, seed=i + 9, layout=second)
            y = check(p, x, w, ulps=16, least=around_zero(p, x), **attrs)
            if "last" in (first, second) and len(shape) == 4:
                assert y.transpose(0, 2, 3, 1).flags.c_contiguous
    x, w = (a.reshape(-1).astype(dtype) for a in np.meshgrid(SPECIAL, SPECIAL))
    check(p, guarded(x), guarded(w), ulps=16, least=around_zero(p, x), **attrs)


@pytest.mark.parametrize("p", ARITHMETIC, ids=lambda p: p.name)
def test_channels(p: Primitive, dtype: str) -> None:
    for c in (1, 3, 5, 16, 17, 20, 50, 70, 600):
        for layout in ("last", "plain"):
            x = numbers(3, c, 5, 3, dtype=dtype, layout=layout)
            y = check(p, x, numbers(1, c, 1, 1, dtype=dtype, seed=1))
            check(p, numbers(1, c, 1, 1, dtype=dtype, seed=1), x)
            assert y.transpose(0, 2, 3, 1).flags.c_contiguous
        rows = numbers(11, c, dtype=dtype)
        check(p, rows, numbers(c, dtype=dtype, seed=1))
        check(p, rows, np.array(0.75, dtype))
        check(p, rows[:, ::2], numbers(rows[:, ::2].shape[1], dtype=dtype, seed=1))


def test_channels_pass_on_what_is_no_number(dtype: str) -> None:
    x = numbers(4, 5, 3, 3, dtype=dtype, layout="last")
    x[1, 2, 0, 0], x[3, 4, 2, 2] = np.nan, np.inf
    check(elementwise.add, x, numbers(5, 1, 1, dtype=dtype))
    assert np.isnan(check(reduce.sum_to, x, shape=(1, 5, 1, 1))).sum() == 1


def test_sums(dtype: str) -> None:
    for c in (1, 3, 5, 16, 17, 20, 50, 70, 600):
        for layout in ("last", "plain"):
            x = numbers(6, c, 7, 5, dtype=dtype, layout=layout)
            bound = 64 * np.finfo(dtype).eps
            for p, attrs in (
                (reduce.sum_to, {"shape": (1, c, 1, 1)}),
                (reduce.sum, {"axes": (0, 2, 3)}),
            ):
                got = kernel(p, x, **attrs)(x)
                wanted = x.sum((0, 2, 3), dtype=np.float64).reshape(got.shape)
                assert got.dtype == x.dtype
                np.testing.assert_allclose(got, wanted, atol=bound * 16, rtol=bound)
                assert intact(x)
    x = numbers(131, 77, dtype=dtype)
    check(reduce.sum_to, np.abs(x), shape=(77,), ulps=64)


def test_long_sums_stay_exact() -> None:
    """Row after row would be wrong by 5e-4."""
    x = np.full((1 << 16, 16), 0.1, np.float32)
    wanted = (1 << 16) * np.float64(np.float32(0.1))
    assert np.abs(kernel(reduce.sum_to, x, shape=(16,))(x) / wanted - 1).max() < 1e-5


OPTIONS = [
    {"momentum": m, "dampening": d, "weight_decay": w, "nesterov": n}
    for m, d, w, n in [
        (0, 0, 0, 0),
        (0, 0, 0.1, 0),
        (0.9, 0, 0, 0),
        (0.9, 0.3, 0.1, 0),
        (0.9, 0, 0.1, 1),
    ]
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(map(str, o.values())))
def test_sgd(options: dict[str, float], dtype: str) -> None:
    lr, none = np.array(0.05), np.zeros((), dtype)
    for shape in [(1,), (40,), (1337,), (5, 17)]:
        for layout in ("plain", "turned", "gaps"):
            ours = [numbers(*shape, dtype=dtype, seed=i, layout=layout) for i in range(3)]
            theirs = [x.copy() for x in ours]
            run = kernel(update.sgd, *ours, none, lr, **options)
            for _ in range(3):
                run(*ours, none, lr)
                update.sgd.reference(*theirs, none, lr, **options)
            for x, y in zip(ours, theirs, strict=True):
                np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
                assert intact(x)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(map(str, o.values())))
def test_sgd_rounds_weights_to_their_narrow_copy(options: dict[str, float]) -> None:
    bfloat16, lr = pytest.importorskip("ml_dtypes").bfloat16, np.array(0.05)
    for size, layout, step in (
        (1, "plain", 1),
        (1337, "plain", 1),
        (530, "gaps", 1),
        (70, "plain", 2),
    ):
        ours = [numbers(size, dtype="float32", seed=i, layout=layout) for i in range(3)]
        alone, memory = [x.copy() for x in ours], np.full(size * step + 2, 7, bfloat16)
        copy, none = memory[1:-1:step], np.zeros((), "f4")
        kernel(update.sgd, *ours, copy, lr, **options)(*ours, copy, lr)
        kernel(update.sgd, *alone, none, lr, **options)(*alone, none, lr)
        for x, y in zip(ours, alone, strict=True):
            np.testing.assert_array_equal(x, y)
        np.testing.assert_array_equal(copy, ours[0].astype(bfloat16))
        assert (memory == 7).sum() >= memory.size - size and memory[0] == memory[-1] == 7


def test_sgd_takes_a_rate_that_changes(dtype: str) -> None:
    w, g, none = numbers(100, dtype=dtype), numbers(100, dtype=dtype, seed=1), np.zeros((), dtype)
    lr, start = np.array(0.5, dtype), w.copy()
    run = kernel(update.sgd, w, g, g, none, lr, **OPTIONS[0])
    run(w, g, g, none, lr)
    lr[...] = 0
    run(w, g, g, none, lr)
    np.testing.assert_allclose(w, start - np.asarray(0.5, dtype) * g, rtol=1e-5, atol=1e-6)


def test_accumulate(dtype: str) -> None:
    memory = numbers(300, dtype=dtype)
    cases = [
        (numbers(6, 50, dtype=dtype), numbers(6, 50, dtype=dtype, seed=1, layout=layout))
        for layout in ("plain", "turned", "gaps")
    ]
    for slot, g in [*cases, (memory[3:], memory[:-3]), (memory, memory)]:
        wanted, added = slot + g, slot is not memory and g is not memory and g.copy()
        kernel(update.accumulate, slot, g)(slot, g)
        np.testing.assert_array_equal(slot, wanted)
        assert intact(slot) and (slot.base is g.base or (g == added).all())


@pytest.mark.parametrize("shape", [(1, 1), (16, 16), (20, 1, 5, 5), (37, 45), (50, 3, 3, 3)])
def test_store(shape: tuple[int, ...], dtype: str) -> None:
    for layout in ("plain", "turned", "gaps", "last"):
        slot = numbers(*shape, dtype=dtype)
        g = numbers(*shape, dtype=dtype, seed=1, layout=layout)
        kernel(update.store, slot, g)(slot, g)
        np.testing.assert_array_equal(slot, g)
        assert intact(slot) and intact(g)
    filters = numbers(*shape[:0:-1], shape[0], dtype=dtype).transpose(range(len(shape) - 1, -1, -1))
    kernel(update.store, slot, filters)(slot, filters)
    np.testing.assert_array_equal(slot, filters)


@pytest.mark.parametrize("shape", [(1, 2), (4, 1), (5, 10), (3, 16), (7, 133), (2, 5, 3, 4)])
def test_softmax(shape: tuple[int, ...], dtype: str) -> None:
    for layout in ("plain", "last", "turned"):
        x = numbers(*shape, dtype=dtype, layout=layout) * 9
        y = np.abs(numbers(*shape, dtype=dtype, seed=1, layout=layout))
        for axis in (1, len(shape) - 1):
            for p in (activation.softmax, activation.log_softmax):
                check(p, x, axis=axis, ulps=40, least=8 * np.finfo(dtype).eps)
            for p in (activation.softmax_dx, activation.log_softmax_dx):
                wanted = p.reference(x, y, axis=axis)
                got = kernel(p, x, y, axis=axis)(x, y)
                scale = np.abs(wanted).max() + np.abs(x).max()
                np.testing.assert_allclose(got, wanted, atol=64 * np.finfo(dtype).eps * scale)


def test_softmax_of_no_numbers(dtype: str) -> None:
    x = numbers(6, 19, dtype=dtype)
    x[0, 3], x[1, 18], x[2] = np.nan, np.inf, -np.inf
    x[3, 1:], x[4] = -np.inf, 1e4
    for p in (activation.softmax, activation.log_softmax):
        check(p, x, axis=1, ulps=40)


CROSS = [
    {"ignore_index": i, "label_smoothing": s, "reduction": r}
    for i, s, r in [(-100, 0.0, "mean"), (2, 0.0, "sum"), (2, 0.1, "mean"), (-100, 0.3, "none")]
]


@pytest.mark.parametrize("options", CROSS, ids=lambda o: "-".join(map(str, o.values())))
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy(options: dict[str, Any], weighted: bool, dtype: str) -> None:
    for shape in [(1, 3), (9, 10), (4, 37), (2, 5, 3, 4)]:
        for layout in ("plain", "last"):
            x = numbers(*shape, dtype=dtype, layout=layout)
            labels = np.random.default_rng(0).integers(0, shape[1], (shape[0], *shape[2:]))
            labels[labels == 1] = options["ignore_index"]
            w = (np.abs(numbers(shape[1], dtype=dtype, seed=2)),) if weighted else ()
            _, p = check(loss.cross_entropy, x, labels, *w, ulps=64, **options)
            dloss = np.asarray(1.5, dtype)
            if options["reduction"] == "none":
                dloss = numbers(*labels.shape, dtype=dtype, seed=3)
            wanted = loss.cross_entropy_dx.reference(dloss, p, labels, *w, **options)
            run = kernel(loss.cross_entropy_dx, dloss, p, labels, *w, **options)
            got = run(dloss, p, labels, *w)
            assert got.dtype == wanted.dtype
            bound = 32 * np.finfo(dtype).eps
            np.testing.assert_allclose(got, wanted, rtol=bound, atol=bound)


def test_cross_entropy_of_nothing_and_of_wrong_labels(dtype: str) -> None:
    x, options = numbers(4, 5, dtype=dtype), {**CROSS[1], "reduction": "mean"}
    check(loss.cross_entropy, x, np.full(4, 2), **options)
    run = kernel(loss.cross_entropy_dx, x[0, 0], x, np.full(4, 2), **options)
    assert not run(x[0, 0], x, np.full(4, 2)).any()
    for wrong in (5, -1):
        labels = np.array([0, 1, wrong, 2])
        with pytest.raises(IndexError, match=rf"expected labels in \[0, 5\), got {wrong}"):
            kernel(loss.cross_entropy, x, labels, **options)(x, labels)


@pytest.mark.parametrize("rows, size", [(1, 1), (3, 16), (5, 21), (2, 128)])
def test_lstm_cell(rows: int, size: int, dtype: str) -> None:
    gates = numbers(rows, 4 * size, dtype=dtype, layout="turned") * 5
    c, dh, dcell = (numbers(rows, size, dtype=dtype, seed=i) for i in (1, 2, 3))
    gates[0, 0] = 1e4
    bound = 16 * np.finfo(dtype).eps
    wanted = recurrent.lstm_cell.reference(gates, c)
    got = kernel(recurrent.lstm_cell, gates, c)(gates, c)
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=bound, atol=bound)
    given = dh, dcell, wanted[2], c, wanted[1]
    slopes = kernel(recurrent.lstm_cell_dx, *given)(*given)
    for a, b in zip(slopes, recurrent.lstm_cell_dx.reference(*given), strict=True):
        np.testing.assert_allclose(a, b, rtol=bound, atol=4 * bound)
    assert intact(c) and intact(dh) and intact(dcell)


def test_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    xs = [numbers(128, 128, dtype="float32", seed=i) for i in range(3)]
    np.testing.assert_array_equal(kernel(recurrent.stack, *xs)(*xs), np.stack(xs))


def test_results_lie_between_canaries(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory that kernels write results to is guarded, too."""
    made: list[np.ndarray] = []

    def new(self: Layouts, strides: tuple[int, ...]) -> np.ndarray:
        made.append(guarded(np.zeros(self.shape, self.dtype)))
        return made[-1]

    monkeypatch.setattr(Layouts, "new", new)
    for n in (1, 15, 17, 63, 65, 259):
        x = numbers(n, dtype=dtype)
        for p in (activation.sigmoid, elementwise.exp):
            kernel(p, x)(x)
        kernel(elementwise.add, x, x)(x, x)
        rows = numbers(3, n, dtype=dtype)
        kernel(elementwise.add, rows, x)(rows, x)
        kernel(activation.softmax, rows, axis=1)(rows)
        kernel(activation.softmax_dx, rows, rows, axis=1)(rows, rows)
    assert len(made) == 36 and all(map(intact, made))


def test_the_backend_uses_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from tallygrad.autograd.array import array

    monkeypatch.setattr(elementwise.add, "resolved", {})
    x = array(np.ones((32, 32), np.float32))
    with context.using(backend="llvm"):
        assert (elementwise.add(x, x).value == 2).all()
    assert [k.backend for k in elementwise.add.resolved.values()] == ["llvm"]
