"""The networks of the survey's table beside torch: its counter's numbers, and its results."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import context, models, nn

Options = dict[str, Any]
EXTENTS = {"alexnet": 227, "overfeat": 231, "resnet": 32}
FLOOR, EARLY = {"ceil": False}, {"stride_in": "1x1"}
N: Options = {"hidden": (64, 64), "dropout": 0.0}
pytestmark = pytest.mark.parity


def on_shapes(name: str, options: Options) -> tuple[nn.Module, int, dict[str, int]]:
    """Return a model on shapes alone, the extent of its images and the MACs of one by module."""
    extent = EXTENTS.get(name, 224)
    with context.using(backend="meta", ledger=ag.Ledger(), tape=None) as state:
        model = models.create(name, **options)
        model(ag.zeros(1, 3, extent, extent))
    macs = {where: cost.macs for where, cost in state.ledger.by("scope").items() if cost.macs}
    return model, extent, macs


def twin(torch: Any, module: nn.Module) -> Any:
    """Return the same network in torch: its leaves are torch's, what stands between them is written
    out below."""
    t, relu = torch.nn, torch.relu

    def pooled(m: Any, x: Any) -> Any:
        return m.fc(m.pool(x).flatten(1))

    def inception(m: Any, x: Any) -> Any:
        three, five = m.conv3(relu(m.reduce3(x))), m.conv5(relu(m.reduce5(x)))
        return torch.cat([relu(y) for y in (m.conv1(x), three, five, m.project(m.pool(x)))], 1)

    def googlenet(m: Any, x: Any) -> Any:
        x = m.norm1(m.pool1(relu(m.conv1(x))))
        x = m.pool2(m.norm2(relu(m.conv2(relu(m.reduce2(x))))))
        for name in ("3a", "3b", "pool3", "4a", "4b", "4c", "4d", "4e", "pool4", "5a", "5b"):
            x = getattr(m, name if "pool" in name else f"inception{name}")(x)
        return pooled(m, x)

    def basic(m: Any, x: Any) -> Any:
        return relu(m.bn2(m.conv2(relu(m.bn1(m.conv1(x))))) + m.shortcut(x))

    def bottleneck(m: Any, x: Any) -> Any:
        y = relu(m.bn2(m.conv2(relu(m.bn1(m.conv1(x))))))
        return relu(m.bn3(m.conv3(y)) + m.shortcut(x))

    def preactivated(m: Any, x: Any) -> Any:
        ready = relu(m.bn1(x))
        y = m.conv2(relu(m.bn2(m.conv1(ready))))
        y = m.conv3(relu(m.bn3(y))) if hasattr(m, "conv3") else y
        plain = isinstance(m.shortcut, t.Identity) and not m.shared
        return y + (x if plain else m.shortcut(ready))

    def imagenet(m: Any, x: Any) -> Any:
        x = m.maxpool(relu(m.bn1(m.conv1(x))))
        return pooled(m, m.stage4(m.stage3(m.stage2(m.stage1(x)))))

    def preactivated_net(m: Any, x: Any) -> Any:
        return pooled(m, relu(m.bn1(m.stage3(m.stage2(m.stage1(m.conv1(x)))))))

    leaves: dict[str, Any] = {
        "Conv2d": lambda m: t.Conv2d(
            m.in_channels, m.out_channels, m.kernel_size, m.stride, m.padding, groups=m.groups,
            bias=m.bias is not None,
        ),
        "Linear": lambda m: t.Linear(m.in_features, m.out_features),
        "BatchNorm2d": lambda m: t.BatchNorm2d(m.num_features),
        "LocalResponseNorm": lambda m: t.LocalResponseNorm(m.size, m.alpha, m.beta, m.k),
        "MaxPool2d": lambda m: t.MaxPool2d(
            m.kernel_size, m.stride, m.padding, ceil_mode=m.ceil_mode
        ),
        "AdaptiveAvgPool2d": lambda m: t.AdaptiveAvgPool2d(m.output_size),
        "ReLU": lambda m: t.ReLU(),
        "Flatten": lambda m: t.Flatten(),
        "Identity": lambda m: t.Identity(),
        "Dropout": lambda m: t.Dropout(m.p),
    }  # fmt: skip
    forwards = {
        "Inception": inception, "GoogLeNet": googlenet, "BasicBlock": basic,
        "Bottleneck": bottleneck, "PreactivatedBasicBlock": preactivated,
        "PreactivatedBottleneck": preactivated, "ImageNetResNet": imagenet,
        "ResNet": preactivated_net,
    }  # fmt: skip

    class Composite(t.Module):  # type: ignore[misc]
        def __init__(self, kind: str) -> None:
            super().__init__()
            self.kind = kind

        def forward(self, x: Any) -> Any:
            return forwards[self.kind](self, x)

    def convert(m: nn.Module) -> Any:
        kind = type(m).__name__
        if kind in leaves:
            return leaves[kind](m)
        made = t.Sequential() if kind == "Sequential" else Composite(kind)
        for name, child in m.named_children():
            made.add_module(name, convert(child))
        made.shared = getattr(m, "shared", False)
        return made

    return convert(module)


COMPARED: list[tuple[str, Options]] = [
    ("alexnet", {"groups": 1}), ("overfeat", {}), ("vgg11", {}), ("vgg16", {}), ("vgg19", {}),
    ("vgg16", {"batch_norm": True}), ("googlenet", {}), ("googlenet", FLOOR), ("resnet18", {}),
    ("resnet34", {}), ("resnet50", {}), ("resnet50", EARLY), ("resnet101", {}), ("resnet152", {}),
    ("resnet", {"depth": 29, "block": "bottleneck", "preactivation": True, "option": "B"}),
]  # fmt: skip


def flops(torch: Any, model: nn.Module, extent: int) -> tuple[int, int]:
    """Return what torch's counter says of the forward and the backward pass of one image."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        theirs, x = twin(torch, model), torch.zeros(1, 3, extent, extent)
    with FlopCounterMode(display=False) as ahead:
        y = theirs(x).sum()
    with FlopCounterMode(display=False) as back:
        y.backward()
    return ahead.get_total_flops(), back.get_total_flops()


@pytest.mark.parametrize(("name", "options"), COMPARED, ids=str)
def test_torch_counts_the_same(name: str, options: Options) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    model, extent, macs = on_shapes(name, options)
    ahead, back = flops(torch, model, extent)
    assert ahead == 2 * sum(macs.values())
    assert back == 2 * (2 * sum(macs.values()) - next(iter(macs.values())))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(("name", "options"), [*COMPARED, ("alexnet", {})], ids=str)
def test_fvcore_counts_the_same(name: str, options: Options) -> None:
    """Its flops are MACs where there are filters, and operations elsewhere."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    fvcore = pytest.importorskip("fvcore.nn", reason="fvcore is not installed")
    model, extent, macs = on_shapes(name, options)
    with torch.device("meta"):
        theirs = twin(torch, model).eval()
    theirs = theirs.to_empty(device="cpu")  # which it has to run on
    counted = fvcore.FlopCountAnalysis(theirs, torch.zeros(1, 3, extent, extent))
    counted.unsupported_ops_warnings(False).tracer_warnings("none")
    by_operator = counted.by_operator()
    assert by_operator["conv"] + by_operator["linear"] == sum(macs.values())
    by_module = counted.by_module()
    assert {where: by_module[where] for where in macs} == macs


def test_torch_counts_too_much_where_there_are_groups() -> None:
    # Its counter multiplies the gradient of grouped weights by the number of groups: a group's
    # filters see a share of the channels there, too, so that it is the forward's work again.
    torch = pytest.importorskip("torch", reason="torch is not installed")
    model, extent, macs = on_shapes("alexnet", {})
    ahead, back = flops(torch, model, extent)
    truth = 2 * sum(macs.values()) - macs["conv1"]
    grouped = macs["conv2"] + macs["conv4"] + macs["conv5"]
    assert ahead == 2 * sum(macs.values())
    assert back == 2 * (truth + grouped)
    assert round(back / ahead, 2) == 2.42 and round(2 * truth / ahead, 4) == 1.8545


@pytest.mark.parametrize(
    ("name", "options", "extent"),
    [
        ("alexnet", N, 67),
        ("vgg11", {**N, "batch_norm": True}, 32),
        ("googlenet", {}, 32),
        ("googlenet", FLOOR, 61),
        ("resnet18", {"width": 4}, 16),
        ("resnet50", {"width": 4, "stem": "7x7", **EARLY}, 33),
        ("resnet", {"depth": 14, "preactivation": True, "width": 4, "option": "B"}, 8),
        ("resnet", {"depth": 20, "preactivation": True, "width": 4, "option": "B",
                    "block": "bottleneck"}, 8),
    ],
    ids=str,
)  # fmt: skip
def test_torch_gives_the_same_numbers(name: str, options: Options, extent: int) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    ag.manual_seed(2)
    ours = models.create(name, input_shape=(3, extent, extent), classes=4, **options).double()
    theirs = twin(torch, ours).double()
    state = {k: torch.tensor(v) for k, v in ours.state_dict().items()}
    assert not theirs.load_state_dict(state, strict=False).unexpected_keys
    if not any("bn" in key for key in state):
        ours, theirs = ours.eval(), theirs.eval()  # dropout draws other numbers
    x = np.random.default_rng(1).standard_normal((3, 3, extent, extent))
    y, z = ours(ag.tensor(x)), theirs(torch.tensor(x))
    np.testing.assert_allclose(y.numpy(), z.detach().numpy(), rtol=1e-7, atol=1e-9)
    (y * y).sum().backward()
    (z * z).sum().backward()
    gradients = {k: p.grad.numpy() for k, p in theirs.named_parameters()}
    for key, p in ours.named_parameters():
        np.testing.assert_allclose(p.grad.numpy(), gradients[key], 1e-5, 1e-7, err_msg=key)
