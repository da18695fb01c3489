"""Models: their sizes, their work, the same on shapes as on numbers, the same as in torch."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import context, models, nn
from tallygrad.autograd.functional.loss import cross_entropy
from tallygrad.autograd.models import resnet
from tallygrad.autograd.optim import SGD

Options = dict[str, Any]
DIGITS: Options = {"input_shape": (1, 28, 28)}
IMAGES: Options = {"input_shape": (3, 16, 16), "classes": 7}
CASES: list[tuple[str, Options]] = [
    ("mlp", DIGITS),
    ("mlp", {**IMAGES, "hidden": ()}),
    ("lenet", DIGITS),
    ("lenet", IMAGES),
    ("lenet5", DIGITS),
    ("resnet20", IMAGES),
    ("resnet", {**IMAGES, "depth": 8, "option": "B", "width": 4}),
    ("resnet", {**IMAGES, "depth": 11, "block": "bottleneck", "width": 4}),
    ("lstm", DIGITS),
    ("lstm", {**IMAGES, "hidden": 8, "layers": 2}),
]
each_case = pytest.mark.parametrize(("name", "options"), CASES, ids=lambda v: str(v)[:60])


def batch(shape: tuple[int, ...], classes: int, size: int = 2) -> tuple[ag.Tensor, ag.Tensor]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((size, *shape)).astype(np.float32)
    return ag.tensor(x), ag.tensor(rng.integers(0, classes, size))


def work(
    name: str, options: Options, backend: str, settings: Options
) -> tuple[ag.Ledger, ag.Ledger, nn.Module]:
    """Build, train two steps and evaluate; return the ledger of each and the model."""
    ag.manual_seed(3)
    with context.using(backend=backend):
        model = models.create(name, **options)
        x, labels = batch(options["input_shape"], options.get("classes", 10))

        def loss() -> ag.Tensor:
            return cross_entropy(model(x), labels)

        order = nn.gradient_order(loss, [*model.parameters()])
        optimizer = SGD(order, 0.01, **settings)
        with context.using(ledger=ag.Ledger()) as training:
            for _ in range(2):
                optimizer.zero_grad()
                loss().backward()
                optimizer.step()
        model.eval()
        with context.using(ledger=ag.Ledger(), phase="evaluate", tape=None) as evaluation:
            assert loss().shape == ()
    return training.ledger, evaluation.ledger, model


# Every model for small images under its own name, at their size; test_zoo.py has the others.
RESNETS = [f"resnet{depth}" for depth in (20, 32, 44, 56, 110)]
NATIVE = [(name, DIGITS) for name in ("mlp", "lenet", "lenet5", "lstm")]
NATIVE += [(name, {"input_shape": (3, 32, 32)}) for name in (*RESNETS, "airbench")]


@pytest.mark.parametrize(("name", "options"), [*NATIVE, *CASES], ids=lambda v: str(v)[:60])
def test_shapes_alone_give_the_same_ledger(name: str, options: Options) -> None:
    settings: Options = {"momentum": 0.9, "weight_decay": 1e-4, "nesterov": True}
    real = work(name, options, "numpy", settings)
    meta = work(name, options, "meta", settings)
    assert real[0] == meta[0] and real[1] == meta[1]
    assert real[0].stashed.total() == meta[0].stashed.total() > 0
    assert {row.key.phase for row in real[0]} == {
        "forward", "backward_data", "backward_weights", "update",
    }  # fmt: skip
    assert {row.key.phase for row in real[1]} == {"evaluate"}
    assert not real[1].stashed
    assert all(p.array._value is None for p in meta[2].parameters())
    assert all(np.isfinite(p.numpy()).all() for p in real[2].parameters())


@each_case
def test_every_scope_is_the_name_of_a_module(name: str, options: Options) -> None:
    ledger, _, model = work(name, options, "meta", {})
    names = {path for path, _ in model.named_modules()}
    assert {row.key.scope for row in ledger} - {"optimizer"} <= names


@each_case
def test_every_parameter_gets_a_gradient(name: str, options: Options) -> None:
    model = models.create(name, **options)
    x, labels = batch(options["input_shape"], options.get("classes", 10))
    cross_entropy(model(x), labels).backward()
    for path, p in model.named_parameters():
        assert p.grad is not None and p.grad.shape == p.shape, path


def macs(model: nn.Module, shape: tuple[int, ...]) -> dict[str, int]:
    """Return MACs of one sample by module."""
    with context.using(backend="meta", ledger=ag.Ledger(), tape=None) as state:
        model.eval()(ag.zeros(1, *shape))
    return {where: cost.macs for where, cost in state.ledger.by("scope").items() if cost.macs}


def test_lenet_is_caffes() -> None:
    with context.using(backend="meta"):
        model = models.create("lenet")
    found = macs(model, (1, 28, 28))
    assert found == {"conv1": 288_000, "conv2": 1_600_000, "fc1": 400_000, "fc2": 5_000}
    assert found["conv1"] + found["conv2"] == 1_888_000 and sum(found.values()) == 2_293_000
    assert sum(p.size for p in model.parameters()) == 431_080


@pytest.mark.parametrize("extent", [28, 32])
def test_lenet5_is_the_papers(extent: int) -> None:
    with context.using(backend="meta"):
        model = models.create("lenet5", input_shape=(1, extent, extent))
    assert sum(macs(model, (1, extent, extent)).values()) == 416_520
    sizes = {name: p.size for name, p in model.named_parameters()}
    assert sum(n for name, n in sizes.items() if name.endswith("weight")) == 61_470
    assert sizes["c3.weight"] == 2400


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("resnet20", 269_722), ("resnet32", 464_154), ("resnet44", 658_586), ("resnet56", 853_018),
     ("resnet110", 1_727_962)],
)  # fmt: skip
def test_residual_networks_are_the_papers(name: str, parameters: int) -> None:
    with context.using(backend="meta"):
        model = models.create(name, input_shape=(3, 32, 32))
    assert sum(p.size for p in model.parameters()) == parameters
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == int(name[6:])


def test_resnet20_takes_the_work_that_its_stages_say() -> None:
    with context.using(backend="meta"):
        model = models.create("resnet20", input_shape=(3, 32, 32))
    found = macs(model, (3, 32, 32))
    assert found["conv1"] == 3 * 16 * 9 * 1024
    assert found["stage2.0.conv1"] == 16 * 32 * 9 * 256
    assert found["stage3.2.conv2"] == 64 * 64 * 9 * 64
    assert sum(found.values()) == 40_551_040


def test_shortcut_without_weights_takes_every_second_pixel_and_pads_both_sides() -> None:
    x = np.arange(2 * 2 * 4 * 4, dtype=np.float32).reshape(2, 2, 4, 4)
    y = resnet.Subsample(5, 2)(ag.tensor(x)).numpy()
    assert y.shape == (2, 5, 2, 2)
    np.testing.assert_array_equal(y[:, 1:3], x[:, :, ::2, ::2])
    assert not y[:, 0].any() and not y[:, 3:].any()


def test_lstm_reads_rows_from_the_top() -> None:
    model = models.create("lstm", input_shape=(2, 3, 4), classes=5, hidden=6)
    x = np.random.default_rng(1).standard_normal((2, 2, 3, 4)).astype(np.float32)
    assert model.lstm.weight_ih_l0.shape == (24, 8)
    cell = nn.LSTMCell(8, 6)
    cell.load_state_dict({k[5:-3]: v for k, v in model.state_dict().items() if "lstm" in k})
    state = None
    for row in range(3):
        state = cell(ag.tensor(x[:, :, row].reshape(2, 8)), state)
    expected = model.fc(state[0]).numpy()
    np.testing.assert_allclose(model(ag.tensor(x)).numpy(), expected, rtol=1e-5, atol=1e-6)
    deep = models.create("lstm", input_shape=(2, 3, 4), layers=2)
    outputs, _ = deep.lstm(ag.tensor(x).permute(2, 0, 1, 3).flatten(2))
    np.testing.assert_array_equal(deep(ag.tensor(x)).numpy(), deep.fc(outputs[-1]).numpy())


def test_mlp_is_a_product_between_rectifiers() -> None:
    model = models.create("mlp", input_shape=(1, 2, 3), classes=4, hidden=(5, 6))
    x, _ = batch((1, 2, 3), 4, 8)
    y = x.numpy().reshape(8, 6)
    state = [*model.state_dict().values()]
    for i in 0, 2, 4:
        y = (np.maximum(y, 0) if i else y) @ state[i].T + state[i + 1]
    assert (y < 0).any()
    np.testing.assert_allclose(model(x).numpy(), y, rtol=1e-5, atol=1e-6)


def test_thousand_and_one_layers_train() -> None:
    begun = time.perf_counter()
    model = models.create("resnet", input_shape=(3, 8, 8), depth=1001, block="bottleneck", width=4)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == 1001
    x, labels = batch((3, 8, 8), 10)
    order = nn.gradient_order(lambda: cross_entropy(model(x), labels), [*model.parameters()])
    optimizer = SGD(order)
    before = [p.numpy().copy() for p in optimizer.parameters]
    cross_entropy(model(x), labels).backward()
    optimizer.step()
    pairs = zip(optimizer.parameters, before, strict=True)
    assert np.mean([(p.numpy() != b).any() for p, b in pairs]) > 0.99
    assert time.perf_counter() - begun < 60


def test_built_on_shapes_at_once() -> None:
    begun = time.perf_counter()
    with context.using(backend="meta"):
        model = models.create("mlp", input_shape=(3, 10_000, 10_000), hidden=(100_000, 100_000))
    assert sum(p.size for p in model.parameters()) > 3e13
    assert time.perf_counter() - begun < 1


@pytest.mark.parametrize(
    ("name", "options", "piece"),
    [
        ("lenett", {}, "unknown model 'lenett'; did you mean 'lenet'"),
        ("vggg16", {}, "unknown model 'vggg16'; did you mean 'vgg16'"),
        ("lenet20", {}, "unknown model 'lenet20'; did you mean 'lenet'"),
        ("mlp", {"hiden": 3}, "unknown option of model mlp 'hiden'; did you mean 'hidden'"),
        ("lenet", {"depth": 3}, "unknown option of model lenet 'depth'; there are none"),
        (
            "lenet",
            {"input_shape": (1, 8, 28)},
            "^lenet: expected images of at least 16 x 16, got 8 x 28",
        ),
        (
            "lenet5",
            {"input_shape": (1, 33, 8)},
            "^lenet5: expected images of at most 32 x 32, got 33 x 8",
        ),
        ("resnet21", {}, r"expected depth 6n \+ 2 with basic blocks, such as 20, got 21"),
        ("resnet1003", {}, r"expected depth 6n \+ 2 with basic blocks, such as 1004, got 1003"),
        ("resnet20", {"depth": 32}, "unknown option of model resnet20 'depth'"),
        ("resnet20", {"block": "basik"}, "unknown block of resnet 'basik'; did you mean 'basic'"),
        ("resnet20", {"option": "C"}, "unknown shortcut option of resnet 'C'; choose from A, B"),
    ],
)
def test_create_refuses(name: str, options: Options, piece: str) -> None:
    with pytest.raises(ValueError, match=piece):
        models.create(name, **options)


def test_names() -> None:
    names = [name for name, _ in NATIVE]
    assert {*names} <= set(models.names())
    with context.using(backend="meta"):
        for name in names:
            model = models.create(name, input_shape=(1, 28, 28), classes=3)
            y = model(ag.zeros(2, 1, 28, 28))
            assert y.shape == (2, 3)
    assert len(models.create("resnet1202", input_shape=(1, 8, 8), width=1).stage1) == 200


def torch_lenet(torch: Any) -> Any:
    layers = torch.nn.Sequential()
    for name, layer in {
        "conv1": torch.nn.Conv2d(1, 20, 5),
        "pool1": torch.nn.MaxPool2d(2),
        "conv2": torch.nn.Conv2d(20, 50, 5),
        "pool2": torch.nn.MaxPool2d(2),
        "flatten": torch.nn.Flatten(),
        "fc1": torch.nn.Linear(800, 500),
        "relu": torch.nn.ReLU(),
        "fc2": torch.nn.Linear(500, 10),
    }.items():
        layers.add_module(name, layer)
    return layers


def torch_block(torch: Any) -> Any:
    class Block(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = torch.nn.Conv2d(1, 4, 3, 2, 1, bias=False)
            self.bn1 = torch.nn.BatchNorm2d(4)
            self.conv2 = torch.nn.Conv2d(4, 4, 3, 1, 1, bias=False)
            self.bn2 = torch.nn.BatchNorm2d(4)
            self.shortcut = torch.nn.Sequential(
                torch.nn.Conv2d(1, 4, 1, 2, bias=False), torch.nn.BatchNorm2d(4)
            )

        def forward(self, x: Any) -> Any:
            y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
            return torch.relu(y + self.shortcut(x))

    return Block()


@pytest.mark.parity
@pytest.mark.parametrize("kind", ["lenet", "block"])
def test_parity_with_torch(kind: str) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    torch.backends.mkldnn.enabled = False
    theirs = (torch_lenet if kind == "lenet" else torch_block)(torch).double()
    ours = models.create("lenet") if kind == "lenet" else resnet.BasicBlock(1, 4, 2, "B")
    ours.double()
    state = {name: value.numpy().copy() for name, value in theirs.state_dict().items()}
    assert {name for name in state if "num_batches" not in name} == set(ours.state_dict())
    ours.load_state_dict(state)
    x = np.random.default_rng(1).standard_normal((3, 1, 28, 28))
    for _ in range(2):
        y, t = ours(ag.tensor(x)), theirs(torch.tensor(x))
        (y * y).sum().backward()
        (t * t).sum().backward()
        np.testing.assert_allclose(y.numpy(), t.detach().numpy(), rtol=1e-9, atol=1e-11)
    for (name, p), (_, q) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), 1e-8, 1e-8, err_msg=name)
    for name, value in ours.state_dict().items():
        np.testing.assert_allclose(value, theirs.state_dict()[name].numpy(), rtol=1e-10)
    np.testing.assert_allclose(
        ours.eval()(ag.tensor(x)).numpy(),
        theirs.eval()(torch.tensor(x)).detach().numpy(),
        1e-9,
        1e-11,
    )


def test_airbench_is_the_papers() -> None:
    with context.using(backend="meta", ledger=ag.Ledger(), tape=None) as state:
        model = models.create("airbench").eval()
        model(ag.zeros(1, 3, 32, 32))
    assert sum(p.size for p in model.parameters()) == 1_972_792
    assert state.ledger.total().macs == 118_147_360
    with pytest.raises(ValueError, match=r"^airbench: .* at least 25 x 25, got 24 x 32"):
        models.create("airbench", input_shape=(3, 24, 32))


def test_airbench_whitens_patches() -> None:
    """Its first filters pass a channel on; those that whiten get no gradient."""
    images = np.random.default_rng(0).normal(size=(40, 3, 32, 32)).astype("f4")
    images[:, 1] += images[:, 0]
    model = models.create("airbench")
    model.prepare(ag.tensor(images))
    with ag.no_grad():
        y = model.whiten(ag.tensor(images)).numpy().transpose(1, 0, 2, 3).reshape(24, -1)
    np.testing.assert_allclose(y[12:], -y[:12], atol=1e-5)
    np.testing.assert_allclose(y[:12] @ y[:12].T / y.shape[1], np.eye(12), atol=0.02)
    first = model.blocks[0].conv1.weight.numpy()
    x = np.random.default_rng(1).normal(size=(1, 24, 5, 5)).astype("f4")
    passed = ag.conv2d(ag.tensor(x), ag.tensor(first[:24]), padding=1).numpy()
    np.testing.assert_array_equal(passed, x)
    cross_entropy(model(ag.tensor(images)), ag.tensor(np.zeros(40, np.int64))).backward()
    assert model.whiten.weight.grad is None and model.whiten.bias.grad is not None
