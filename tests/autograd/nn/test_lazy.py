"""Layers that take the number of their inputs from the first data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import nn

ROWS: list[tuple[str, tuple[Any, ...], dict[str, Any], tuple[int, ...]]] = [
    ("Linear", (4,), {"bias": False}, (2, 5, 3)),
    ("Conv1d", (4, 2), {}, (3, 6)),
    ("Conv2d", (6, 3), {"padding": 1, "groups": 3}, (2, 3, 5, 4)),
    ("Conv3d", (2, 2), {}, (1, 3, 3, 4, 3)),
    ("ConvTranspose1d", (2, 3), {"stride": 2}, (2, 3, 4)),
    ("ConvTranspose2d", (2, 3), {"stride": 2}, (3, 4, 3)),
    ("ConvTranspose3d", (2, 2), {}, (1, 3, 2, 3, 2)),
    ("BatchNorm1d", (), {"eps": 0.1}, (4, 3)),
    ("BatchNorm2d", (), {}, (4, 3, 2, 2)),
    ("BatchNorm3d", (), {}, (2, 3, 2, 2, 2)),
    ("InstanceNorm1d", (), {"affine": True}, (2, 3, 4)),
    ("InstanceNorm2d", (), {}, (3, 4, 2)),
    ("InstanceNorm3d", (), {}, (2, 3, 2, 2, 2)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "args", "options", "shape"), ROWS, ids=[r[0] for r in ROWS])
def test_they_become_their_namesakes(
    name: str, args: tuple[Any, ...], options: dict[str, Any], shape: tuple[int, ...]
) -> None:
    x, full = ag.randn(*shape), getattr(nn, name)
    ag.manual_seed(1)
    expected = full(3, *args, **options)
    lazy = getattr(nn, f"Lazy{name}")(*args, **options)
    assert isinstance(lazy, full)
    ag.manual_seed(1)
    y = nn.Sequential(lazy)(x)
    np.testing.assert_array_equal(y.numpy(), expected(x).numpy())
    assert type(lazy) is full and repr(lazy) == repr(expected)
    mine, others = lazy.state_dict(), expected.state_dict()
    assert [*mine] == [*others] and all((mine[k] == others[k]).all() for k in mine)


def test_before_the_first_call_there_are_no_parameters() -> None:
    net = nn.Sequential(nn.LazyLinear(4, dtype="float64"), nn.ReLU(), nn.LazyLinear(2)).eval()
    assert repr(net[0]) == "LazyLinear(4, dtype='float64')" and net.to("cpu") is net
    for ask in (net.parameters, net.state_dict, lambda: ag.optim.SGD(net.parameters(), 0.1)):
        with pytest.raises(ValueError, match=r"^LazyLinear: expected a first call .*, got none"):
            list(ask())  # type: ignore[call-overload]
    net[2] = nn.Identity()
    with ag.no_grad():
        net(ag.ones(1, 3, dtype="float64"))
    assert net[0].weight.shape == (4, 3) and net[0].weight.dtype == ag.float64
    assert not net[0].training and net[0].weight.is_leaf
    net(ag.ones(1, 3, dtype="float64")).sum().backward()
    assert net[0].weight.grad is not None


def test_a_first_call_that_fails_leaves_them_as_they_were() -> None:
    conv, norm = nn.LazyConv2d(4, 1, groups=2), nn.LazyBatchNorm1d()
    for layer, shape, said in (
        (conv, (3, 5, 5), "expected groups that divide 3 and 4 channels"),
        (conv, (5, 5), r"LazyConv2d: expected an input of at least 3 axes, got shape \(5, 5\)"),
        (norm, (5,), r"LazyBatchNorm1d: expected an input of at least 2 axes, got shape \(5,\)"),
    ):
        with pytest.raises(ValueError, match=said):
            layer(ag.ones(*shape))
    assert repr(conv) == "LazyConv2d(4, 1, groups=2)"
    assert conv(ag.ones(2, 5, 5)).shape == (4, 5, 5) and norm(ag.ones(2, 5)).shape == (2, 5)


def test_arguments_are_checked_at_once() -> None:
    with pytest.raises(TypeError, match="missing a required argument: 'kernel_size'"):
        nn.LazyConv2d(3)
