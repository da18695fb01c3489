"""Every layer: torch's arguments and names, the same results, gradients and running statistics."""

from __future__ import annotations

from inspect import signature
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import context, nn

Row = tuple[str, dict[str, Any], tuple[int, ...]]
IMAGES, VOLUMES = (2, 4, 7, 6), (2, 2, 3, 3, 4)
ROWS: list[Row] = [
    ("Linear", {"in_features": 6, "out_features": 3}, (2, 4, 6)),
    ("Linear", {"in_features": 6, "out_features": 3, "bias": False}, (5, 6)),
    ("Conv2d", {"in_channels": 4, "out_channels": 6, "kernel_size": 3}, IMAGES),
    (
        "Conv2d",
        {
            "in_channels": 4, "out_channels": 6, "kernel_size": (3, 2), "stride": (2, 1),
            "padding": (1, 2), "dilation": 2, "groups": 2, "bias": False,
        },
        IMAGES,
    ),
    (
        "Conv2d",
        {"in_channels": 4, "out_channels": 2, "kernel_size": 3, "padding": "same"},
        IMAGES,
    ),
    (
        "Conv2d",
        {
            "in_channels": 4, "out_channels": 2, "kernel_size": 2, "padding": "same",
            "padding_mode": "replicate",
        },
        IMAGES,
    ),
    (
        "Conv1d",
        {
            "in_channels": 4, "out_channels": 2, "kernel_size": 3, "padding": 2, "stride": 2,
            "padding_mode": "reflect", "device": "cpu",
        },
        (2, 4, 7),
    ),
    ("Softmax2d", {}, IMAGES),
    ("Softplus", {"beta": 2.0, "threshold": 0.5}, (2, 3)),
    ("AdaptiveMaxPool2d", {"output_size": (2, None), "return_indices": True}, IMAGES),
    ("LSTMCell", {"input_size": 3, "hidden_size": 4}, (3,)),
    ("GRUCell", {"input_size": 3, "hidden_size": 4}, (3,)),
    ("ConvTranspose2d", {"in_channels": 4, "out_channels": 6, "kernel_size": 3}, IMAGES),
    (
        "ConvTranspose2d",
        {
            "in_channels": 4, "out_channels": 6, "kernel_size": 3, "stride": 2, "padding": 1,
            "output_padding": (1, 0), "groups": 2, "bias": False, "dilation": (1, 2),
        },
        IMAGES,
    ),
    ("Conv1d", {"in_channels": 4, "out_channels": 6, "kernel_size": 3}, (2, 4, 7)),
    (
        "Conv1d",
        {
            "in_channels": 4, "out_channels": 6, "kernel_size": (3,), "stride": 2,
            "padding": (1,), "dilation": 2, "groups": 2, "bias": False,
        },
        (2, 4, 9),
    ),
    (
        "Conv1d",
        {"in_channels": 4, "out_channels": 2, "kernel_size": 3, "padding": "same"},
        (2, 4, 7),
    ),
    (
        "ConvTranspose1d",
        {
            "in_channels": 4, "out_channels": 6, "kernel_size": 3, "stride": 2, "padding": 1,
            "output_padding": 1, "groups": 2, "dilation": 2,
        },
        (2, 4, 7),
    ),
    (
        "Conv3d",
        {
            "in_channels": 2, "out_channels": 4, "kernel_size": (2, 1, 2), "padding": (1, 0, 1),
            "stride": 2, "groups": 2, "dilation": (2, 1, 1),
        },
        VOLUMES,
    ),
    (
        "ConvTranspose3d",
        {"in_channels": 2, "out_channels": 2, "kernel_size": 2, "stride": (1, 2, 2)},
        VOLUMES,
    ),
    ("MaxPool1d", {"kernel_size": 2, "return_indices": True}, (2, 5)),
    ("MaxPool3d", {"kernel_size": 2, "padding": (1, 0, 1), "stride": 1}, VOLUMES),
    ("AvgPool1d", {"kernel_size": 2, "ceil_mode": True}, (2, 5)),
    ("AvgPool3d", {"kernel_size": (2, 1, 2), "divisor_override": 3}, VOLUMES),
    ("LPPool3d", {"norm_type": 4, "kernel_size": 2, "stride": 1}, (1, 2, 3, 2, 3)),
    ("LPPool1d", {"norm_type": 2, "kernel_size": 2}, (2, 5)),
    ("LPPool2d", {"norm_type": 2, "kernel_size": (2, 3), "ceil_mode": True}, IMAGES),
    ("AdaptiveAvgPool1d", {"output_size": 2}, (2, 5)),
    ("AdaptiveAvgPool3d", {"output_size": 2}, VOLUMES),
    ("AdaptiveMaxPool1d", {"output_size": 2}, (2, 5)),
    ("AdaptiveMaxPool3d", {"output_size": (1, None, 2)}, VOLUMES),
    ("MaxPool2d", {"kernel_size": 2}, IMAGES),
    ("MaxPool2d", {"kernel_size": 3, "padding": 1, "return_indices": True}, IMAGES),
    ("AvgPool2d", {"kernel_size": 2, "divisor_override": 3}, IMAGES),
    ("AdaptiveAvgPool2d", {"output_size": (None, 3)}, IMAGES),
    ("AdaptiveMaxPool2d", {"output_size": [2, None]}, IMAGES),
    (
        "MaxPool2d",
        {"kernel_size": 3, "stride": (2, 1), "padding": 1, "ceil_mode": True},
        IMAGES,
    ),
    ("MaxPool2d", {"kernel_size": 2, "stride": 1, "dilation": 2}, IMAGES),
    ("AvgPool2d", {"kernel_size": (2, 3)}, IMAGES),
    (
        "AvgPool2d",
        {
            "kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True,
            "count_include_pad": False,
        },
        IMAGES,
    ),
    ("AdaptiveAvgPool2d", {"output_size": (3, 4)}, IMAGES),
    ("AdaptiveMaxPool2d", {"output_size": 3}, IMAGES),
    ("BatchNorm1d", {"num_features": 4, "momentum": 0.3}, (5, 4)),
    ("BatchNorm1d", {"num_features": 4, "affine": False}, (5, 4, 3)),
    ("BatchNorm2d", {"num_features": 4, "eps": 0.1}, IMAGES),
    ("BatchNorm2d", {"num_features": 4, "track_running_stats": False}, IMAGES),
    ("BatchNorm3d", {"num_features": 2}, (2, 2, 2, 3, 2)),
    ("LayerNorm", {"normalized_shape": (7, 6), "eps": 0.1}, IMAGES),
    ("LayerNorm", {"normalized_shape": 6, "bias": False}, IMAGES),
    ("RMSNorm", {"normalized_shape": 6}, (3, 6)),
    ("GroupNorm", {"num_groups": 2, "num_channels": 4, "eps": 0.1}, IMAGES),
    ("InstanceNorm1d", {"num_features": 4, "affine": True, "track_running_stats": True}, (4, 5)),
    ("InstanceNorm2d", {"num_features": 4, "track_running_stats": True}, IMAGES),
    ("InstanceNorm3d", {"num_features": 2}, (2, 2, 2, 3, 2)),
    ("LocalResponseNorm", {"size": 3, "alpha": 0.2, "beta": 0.5, "k": 2.0}, IMAGES),
    ("ReLU", {}, IMAGES),
    ("Softplus", {}, IMAGES),
    ("LeakyReLU", {"negative_slope": 0.2}, IMAGES),
    ("ELU", {"alpha": 0.7}, IMAGES),
    ("Sigmoid", {}, IMAGES),
    ("Tanh", {}, IMAGES),
    ("Softmax", {"dim": 1}, IMAGES),
    ("LogSoftmax", {"dim": -1}, IMAGES),
    ("Softmin", {"dim": 1}, IMAGES),
    ("Softplus", {"beta": 1.5}, (5, 6)),
    ("GELU", {}, (5, 6)),
    ("GELU", {"approximate": "tanh"}, (5, 6)),
    *[
        (name, {}, (5, 6))
        for name in (
            "ReLU6", "SELU", "SiLU", "Mish", "Hardswish", "LogSigmoid", "Tanhshrink", "Softsign",
        )
    ],
    ("CELU", {"alpha": 0.5}, (5, 6)),
    ("Hardtanh", {"min_val": -0.3, "max_val": 0.4}, (5, 6)),
    ("PReLU", {}, (5, 6)),
    ("PReLU", {"num_parameters": 4, "init": 0.1}, IMAGES),
    ("Softshrink", {"lambd": 0.3}, (5, 6)),
    ("Hardshrink", {"lambd": 0.3}, (5, 6)),
    ("Threshold", {"threshold": 0.1, "value": 20.0}, (5, 6)),
    ("GLU", {"dim": 1}, IMAGES),
    ("Flatten", {"start_dim": 1, "end_dim": 2}, IMAGES),
    ("Identity", {}, IMAGES),
    ("Dropout", {"p": 0.0}, IMAGES),
    ("Dropout2d", {"p": 0.0}, IMAGES),
    ("AlphaDropout", {"p": 0.0}, IMAGES),
    ("Unflatten", {"dim": 1, "unflattened_size": (2, -1)}, IMAGES),
    ("Upsample", {"scale_factor": 2, "mode": "bilinear"}, IMAGES),
    ("UpsamplingNearest2d", {"size": (3, 9)}, IMAGES),
    ("UpsamplingBilinear2d", {"scale_factor": 1.5}, IMAGES),
    ("PixelShuffle", {"upscale_factor": 2}, IMAGES),
    ("PixelUnshuffle", {"downscale_factor": 3}, (2, 3, 6)),
    ("Unfold", {"kernel_size": 2, "stride": (1, 2)}, IMAGES),
    ("Fold", {"output_size": 3, "kernel_size": 2}, (2, 8, 4)),
    ("ConstantPad1d", {"padding": (1, 2), "value": 0.5}, (2, 3, 4)),
    ("ConstantPad3d", {"padding": 1, "value": -1.0}, VOLUMES),
    ("ZeroPad2d", {"padding": (1, -1, 2, 0)}, IMAGES),
    ("ReflectionPad1d", {"padding": 2}, (3, 4)),
    ("ReflectionPad2d", {"padding": (1, 2, 3, 0)}, IMAGES),
    ("ReplicationPad2d", {"padding": 1}, (4, 7, 6)),
    ("ReplicationPad3d", {"padding": (0, 1, 2, 0, 1, 0)}, VOLUMES),
    ("CircularPad2d", {"padding": 1}, IMAGES),
    ("RNN", {"input_size": 3, "hidden_size": 5}, (4, 2, 3)),
    (
        "RNN",
        {
            "input_size": 3, "hidden_size": 5, "num_layers": 2, "nonlinearity": "relu",
            "bidirectional": True, "batch_first": True,
        },
        (2, 4, 3),
    ),
    ("LSTM", {"input_size": 3, "hidden_size": 5, "bias": False}, (4, 2, 3)),
    (
        "LSTM",
        {
            "input_size": 3, "hidden_size": 5, "num_layers": 2, "bidirectional": True,
            "batch_first": True,
        },
        (2, 4, 3),
    ),
    ("LSTM", {"input_size": 3, "hidden_size": 5, "num_layers": 2, "proj_size": 2}, (4, 2, 3)),
    ("GRU", {"input_size": 3, "hidden_size": 5, "num_layers": 2}, (4, 2, 3)),
    ("GRUCell", {"input_size": 3, "hidden_size": 5, "bias": False}, (2, 3)),
    ("RNNCell", {"input_size": 3, "hidden_size": 5, "nonlinearity": "relu"}, (2, 3)),
    ("LSTMCell", {"input_size": 3, "hidden_size": 5}, (2, 3)),
]  # fmt: skip
each_row = pytest.mark.parametrize(("name", "options", "shape"), ROWS, ids=lambda v: str(v)[:50])


def flat(result: Any) -> list[Any]:
    """Return all tensors of nested tuples."""
    return [t for r in result for t in flat(r)] if isinstance(result, tuple) else [result]


@pytest.mark.parity
@each_row
def test_parity_with_torch(name: str, options: dict[str, Any], shape: tuple[int, ...]) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    torch.backends.mkldnn.enabled = False
    torch.manual_seed(7)
    theirs = getattr(torch.nn, name)(**options).double()
    ours = getattr(nn, name)(**options).double()
    state = {key: value.numpy() for key, value in theirs.state_dict().items()}
    counted = [key for key in state if key != "num_batches_tracked"]
    assert counted == [*ours.state_dict()]
    ours.load_state_dict(state)
    numbers = np.random.default_rng(2).standard_normal(shape)
    for training in True, False:
        x, tx = ag.tensor(numbers, requires_grad=True), torch.tensor(numbers, requires_grad=True)
        mine, other = flat(ours.train(training)(x)), flat(theirs.train(training)(tx))
        for results in mine, other:
            sum((y * y).sum() for y in results if y.requires_grad).backward()
        for a, b in [*zip(mine, other, strict=True), (x.grad, tx.grad)]:
            np.testing.assert_allclose(a.numpy(), b.detach().numpy(), rtol=1e-9, atol=1e-11)
    for (key, p), (_, q) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), 1e-9, 1e-10, err_msg=key)
    for key, value in ours.state_dict().items():
        np.testing.assert_allclose(value, theirs.state_dict()[key].numpy(), rtol=1e-12)


@each_row
def test_shapes_alone_give_the_same_ledger(
    name: str, options: dict[str, Any], shape: tuple[int, ...]
) -> None:
    ledgers = []
    for backend in "numpy", "meta":
        with context.using(backend=backend, ledger=ag.Ledger()) as state:
            layer = getattr(nn, name)(**options)
            x = ag.rand(*shape, requires_grad=True)
            sum(y.sum() for y in flat(layer(x)) if y.requires_grad).backward()
        assert x.grad is not None and x.grad.shape == shape
        ledgers.append(state.ledger)
    assert ledgers[0] == ledgers[1]


def numpy_numbers(value: Any) -> Any:
    """Return options with NumPy's numbers in the place of Python's."""
    if type(value) in (tuple, list):
        return type(value)(map(numpy_numbers, value))
    kinds = {int: np.int64, float: np.float64}
    return kinds[type(value)](value) if type(value) in kinds else value


@each_row
def test_options_may_be_numpy_numbers(
    name: str, options: dict[str, Any], shape: tuple[int, ...], backend: str
) -> None:
    numbers, found = np.random.default_rng(2).standard_normal(shape).astype(np.float32), []
    for given in ({k: numpy_numbers(v) for k, v in options.items()}, options):
        ag.manual_seed(3)
        layer = getattr(nn, name)(**given)
        x = ag.tensor(numbers, requires_grad=True)
        results = flat(layer(x))
        sum((y * y).sum() for y in results if y.requires_grad).backward()
        grads = [p.grad for p in (x, *layer.parameters())]
        found.append((str(layer), [t.numpy() for t in (*results, *grads)]))
    assert found[0][0] == found[1][0]
    for a, b in zip(found[0][1], found[1][1], strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parity
def test_initial_states_are_taken() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    rng = np.random.default_rng(4)
    x, h, c = rng.random((4, 2, 3)), rng.random((1, 2, 5)), rng.random((1, 2, 5))
    layers = {"RNN": (h,), "LSTM": (h, c), "RNNCell": (h[0],), "LSTMCell": (h[0], c[0])}
    for name, start in layers.items():
        ours, theirs = getattr(nn, name)(3, 5).double(), getattr(torch.nn, name)(3, 5).double()
        ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
        given = x[0] if "Cell" in name else x
        mine, other = [ag.tensor(a) for a in start], [torch.tensor(a) for a in start]
        many = len(start) > 1
        y = ours(ag.tensor(given), tuple(mine) if many else mine[0])
        t = theirs(torch.tensor(given), tuple(other) if many else other[0])
        for a, b in zip(flat(y), flat(t), strict=True):
            np.testing.assert_allclose(a.numpy(), b.detach().numpy(), rtol=1e-9)


@pytest.mark.parity
@pytest.mark.parametrize("name", ["RNN", "LSTM", "RNNCell", "LSTMCell"])
def test_initial_numbers_of_recurrent_layers(name: str) -> None:
    ag.manual_seed(1)
    for key, p in getattr(nn, name)(30, 100).named_parameters():
        numbers = p.numpy()
        assert 0.08 < np.abs(numbers).max() <= 0.1, key
        assert numbers.std() == pytest.approx(0.1 / np.sqrt(3), rel=0.2), key


def test_dropout_acts_in_training_alone() -> None:
    x = ag.ones(8, 50, 3, 3)
    for layer in nn.Dropout(0.25), nn.Dropout2d(0.25):
        y = layer(x).numpy()
        assert set(np.unique(y)) == {0, np.float32(4 / 3)}
        assert (y == 0).mean() == pytest.approx(0.25, abs=0.1)
        assert layer.eval()(x) is x
    whole = nn.Dropout2d(0.5)(x).numpy()
    assert (whole == whole[:, :, :1, :1]).all()
    stacked = nn.LSTM(3, 4, 2, dropout=0.5)
    z = ag.ones(5, 2, 3)
    assert (stacked(z)[0].numpy() != stacked(z)[0].numpy()).any()
    stacked.eval()
    assert (stacked(z)[0].numpy() == stacked(z)[0].numpy()).all()


def test_wrong_options() -> None:
    with pytest.raises(ValueError, match=r"expected p in \[0, 1\], got 1.5"):
        nn.Dropout(1.5)
    with pytest.raises(ValueError, match=r"^LSTM: expected dropout in \[0, 1\], got -1"):
        nn.LSTM(2, 2, dropout=-1)
    with pytest.raises(ValueError, match=r"^LSTM: expected proj_size below hidden_size 2, got 2"):
        nn.LSTM(2, 2, proj_size=2)
    for layer in nn.RNN, nn.RNNCell:
        with pytest.raises(ValueError, match="unknown nonlinearity 'tanhh'; did you mean 'tanh'"):
            layer(2, 2, nonlinearity="tanhh")
    with pytest.raises(ValueError, match="unknown padding_mode 'zero'; did you mean 'zeros'"):
        nn.Conv2d(1, 1, 3, padding_mode="zero")
    with pytest.raises(ValueError, match="ConvTranspose1d: expected padding_mode 'zeros', got"):
        nn.ConvTranspose1d(1, 1, 3, padding_mode="reflect")
    with pytest.raises(ValueError, match="device: expected 'cpu', the only one"):
        nn.Linear(2, 2, device="cuda")


def test_every_layer_that_takes_a_type_takes_a_device_before_it() -> None:
    for name in nn.__all__:
        layer = getattr(nn, name)
        known = [*signature(layer).parameters] if isinstance(layer, type) else []
        if "dtype" in known and name != "RestrictedBoltzmannMachine":  # which torch lacks
            assert known[known.index("dtype") - 1] == "device", name
    made = nn.Linear(2, 2, True, "cpu", None), nn.GroupNorm(1, 2, device=None, dtype=ag.float64)
    assert [layer.weight.dtype for layer in made] == [ag.float32, ag.float64]


@pytest.mark.parity
def test_a_transposed_convolution_reaches_a_size() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    theirs, ours = (t.ConvTranspose2d(1, 2, 3, (3, 2), 1) for t in (torch.nn, nn))
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    numbers = np.random.default_rng(0).standard_normal((1, 1, 4, 5)).astype(np.float32)
    for size in ((12, 9), (1, 2, 10, 10)):
        y = ours(ag.tensor(numbers), output_size=size)
        z = theirs(torch.tensor(numbers), output_size=size).detach().numpy()
        np.testing.assert_allclose(y.detach().numpy(), z, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="output_size from 10 to 12 along axis -2, got"):
        ours(ag.tensor(numbers), output_size=(13, 9))


@pytest.mark.parametrize("name", ["ReLU", "LeakyReLU", "ELU", "Dropout", "Dropout2d"])
def test_inplace_has_no_effect(name: str) -> None:
    x = ag.tensor(np.full((2, 3, 4, 4), -1.0))
    y = getattr(nn, name)(inplace=True)(x)
    assert y is not x and (x.numpy() == -1).all()


def test_options_that_do_not_fit_the_axes() -> None:
    for layer, size, piece in (
        (nn.Conv2d, (3, 3, 3), "Conv2d: kernel_size: expected one number or 2"),
        (nn.Conv1d, (3, 3), "Conv1d: kernel_size: expected one number or 1"),
        (nn.ConvTranspose2d, 0, "ConvTranspose2d: kernel_size"),
    ):
        with pytest.raises(ValueError, match=piece):
            layer(1, 1, size)
    with pytest.raises(ValueError, match="MaxPool2d: stride: expected one number or 2, at least 1"):
        nn.MaxPool2d(2, stride=0)


@pytest.mark.parametrize("call", [
    lambda x: nn.Linear(3, 2)(x), lambda x: x @ ag.ones(3, 2), lambda x: ag.ones(2, 2) @ x,
    lambda x: nn.LSTM(3, 2)(x.unsqueeze(0)), lambda x: nn.GRU(3, 2)(x.unsqueeze(0)),
])  # fmt: skip
def test_products_of_integers_and_other_numbers(call: Any) -> None:
    with pytest.raises(TypeError, match=r"alone, got .*uint8.*; convert with \.float\(\)$"):
        call(ag.ones(2, 3).to("uint8"))


def test_an_error_of_a_shape_has_no_other_before_it() -> None:
    layer = nn.Sequential(nn.Linear(3, 4), nn.Linear(5, 2))
    with pytest.raises(ValueError, match=r"^linear: expected input \(\.\., C\) and") as caught:
        layer(ag.ones(2, 3))
    assert caught.value.__context__ is None
