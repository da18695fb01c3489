"""Modules, layers and flat buffers."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import context, nn, random


class Block(nn.Module):
    def __init__(self) -> None:
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.norm = nn.BatchNorm2d(2)

    def forward(self, x: ag.Tensor) -> ag.Tensor:
        return self.norm(self.conv(x)) + x


class Net(nn.Module):
    def __init__(self) -> None:
        self.stage1 = nn.Sequential(Block(), nn.ReLU())
        self.branches = nn.ModuleList([nn.Linear(8, 3), nn.Linear(8, 3, bias=False)])
        self.scale = nn.Parameter(ag.ones(3))
        self.register_buffer("offset", ag.zeros(3))
        self.register_buffer("scratch", ag.zeros(1), persistent=False)

    def forward(self, x: ag.Tensor) -> ag.Tensor:
        x = self.stage1(x).flatten(1)
        a, b = [branch(x) for branch in self.branches]
        return (a + b) * self.scale + vars(self)["offset"]


NAMES = [
    "scale",
    "stage1.0.conv.weight",
    "stage1.0.conv.bias",
    "stage1.0.norm.weight",
    "stage1.0.norm.bias",
    "branches.0.weight",
    "branches.0.bias",
    "branches.1.weight",
]
STATE = ["offset", "stage1.0.norm.running_mean", "stage1.0.norm.running_var"]


def test_names() -> None:
    net = Net()
    assert [name for name, _ in net.named_parameters()] == NAMES
    assert [name for name, _ in net.named_buffers()] == [STATE[0], "scratch", *STATE[1:]]
    assert [name for name, _ in net.named_modules()] == [
        "", "stage1", "stage1.0", "stage1.0.conv", "stage1.0.norm", "stage1.1",
        "branches", "branches.0", "branches.1",
    ]  # fmt: skip
    assert len([*net.parameters()]) == 8 and len([*net.buffers()]) == 4
    assert [*net.children()] == [net.stage1, net.branches]
    assert net.stage1[0].conv in [*net.modules()]
    assert net.branches[1] is [*net.branches][1] and len(net.branches) == len(net.stage1) == 2
    assert set(net.state_dict()) == {*NAMES, *STATE}


def test_scopes_are_the_names_of_the_modules() -> None:
    net = Net()
    with context.using(ledger=ag.Ledger()) as state:
        net(ag.ones(1, 2, 2, 2)).sum().backward()
    working = {row.key.scope for row in state.ledger}
    assert working == {
        "", "stage1.0", "stage1.0.conv", "stage1.0.norm", "stage1.1", "branches.0", "branches.1",
    }  # fmt: skip
    assert working <= {name for name, _ in net.named_modules()}


def test_list_appended_after_it_got_its_name() -> None:
    net = Net()
    net.branches.append(nn.Linear(8, 3))
    with context.using(ledger=ag.Ledger()) as state:
        net.branches[2](ag.ones(1, 8))
    assert {row.key.scope for row in state.ledger} == {"branches.2"}


def test_shared_parameters_are_listed_once_and_saved_under_both_names() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    assert [name for name, _ in net.named_parameters()] == ["0.weight", "0.bias", "1.bias"]
    assert set(net.state_dict()) == {"0.weight", "0.bias", "1.weight", "1.bias"}
    twice = nn.Sequential(net, net)
    assert [name for name, _ in twice.named_modules()] == ["", "0", "0.0", "0.1"]


def test_a_replaced_or_deleted_attribute_is_gone() -> None:
    layer = nn.Linear(2, 2)
    layer.bias = None
    assert [name for name, _ in layer.named_parameters()] == ["weight"]
    del layer.weight
    assert not [*layer.parameters()]


def test_sequential_with_names() -> None:
    net = nn.Sequential({"fc": nn.Linear(2, 3), "act": nn.ReLU()})
    assert [name for name, _ in net.named_parameters()] == ["fc.weight", "fc.bias"]
    assert net(ag.ones(1, 2)).shape == (1, 3)
    for name in "train", "a.b", "":
        with pytest.raises(
            ValueError, match=f"Sequential: expected an unused name without dots, got {name!r}$"
        ):
            nn.Sequential({name: nn.ReLU()})


def test_switches() -> None:
    net = Net()
    assert net.eval() is net and not any(m.training for m in net.modules())
    assert net.train() is net and all(m.training for m in net.modules())
    net.requires_grad_(False)
    assert not any(p.requires_grad for p in net.parameters())
    net.requires_grad_()
    net(ag.ones(2, 2, 2, 2)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    net.zero_grad()
    assert all(p.grad is None for p in net.parameters())
    seen: list[nn.Module] = []
    assert net.apply(seen.append) is net
    assert seen[-1] is net and len(seen) == len([*net.modules()])


def test_types() -> None:
    net = Net().double()
    assert {t.dtype for t in [*net.parameters(), *net.buffers()]} == {np.dtype(np.float64)}
    assert net(ag.ones(1, 2, 2, 2, dtype=np.float64)).dtype == np.float64
    assert {p.dtype for p in net.float().parameters()} == {np.dtype(np.float32)}
    nn.flatten([*net.parameters()])
    with pytest.raises(RuntimeError, match="scale: change its type before"):
        net.double()
    assert nn.Linear(2, 2, dtype="float64").weight.dtype == np.float64


def test_state_goes_round_and_is_a_copy() -> None:
    ag.manual_seed(1)
    one, other = Net(), Net()
    state = one.state_dict()
    with ag.no_grad():
        one.scale.copy_(ag.full((3,), 7.0))
    assert (state["scale"] == 1).all()
    memory = other.scale.array
    assert other.load_state_dict(state) == ([], [])
    assert other.scale.array is memory
    for name, value in other.state_dict().items():
        np.testing.assert_array_equal(value, state[name])


def test_everything_that_is_wrong_with_a_state_is_listed_and_nothing_loaded() -> None:
    net = nn.Sequential({"conv1": nn.Conv2d(1, 6, 5), "fc": nn.Linear(2, 2)})
    before = net.state_dict()
    state = {
        "conv1.weight": np.zeros((6, 3, 5, 5)),
        "conv1.bias": np.zeros(6),
        "fc.weight": np.zeros(2),
        "fc.more": np.zeros(1),
    }
    with pytest.raises(ValueError) as caught:
        net.load_state_dict(state)
    assert str(caught.value).split("\n")[1:] == [
        "conv1.weight: expected (6, 1, 5, 5), state has (6, 3, 5, 5)",
        "fc.weight: expected (2, 2), state has (2,)",
        "fc.bias: missing",
        "fc.more: extra, nothing has this name",
    ]
    with pytest.raises(
        ValueError, match=r"conv1.weight: expected \(6, 1, 5, 5\), state has \(6, 3, 5, 5\)"
    ):
        net.load_state_dict(state, strict=False)
    for name, value in net.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    loaded = {"conv1.bias": np.ones(6), "x": np.ones(1)}
    result = missing, extra = net.load_state_dict(loaded, strict=False)
    assert result.missing_keys is missing and result.unexpected_keys is extra
    assert missing == ["conv1.weight", "fc.weight", "fc.bias"] and extra == ["x"]
    assert (net.state_dict()["conv1.bias"] == 1).all()


def test_count_of_batches_in_a_state_is_accepted() -> None:
    for net, name in (nn.BatchNorm2d(2), ""), (nn.Sequential(nn.BatchNorm2d(2)), "0."):
        state = net.state_dict()
        assert net.load_state_dict({**state, f"{name}num_batches_tracked": 3}) == ([], [])


def test_loading_and_drawing_are_in_no_book() -> None:
    with context.using(ledger=ag.Ledger()) as state:
        net = Net()
        net.load_state_dict(net.state_dict())
        nn.flatten([*net.double().parameters()])
    assert not state.ledger.calls


def test_repr_is_a_tree() -> None:
    assert repr(nn.Sequential(nn.Linear(2, 3), nn.ReLU())) == (
        "Sequential(\n  (0): Linear(in_features=2, out_features=3)\n  (1): ReLU()\n)"
    )
    assert repr(nn.Conv2d(1, 2, 3, dilation=2, bias=False)).endswith("dilation=(2, 2), bias=False)")
    assert repr(nn.Linear(2, 3, bias=False)) == "Linear(in_features=2, out_features=3, bias=False)"
    assert repr(nn.BatchNorm2d(3)) == "BatchNorm2d(num_features=3, eps=1e-05, momentum=0.1)"
    told = repr(nn.BatchNorm2d(3, affine=False, track_running_stats=False))
    assert told.endswith("momentum=0.1, affine=False, track_running_stats=False)")
    assert repr(nn.LayerNorm(3, elementwise_affine=False)).endswith("affine=False, bias=False)")
    assert repr(nn.CrossEntropyLoss(ag.ones(3))) == "CrossEntropyLoss(reduction='mean')"
    assert "    (conv): Conv2d(in_channels=2," in repr(Net().stage1)


def test_module_without_forward() -> None:
    with pytest.raises(NotImplementedError, match="ModuleList has no forward"):
        nn.ModuleList()(1)


def test_batch_norm_keeps_statistics_in_training_alone() -> None:
    layer = nn.BatchNorm2d(2, momentum=0.5)
    x = ag.tensor(np.arange(16.0).reshape(2, 2, 2, 2).astype("float32"))
    layer(x)
    mean = layer.running_mean.numpy().copy()
    np.testing.assert_allclose(mean, 0.5 * x.numpy().mean((0, 2, 3)))
    layer.eval()(x)
    np.testing.assert_array_equal(layer.running_mean.numpy(), mean)
    plain = nn.BatchNorm2d(2, affine=False, track_running_stats=False).eval()
    assert not plain.state_dict()
    np.testing.assert_allclose(plain(x).numpy().mean((0, 2, 3)), 0, atol=1e-6)
    with pytest.raises(
        ValueError,
        match=r"^BatchNorm1d: expected an input of 2 or 3 axes, got shape \(2, 2, 2, 2\)$",
    ):
        nn.BatchNorm1d(2)(x)


def test_groups_must_divide() -> None:
    assert nn.Conv2d(4, 6, (1, 3), groups=2).weight.shape == (6, 2, 1, 3)
    assert nn.ConvTranspose2d(4, 6, 3, groups=2).weight.shape == (4, 3, 3, 3)
    for layer in (nn.Conv2d, nn.ConvTranspose1d):
        message = f"^{layer.__name__}: expected groups that divide 4 and 6 channels, got 3$"
        with pytest.raises(ValueError, match=message):
            layer(4, 6, 3, groups=3)


@pytest.mark.parity
@pytest.mark.parametrize("name", ["Linear", "Conv2d", "ConvTranspose2d"])
def test_default_initial_numbers_are_spread_as_torch_spreads_them(name: str) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    torch.manual_seed(2)
    ag.manual_seed(2)
    arguments = (120, 90) if name == "Linear" else (24, 30, 5)
    mine = dict(getattr(nn, name)(*arguments).named_parameters())
    for key, value in getattr(torch.nn, name)(*arguments).named_parameters():
        ours, theirs = mine[key].numpy(), value.detach().numpy()
        assert ours.shape == theirs.shape
        assert np.abs(ours).max() == pytest.approx(np.abs(theirs).max(), rel=0.15)
        assert ours.std() == pytest.approx(theirs.std(), rel=0.3)


def test_flat_keeps_numbers_and_gathers_gradients() -> None:
    net = Net()
    before = net.state_dict()
    net(ag.ones(2, 2, 2, 2)).sum().backward()
    grads = {name: p.grad.numpy().copy() for name, p in net.named_parameters()}
    flat = nn.flatten([*net.parameters()][::-1])
    total = sum(p.size for p in net.parameters())
    assert flat.data.shape == flat.grad.shape == (total,)
    for (name, p), offset in zip([*net.named_parameters()][::-1], flat.offsets, strict=True):
        part = slice(offset, offset + p.size)
        np.testing.assert_array_equal(p.numpy(), before[name])
        np.testing.assert_array_equal(flat.data.value[part], before[name].ravel())
        np.testing.assert_array_equal(flat.grad.value[part], grads[name].ravel())
    net.zero_grad()
    net.train()(ag.ones(2, 2, 2, 2)).sum().backward()
    for name, p in net.named_parameters():
        assert np.shares_memory(p.grad.numpy(), flat.grad.value)
        np.testing.assert_array_equal(p.grad.numpy(), grads[name])


def test_zero_missing() -> None:
    a, b, c = (nn.Parameter(ag.ones(2)) for _ in range(3))
    flat = nn.flatten([a, b, c])
    flat.grad.value[:] = 9
    b.deliver(ag.ones(2))
    c.grad = ag.full((2,), 5.0)
    with context.using(ledger=ag.Ledger()) as state:
        flat.zero_missing()
    np.testing.assert_array_equal(flat.grad.value, [0, 0, 1, 1, 5, 5])
    assert [(r.key.primitive, r.calls) for r in state.ledger] == [("store", 2)]
    flat.grad.value[:] = 3
    flat.zero_missing()
    assert (flat.grad.value == 3).all()
    nn.flatten([c])
    with pytest.raises(
        RuntimeError, match=r"parameter 2 of shape \(2,\): expected it in this flat"
    ):
        flat.zero_missing()


def test_flatten_refuses() -> None:
    a, b = nn.Parameter(ag.ones(2)), nn.Parameter(ag.ones(2, dtype=np.float64))
    with pytest.raises(ValueError, match="expected at least one parameter, got none"):
        nn.flatten([])
    with pytest.raises(ValueError, match="expected distinct parameters, got one twice"):
        nn.flatten([a, a])
    with pytest.raises(
        ValueError, match="expected parameters of one type, got float32 and float64"
    ):
        nn.flatten([a, b])


def test_gradient_order_is_that_of_the_post_grad_hooks() -> None:
    net = Net()
    unused = nn.Parameter(ag.ones(1))
    parameters = [unused, *net.parameters()]
    x = ag.ones(2, 2, 2, 2)
    fired: list[ag.Tensor] = []
    for p in parameters:
        p.post_grad_hooks.append(fired.append)
    order = nn.gradient_order(lambda: net(x).sum(), parameters)
    assert not fired and order[-1] is unused and len(order) == len(parameters)
    net(x).sum().backward()
    assert [id(p) for p in order[:-1]] == [id(p) for p in fired]


def test_gradient_order_leaves_no_trace() -> None:
    net, x = Net(), ag.ones(2, 2, 2, 2)
    nn.flatten([*net.parameters()])
    net(x).sum().backward()
    numbers = net.state_dict()
    held = [(p.grad, p.slot) for p in net.parameters()]
    ag.manual_seed(4)
    expected = random.numbers_of().random()
    ag.manual_seed(4)

    def run() -> ag.Tensor:
        random.sample_keys(2)
        return net(x).sum()

    with context.using(ledger=ag.Ledger()) as state:
        nn.gradient_order(run, [*net.parameters()])
    assert not state.ledger.calls and not state.ledger.stashed
    assert random.numbers_of().random() == expected
    for p, (grad, slot) in zip(net.parameters(), held, strict=True):
        assert p.grad is grad and p.slot is slot
    for name, value in net.state_dict().items():
        np.testing.assert_array_equal(value, numbers[name])
    with pytest.raises(RuntimeError, match="without a history"):
        nn.gradient_order(lambda: ag.ones(1), [])


def test_only_its_like_replaces_a_parameter_a_buffer_or_a_module() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2, bias=False))
    names = [*net.state_dict()]
    for module, name, value, piece in (
        (net[0], "weight", net[0].weight - 0.1, "Linear.weight: expected a Parameter or None, got"),
        (net[0], "bias", np.ones(2), "got ndarray; to write numbers into it: with no_grad()"),
        (net[0], "bias", nn.Identity(), "expected a Parameter or None, got Identity"),
        (net[2], "bias", ag.ones(2), "Linear.bias: expected a Parameter or None, got Tensor"),
        (net[1], "running_mean", np.ones(2), "running_mean: expected a Tensor or None, got nda"),
        (net, "0", ag.ones(2), "Sequential.0: expected a Module or None, got Tensor"),
    ):
        before = getattr(module, name)
        with pytest.raises(TypeError, match=piece):
            setattr(module, name, value)
        assert getattr(module, name) is before
    net[0].bias, net[2].bias = None, nn.Parameter(ag.ones(2))
    net[1].running_mean = ag.ones(2)
    assert [*net.state_dict()] == [n for n in names if n != "0.bias"] + ["2.bias"]
    with pytest.raises(TypeError, match="expected a Parameter or None"):
        net[0].bias = ag.ones(2)


def test_what_is_deleted_is_gone_and_its_name_free() -> None:
    layer = nn.BatchNorm1d(2)
    del layer.weight, layer.running_mean
    layer.weight = layer.running_mean = ag.ones(2)
    assert [*layer.state_dict()] == ["bias", "running_var"]
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[-1] = nn.Identity()
    assert [*net.state_dict()] == ["0.weight", "0.bias"] and len(net) == 2
    delattr(net, "0")
    assert [*net.parameters()] == []


@pytest.mark.parametrize("kind", ["parameter", "buffer"])
def test_what_cannot_be_registered(kind: str) -> None:
    register = getattr(nn.Module(), f"register_{kind}")
    with pytest.raises(TypeError, match=r"x: expected a \w+ or None, got ndarray"):
        register("x", np.ones(2))
    for name in ("", "a.b"):
        with pytest.raises(ValueError, match=f"register_{kind}: expected a name without dots"):
            register(name, None)


def test_a_parameter_under_two_names_is_one() -> None:
    net = nn.Module()
    net.a = net.b = nn.Parameter(ag.ones(2))
    assert len([*net.parameters()]) == 1 and [*net.state_dict()] == ["a", "b"]
    net.load_state_dict({"a": np.full(2, 3.0), "b": np.full(2, 3.0)})
    assert net.b.tolist() == [3, 3]
    del net.a
    assert [*net.state_dict()] == ["b"]


def test_a_buffer_registers_itself() -> None:
    model = nn.Module()
    model.mean, model.seen = nn.Buffer(ag.ones(2)), nn.Buffer(ag.zeros(1), persistent=False)
    assert [name for name, _ in model.named_buffers()] == ["mean", "seen"]
    assert [*model.state_dict()] == ["mean"] == [*deepcopy(model).state_dict()]
    assert [*model.parameters()] == []
