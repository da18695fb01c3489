"""The networks of the survey's table: their work to the integer, the same in torch, at work."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import context, models, nn
from tallygrad.autograd.functional.loss import cross_entropy
from tallygrad.autograd.optim import SGD

Options = dict[str, Any]
OWN = {"lenet": (1, 28, 28), "lenet5": (1, 28, 28), "alexnet": (3, 227, 227),
       "overfeat": (3, 231, 231)}  # fmt: skip
FLOOR, EARLY, SMALL = {"ceil": False}, {"stride_in": "1x1"}, (3, 32, 32)


def create(name: str, **options: Any) -> nn.Module:
    with context.using(backend="meta"):
        return models.create(name, **options)


def own_shape(name: str) -> tuple[int, ...]:
    return SMALL if name == "resnet1001" else OWN.get(name, (3, 224, 224))


def forward_macs(model: nn.Module, shape: tuple[int, ...]) -> dict[str, int]:
    """Return the MACs of one image by module."""
    with context.using(backend="meta", ledger=ag.Ledger(), tape=None) as state:
        model.eval()(ag.zeros(1, *shape))
    return {where: cost.macs for where, cost in state.ledger.by("scope").items() if cost.macs}


def layers(model: nn.Module, kind: type[nn.Conv2d] | type[nn.Linear]) -> dict[str, Any]:
    found = {name: m for name, m in model.named_modules() if isinstance(m, kind)}
    return {name: m for name, m in found.items() if "aux" not in name}


# Convolutions, their weights and MACs, weights of linear layers, which are their MACs, too.
TABLE: list[tuple[str, Options, int, int, int, int]] = [
    ("lenet", {}, 2, 25_500, 1_888_000, 405_000),
    ("lenet5", {}, 3, 50_550, 405_600, 10_920),
    ("alexnet", {}, 5, 2_332_704, 665_784_864, 58_621_952),
    ("overfeat", {}, 5, 15_984_672, 2_671_478_784, 129_925_120),
    ("vgg16", {}, 13, 14_710_464, 15_346_630_656, 123_633_664),
    ("vgg16", {"batch_norm": True}, 13, 14_710_464, 15_346_630_656, 123_633_664),
    ("googlenet", FLOOR, 57, 5_966_272, 1_430_532_352, 1_024_000),
    ("googlenet", {}, 57, 5_966_272, 1_581_647_872, 1_024_000),
    ("googlenet", {"aux": True}, 57, 5_966_272, 1_581_647_872, 1_024_000),
    ("resnet50", EARLY, 53, 23_454_912, 3_855_925_248, 2_048_000),
    ("resnet50", {}, 53, 23_454_912, 4_087_136_256, 2_048_000),
]


@pytest.mark.parametrize(("name", "options", "count", "weights", "macs", "linear"), TABLE, ids=str)
def test_work_is_the_surveys(
    name: str, options: Options, count: int, weights: int, macs: int, linear: int
) -> None:
    model = create(name, **options)
    found = forward_macs(model, own_shape(name))
    conv, full = layers(model, nn.Conv2d), layers(model, nn.Linear)
    assert found.keys() == conv.keys() | full.keys()
    assert len(conv) == count
    assert sum(m.weight.size for m in conv.values()) == weights
    assert sum(found[name] for name in conv) == macs
    assert sum(m.weight.size for m in full.values()) == sum(found[k] for k in full) == linear
    assert sum(found.values()) == macs + linear


def test_lenet5_adds_up_to_the_papers_numbers() -> None:
    (row,) = [row for row in TABLE if row[0] == "lenet5"]
    assert row[3] + row[5] == 61_470 and row[4] + row[5] == 416_520


# Channels of a group, filters, window, stride, padding, extent of the result, weights, MACs.
ALEXNET = {
    "conv1": (3, 96, 11, 4, 0, 55, 34_848, 105_415_200),
    "conv2": (48, 256, 5, 1, 2, 27, 307_200, 223_948_800),
    "conv3": (256, 384, 3, 1, 1, 13, 884_736, 149_520_384),
    "conv4": (192, 384, 3, 1, 1, 13, 663_552, 112_140_288),
    "conv5": (192, 256, 3, 1, 1, 13, 442_368, 74_760_192),
}


def test_alexnet_layer_by_layer() -> None:
    model = create("alexnet")
    found, conv = forward_macs(model, (3, 227, 227)), layers(model, nn.Conv2d)
    assert [*conv] == [*ALEXNET]
    for name, (inside, filters, window, stride, padding, extent, weights, macs) in ALEXNET.items():
        m = conv[name]
        assert m.weight.shape == (filters, inside, window, window) and m.weight.size == weights
        assert (m.stride, m.padding) == ((stride, stride), (padding, padding))
        assert found[name] == macs == weights * extent * extent
    fc = {name: m.weight.size for name, m in layers(model, nn.Linear).items()}
    assert fc == {"fc6": 37_748_736, "fc7": 16_777_216, "fc8": 4_096_000}
    assert {name: found[name] for name in fc} == fc
    norms = [m for m in model.modules() if isinstance(m, nn.LocalResponseNorm)]
    assert [(m.size, m.alpha / m.size, m.beta, m.k) for m in norms] == [(5, 1e-4, 0.75, 2.0)] * 2
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.5, 0.5]
    whole = forward_macs(create("alexnet", groups=1), (3, 227, 227))
    split = {"conv2", "conv4", "conv5"}
    assert whole == {k: n * (2 if k in split else 1) for k, n in found.items()}


@pytest.mark.parametrize(
    ("name", "forward", "training", "ratio"),
    [
        ("alexnet", 724_406_816, 2_067_805_248, 2.8545),
        ("vgg16", 15_470_264_320, 46_324_088_832, 2.9944),
        ("resnet50", 4_089_184_256, 12_149_538_816, 2.9711),
    ],
)
def test_training_costs_less_than_three_times_inference(
    name: str, forward: int, training: int, ratio: float
) -> None:
    with context.using(backend="meta", ledger=ag.Ledger()) as state:
        model = models.create(name)
        cross_entropy(model(ag.zeros(1, *own_shape(name))), ag.zeros(1, dtype=np.int64)).backward()
    macs = {phase: cost.macs for phase, cost in state.ledger.by("phase").items()}
    assert macs["forward"] == macs["backward_weights"] == forward
    first = forward_macs(model, own_shape(name))["conv1_1" if name == "vgg16" else "conv1"]
    assert macs["backward_data"] == forward - first
    assert sum(macs.values()) == training and round(training / forward, 4) == ratio


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("alexnet", 60_965_224), ("vgg11", 132_863_336), ("vgg13", 133_047_848),
     ("vgg16", 138_357_544), ("vgg19", 143_667_240), ("googlenet", 6_998_552),
     ("resnet18", 11_689_512), ("resnet34", 21_797_672), ("resnet50", 25_557_032),
     ("resnet101", 44_549_160), ("resnet152", 60_192_808), ("resnet1001", 10_327_706)],
)  # fmt: skip
def test_number_of_parameters(name: str, parameters: int) -> None:
    model = create(name)
    assert sum(p.size for p in model.parameters()) == parameters
    counted = [*layers(model, nn.Conv2d), *layers(model, nn.Linear)]
    named = name.lstrip("vgresnt")
    if named.isdigit():  # shortcuts do not count
        assert len([path for path in counted if "shortcut" not in path]) == int(named)


def test_preactivation_changes_nothing_but_the_order() -> None:
    pre, post = create("resnet1001"), create("resnet1001", preactivation=False)
    shapes = [sorted(m.weight.shape for m in layers(x, nn.Conv2d).values()) for x in (pre, post)]
    assert shapes[0] == shapes[1] and len(shapes[0]) == 1003
    assert forward_macs(pre, SMALL) == {
        k.replace("shortcut.0", "shortcut"): n for k, n in forward_macs(post, SMALL).items()
    }


N: Options = {"hidden": (64, 64)}
TRAINED: list[tuple[str, int, Options]] = [  # name, extent of images, options
    ("alexnet", 67, N),
    ("alexnet", 67, {**N, "groups": 1}),
    ("overfeat", 71, N),
    ("vgg11", 32, N),
    ("vgg16", 32, {**N, "batch_norm": True}),
    ("vgg19", 32, N),
    ("googlenet", 31, {}),
    ("googlenet", 93, {"aux": True, **FLOOR}),
    ("resnet18", 16, {"width": 8}),
    ("resnet34", 64, {"width": 4}),
    ("resnet50", 64, {"width": 4}),
    ("resnet101", 16, {"width": 4, **EARLY}),
    ("resnet152", 16, {"width": 4}),
    ("resnet", 8, {"depth": 20, "preactivation": True, "width": 8}),
    ("resnet1001", 8, {"width": 2}),
]
FALL = 0.03  # of the loss in each step, as its gradient foretells


def train(
    name: str, extent: int, options: Options, backend: str, steps: int = 3
) -> tuple[list[float], ag.Ledger, nn.Module]:
    """Train on four images of four classes, with steps so short that the gradient foretells what
    they do, however deep the network; return the losses, the ledger and the model."""
    ag.manual_seed(0)
    images = np.random.default_rng(0).standard_normal((4, 3, extent, extent)).astype(np.float32)
    with context.using(backend=backend, ledger=ag.Ledger()) as state:
        model = models.create(name, input_shape=(3, extent, extent), classes=4, **options)
        for m in model.modules():
            if isinstance(m, nn.Dropout):
                m.p = 0.0
        rates, losses = [0.0], []
        optimizer = SGD([*model.parameters()], lambda step: rates[-1])
        for _ in range(steps):
            optimizer.zero_grad()
            given = model(ag.tensor(images))
            last, *others = given if isinstance(given, tuple) else (given,)
            loss = cross_entropy(last, ag.tensor(np.arange(4)))
            for logits in others:
                loss = loss + 0.3 * cross_entropy(logits, ag.tensor(np.arange(4)))
            loss.backward()
            if backend != "meta":
                losses.append(loss.item())
                gradients = [p.grad.numpy().astype(np.float64) for p in model.parameters()]
                rates.append(FALL / sum(float((g * g).sum()) for g in gradients))
            optimizer.step()
    return losses, state.ledger, model


@pytest.mark.parametrize(("name", "extent", "options"), TRAINED, ids=lambda v: str(v)[:60])
def test_training_lowers_the_loss(name: str, extent: int, options: Options) -> None:
    losses, ledger, model = train(name, extent, options, "numpy")
    falls = -np.diff(losses) / FALL
    assert np.isfinite(losses).all() and (falls > 0.4).all() and (falls < 1.5).all(), losses
    used = [p.grad.numpy().any() for p in model.parameters()]
    assert np.mean(used) > 0.99, used
    assert ledger == train(name, extent, options, "meta")[1]
    paths = {path for path, _ in model.named_modules()}
    assert {row.key.scope for row in ledger} - {"optimizer"} <= paths


# In a thousand layers roundings grow.
@pytest.mark.slow
@pytest.mark.parametrize(("case", "rtol"), [(TRAINED[0], 1e-5), (TRAINED[-1], 1e-2)])
def test_kernels_give_the_same_losses(case: tuple[str, int, Options], rtol: float) -> None:
    pytest.importorskip("llvmlite", reason="llvmlite is not installed")
    plain, fast = (train(*case, backend) for backend in ("numpy", "llvm"))
    np.testing.assert_allclose(fast[0], plain[0], rtol)
    assert fast[1] == plain[1]


def test_every_name_is_known() -> None:
    resnets = (18, 20, 32, 34, 44, 50, 56, 101, 110, 152, 1001)
    families = {"vgg": (11, 13, 16, 19), "resnet": resnets}
    others = {"mlp", "lenet", "lenet5", "lstm", "airbench", "alexnet", "overfeat", "googlenet"}
    others |= {"autoencoder", "denoising", "vae"}
    members = {f"{name}{depth}" for name, depths in families.items() for depth in depths}
    assert set(models.names()) == others | members


def test_a_name_alone_gives_the_papers_network() -> None:
    for name in models.names():
        model = create(name)
        shape, classes = (3, 224, 224), 1000
        if name in ("mlp", "lenet", "lenet5", "lstm", "autoencoder", "denoising", "vae"):
            shape, classes = (1, 28, 28), 10
        elif name in OWN:
            shape = OWN[name]
        elif name == "airbench" or (name.startswith("resnet") and hasattr(model, "preactivated")):
            shape, classes = SMALL, 10
        with context.using(backend="meta", tape=None):
            output = model.eval()(ag.zeros(2, *shape))
        assert output.shape == ((2, classes) if models.classes(name) else (2, *shape))


def test_resnet50_by_name_is_imagenets_and_by_depth_the_small_one() -> None:
    named, small = create("resnet50"), create("resnet", depth=50)
    assert type(named).__name__ == "ImageNetResNet" and type(small).__name__ == "ResNet"
    assert len(small.stage1) == 8 and len(named.stage3) == 6
    assert create("resnet20").stage1[0].conv1.weight.shape == (16, 16, 3, 3)


@pytest.mark.parametrize(
    ("extent", "stem", "window", "after"),
    [(224, None, 7, 56), (64, None, 7, 16), (63, None, 3, 63), (63, "7x7", 7, 16),
     (224, "3x3", 3, 224)],
)  # fmt: skip
def test_the_stem_suits_the_images(extent: int, stem: str | None, window: int, after: int) -> None:
    shape = (3, extent, extent)
    model = create("resnet18", input_shape=shape, **({"stem": stem} if stem else {}))
    assert model.conv1.kernel_size == (window, window)
    assert forward_macs(model, shape)["stage1.0.conv1"] == 64 * 64 * 9 * after * after


@pytest.mark.parametrize(("options", "extents"), [({}, [56, 28, 14, 7]), (FLOOR, [55, 27, 13, 6])])
def test_googlenet_rounds_extents(options: Options, extents: list[int]) -> None:
    found = forward_macs(create("googlenet", **options), (3, 224, 224))
    weights = {"reduce2": 64 * 64, "inception3a.conv1": 192 * 64, "inception4a.conv1": 480 * 192,
               "inception5a.conv1": 832 * 256}  # fmt: skip
    for (where, size), extent in zip(weights.items(), extents, strict=True):
        assert found[where] == size * extent * extent


def test_auxiliary_classifiers_speak_in_training_alone() -> None:
    model = create("googlenet", classes=7, aux=True)
    with context.using(backend="meta"):
        assert [y.shape for y in model(ag.zeros(2, 3, 224, 224))] == [(2, 7)] * 3
        assert model.eval()(ag.zeros(2, 3, 224, 224)).shape == (2, 7)
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.4, 0.7, 0.7]
    assert model.aux1.fc1.weight.shape == (1024, 2048)
    assert model.aux2.conv.weight.shape == (128, 528, 1, 1)


@pytest.mark.parametrize(
    ("name", "options", "least"),
    [("alexnet", {}, 67), ("overfeat", {}, 71), ("vgg11", {}, 32), ("vgg19", {}, 32),
     ("googlenet", {}, 31), ("googlenet", FLOOR, 61), ("googlenet", {"aux": True}, 79),
     ("googlenet", {"aux": True, **FLOOR}, 93)],
)  # fmt: skip
def test_the_smallest_images(
    name: str, options: Options, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(height: int, width: int) -> tuple[int, ...]:
        with context.using(backend="meta"):
            model = models.create(name, input_shape=(1, height, width), classes=3, **options)
            given = model(ag.zeros(1, 1, height, width))
        return (given[1] if isinstance(given, tuple) else given).shape

    assert work(least, least + 9) == work(least + 9, least) == (1, 3)
    message = (
        rf"^{name}: expected images of at least {least} x {least}, .* got {least} x {least - 1}"
    )
    with pytest.raises(ValueError, match=message):
        work(least, least - 1)
    for module in ("alexnet", "vgg", "googlenet"):  # and smaller ones would not do
        monkeypatch.setattr(getattr(models, module), "check_extent", lambda *_: None)
    with pytest.raises(ValueError, match=r"^(max|avg)_pool2d: .* least \((\d), \2\) for kernel"):
        work(least, least - 1)


@pytest.mark.parametrize(
    ("name", "options", "piece"),
    [
        ("alexnet", {"groups": 3}, "^alexnet: expected 1 or 2 groups, got 3"),
        ("vgg77", {}, "unknown depth of vgg '77'; choose from 11, 13, 16, 19"),
        ("vgg", {"depth": 17}, "unknown depth of vgg '17'; choose from 11, 13, 16, 19"),
        (
            "vgg16",
            {"batchnorm": True},
            "unknown option of model vgg16 'batchnorm'; did you mean 'batch_norm'",
        ),
        (
            "resnet50",
            {"stride_in": "5x5"},
            "unknown stride_in of resnet50 '5x5'; choose from 1x1, 3x3",
        ),
        ("resnet18", {"stride_in": "1x1"}, "resnet18: basic blocks have no 1x1; leave stride_in"),
        ("resnet50", {"stem": "5x5"}, "unknown stem of resnet50 '5x5'; choose from 3x3, 7x7"),
        ("resnet50", {"block": "basic"}, "unknown option of model resnet50 'block'"),
        (
            "resnet1001",
            {"stride_in": "2x2"},
            "unknown stride_in of resnet '2x2'; choose from 1x1, 3x3",
        ),
        ("resnet", {"depth": 18}, r"expected depth 6n \+ 2 with basic blocks, such as 20, got 18"),
        ("googlenet", {"depth": 22}, "unknown option of model googlenet 'depth'"),
    ],
)
def test_create_refuses(name: str, options: Options, piece: str) -> None:
    with pytest.raises(ValueError, match=piece):
        create(name, **options)
