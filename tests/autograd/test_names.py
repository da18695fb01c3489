"""Names that scripts written for torch look for: types, devices, generators, new tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import nn

TYPES = (
    "float32 float float64 double float16 half int64 long int32 int int16 short int8 uint8 bool "
    "bfloat16"
)


@pytest.mark.parity
@pytest.mark.parametrize("name", TYPES.split())
def test_types_are_torchs(name: str) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if name == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    theirs = torch.zeros(2, dtype=getattr(torch, name))
    mine = ag.zeros(2, dtype=getattr(ag, name))
    assert f"torch.{mine.dtype}" == str(theirs.dtype)
    assert mine.dtype == getattr(ag, name) and isinstance(mine.dtype, ag.dtype)
    assert ag.ones(2).to(getattr(ag, name)).dtype == mine.dtype


def test_pythons_own_names_are_not_exported() -> None:
    assert not {"bool", "int", "float"} & {*ag.__all__}
    assert ag.finfo(ag.float32).eps == np.finfo(np.float32).eps
    assert ag.iinfo(ag.int8).max == 127


def test_a_script_may_name_the_device() -> None:
    cpu = ag.device("cuda" if ag.cuda.is_available() else "cpu")
    x = ag.ones(2, 3, device=cpu)
    model = nn.Linear(3, 1).to(cpu).cpu().to(device="cpu", dtype=ag.float64)
    assert x.device == cpu == ag.device("cpu") != ag.device("cpu:0")
    assert (str(cpu), repr(cpu), cpu.type) == ("cpu", "device(type='cpu')", "cpu")
    assert x.to(cpu) is x and x.to("cpu") is x and x.to(x) is x
    assert x.to(cpu, copy=True) is not x
    y = x.to(cpu, ag.float64, non_blocking=True)
    assert y.dtype == ag.float64 and model(y).shape == (2, 1)
    assert x.to(device=cpu, dtype=ag.int64).dtype == ag.int64


@pytest.mark.parametrize(
    "call",
    [
        lambda: ag.zeros(2, device="cuda"),
        lambda: ag.tensor([1.0], device="cuda"),
        lambda: ag.randn(2, device="cuda"),
        lambda: ag.randint(5, (2,), device="cuda"),
        lambda: ag.as_tensor([1.0], device="cuda"),
        lambda: ag.ones(2).new_zeros(3, device="cuda"),
        lambda: ag.ones(2).to(device="cuda"),
        lambda: nn.Linear(1, 1).to(device="cuda"),
        lambda: nn.Linear(1, 1).cuda(),
        lambda: ag.ones(2).cuda(),
        lambda: nn.TransformerEncoderLayer(2, 1, device="cuda"),
        lambda: ag.Generator("cuda"),
        lambda: ag.device("cuda"),
    ],
)
def test_another_device_is_named(call: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=r"expected 'cpu', the only one that there is, got 'cuda'"):
        call()


@pytest.mark.parity
@pytest.mark.parametrize(
    "call",
    [
        lambda m, x: x.new_zeros(2, 3),
        lambda m, x: x.new_ones((2,), dtype=m.int64),
        lambda m, x: x.new_full((2, 2), 1.5),
        lambda m, x: x.new_tensor([1, 2]),
        lambda m, x: m.as_tensor(np.arange(3)),
        lambda m, x: m.as_tensor([1.0, 2.0]),
        lambda m, x: m.as_tensor(x, dtype=m.int32),
        lambda m, x: m.zeros(2, dtype=None),
        lambda m, x: m.full((2,), 1.0, dtype=None, requires_grad=True),
        lambda m, x: m.full((2,), 3),
        lambda m, x: m.full((2,), True),
        lambda m, x: x.half(),
        lambda m, x: m.eye(2, dtype=m.int64),
        lambda m, x: m.ones_like(x, dtype=m.float32),
        lambda m, x: m.arange(0, 1, 0.25, dtype=m.float64),
        lambda m, x: m.linspace(0, 1, 5),
    ],
)
def test_new_tensors_are_torchs(call: Callable[[Any, Any], Any]) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    mine, theirs = (call(m, m.tensor([1.0, 2.0], dtype=m.float64)) for m in (ag, torch))
    np.testing.assert_array_equal(mine.numpy(), theirs.detach().numpy())
    assert mine.numpy().dtype == theirs.detach().numpy().dtype
    assert mine.requires_grad == theirs.requires_grad


def test_as_tensor_copies_only_for_another_type() -> None:
    numbers = np.zeros(3, np.float32)
    x = ag.as_tensor(numbers)
    assert ag.as_tensor(x) is x and ag.is_tensor(x) and not ag.is_tensor(numbers)
    numbers[0] = 1
    assert x.tolist() == [1, 0, 0]
    other = ag.as_tensor(numbers, ag.float64)
    numbers[1] = 1
    assert other.tolist() == [1, 0, 0]


def test_a_trace_sees_new_tensors_of_a_tensor() -> None:
    @ag.trace
    def f(x: ag.Tensor) -> ag.Tensor:
        return x + x.new_tensor([1.0, 2.0]) * x.new_ones(2)

    for _ in range(3):
        assert f(ag.ones(2)).tolist() == [2, 3]


DRAWS: list[Callable[[ag.Generator | None], ag.Tensor]] = [
    lambda g: ag.rand(4, generator=g),
    lambda g: ag.randn(4, generator=g, dtype=ag.float64),
    lambda g: ag.rand_like(ag.ones(4), generator=g),
    lambda g: ag.randint(0, 1000, (4,), generator=g),
    lambda g: ag.randperm(40, generator=g),
    lambda g: ag.normal(0.0, 1.0, (4,), generator=g),
    lambda g: ag.bernoulli(ag.full((64, 2), 0.5), generator=g),
    lambda g: ag.multinomial(ag.ones(500), 4, generator=g),
]


@pytest.mark.parametrize("draw", DRAWS)
def test_a_generator_is_a_stream_of_its_own(
    draw: Callable[[ag.Generator | None], ag.Tensor],
) -> None:
    ag.manual_seed(1)
    expected = draw(None).tolist()
    own = ag.Generator().manual_seed(1)
    ag.manual_seed(2)
    ag.rand(3)
    assert draw(own).tolist() == expected
    assert draw(own).tolist() != expected
    after = draw(None).tolist()
    ag.manual_seed(2)
    ag.rand(3)
    assert draw(None).tolist() == after, "the own stream moved the common one"
    assert own.initial_seed() == 1 and ag.initial_seed() == 2


def test_what_is_no_generator_is_named() -> None:
    with pytest.raises(TypeError, match="generator: expected a Generator or None, got int"):
        ag.rand(2, generator=3)  # type: ignore[arg-type]


def test_blocks_without_gradients() -> None:
    w = ag.ones(2, requires_grad=True)
    with ag.inference_mode():
        assert not (w * 2).requires_grad
    with ag.inference_mode(False):
        assert (w * 2).requires_grad
    for mode in (False, True):
        with ag.no_grad() if mode else ag.enable_grad(), ag.set_grad_enabled(mode):
            assert ag.is_grad_enabled() is mode
        assert ag.set_grad_enabled(mode)(ag.is_grad_enabled)() is mode
    assert not ag.inference_mode()(ag.is_grad_enabled)()
    assert ag.inference_mode(False)(ag.is_grad_enabled)()


@pytest.mark.parity
@pytest.mark.parametrize("name", [
    "sum", "prod", "any", "all", "mean", "var", "std", "argmax", "argmin", "amax", "amin", "max",
    "logsumexp", "norm",
])  # fmt: skip
def test_reductions_take_numpys_names(name: str) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x = np.arange(6, dtype=np.float32).reshape(2, 3) - 2.5
    # torch takes `axis` of some as methods only, and `keepdims` of `norm` not at all.
    found = getattr(ag.tensor(x), name)(axis=1, keepdims=True)
    expected = getattr(torch.tensor(x), name)(dim=1, keepdim=True)
    found, expected = (y[0] if isinstance(y, tuple) else y for y in (found, expected))
    assert found.shape == tuple(expected.shape)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-6)
    with pytest.raises(TypeError, match=f"^{name}: expected dim or axis, got both$"):
        getattr(ag, name)(ag.tensor(x), dim=0, axis=1)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "silu", "hardtanh", "relu6", "dropout"])
def test_functions_in_place(name: str) -> None:
    function, options = getattr(ag, name), {"p": 1.0} if name == "dropout" else {}
    leaf = ag.tensor([-1.0, 2.0], requires_grad=True)
    x = leaf * 1.0
    expected = function(x, **options).tolist()
    assert function(x, inplace=True, **options) is x and x.tolist() == expected
    assert function(x, inplace=False, **options) is not x
    x.sum().backward()
    if name == "relu":
        assert leaf.grad is not None and leaf.grad.tolist() == [0.0, 1.0]
    with pytest.raises(RuntimeError, match=rf"^{name}\(inplace=True\): in place on a leaf"):
        function(leaf, inplace=True, **options)


def test_where_of_a_condition_alone() -> None:
    x = ag.tensor([[1.0, 0.0], [0.0, 2.0]])
    assert [at.tolist() for at in ag.where(x > 0)] == [[0, 1], [0, 1]]
    with pytest.raises(TypeError, match=r"^where: expected input and other, or neither, got one"):
        ag.where(x > 0, x)  # type: ignore[call-overload]


def test_history_is_forgotten_in_place_and_defaults_are_torchs() -> None:
    leaf = ag.ones(2).requires_grad_()
    x = leaf * 2
    assert x.detach_() is x and not x.requires_grad and x.is_leaf and x.tolist() == [2.0, 2.0]
    first, second = ag.tensor([[1.0, 0.0, 0.0]]), ag.tensor([[0.0, 1.0, 0.0]])
    assert ag.cross(first, second).tolist() == [[0.0, 0.0, 1.0]]
    assert ag.tensordot(ag.ones(2, 3), ag.ones(3, 4), 1).shape == (2, 4)
