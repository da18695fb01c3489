"""Autoencoders: what they add in training, and do without it in evaluation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import context, models, nn, random

SHAPE = (1, 4, 5)
SMALL = {"input_shape": SHAPE, "hidden": 6, "code": 3}
X = np.random.default_rng(0).standard_normal((8, *SHAPE), dtype=np.float32)


def run(model: nn.Module, step: int = 0) -> tuple[Any, list[float]]:
    with ag.added_losses() as terms, random.keyed(np.arange(len(X)), 0, step):
        return model(ag.tensor(X)).numpy(), [term.item() for term in terms]


def test_noise_in_training_alone() -> None:
    ag.manual_seed(0)
    plain = models.create("autoencoder", **SMALL)
    noisy = models.create("denoising", noise=0.5, **SMALL)
    noisy.load_state_dict(plain.state_dict())
    with random.keyed(np.arange(len(X)), 0, 3):
        dirty = X + 0.5 * ag.randn(*X.shape).numpy()
    np.testing.assert_array_equal(run(noisy, 3)[0], plain(ag.tensor(dirty)).numpy())
    np.testing.assert_array_equal(run(noisy.eval())[0], plain(ag.tensor(X)).numpy())


def test_the_code_is_drawn_in_training_alone() -> None:
    ag.manual_seed(0)
    model = models.create("vae", beta=3.0, **SMALL)
    mean, log_variance = np.split(model.encoder(ag.tensor(X).flatten(1)).numpy(), 2, 1)
    variance = np.exp(log_variance)
    nats = 0.5 * (mean**2 + variance - np.log(variance) - 1).sum(1)
    one, two = run(model, 1), run(model, 2)
    assert not np.array_equal(one[0], two[0])
    with random.keyed(np.arange(len(X)), 0, 1):
        code = mean + np.sqrt(variance) * ag.randn(*mean.shape).numpy()
    decoded = model.decoder(ag.tensor(code)).numpy().reshape(X.shape)
    np.testing.assert_allclose(one[0], decoded, rtol=1e-5, atol=1e-6)
    output, terms = run(model.eval())
    decoded = model.decoder(ag.tensor(mean)).numpy().reshape(X.shape)
    np.testing.assert_array_equal(output, decoded)
    assert terms == one[1] == pytest.approx([2 * 3.0 / 20 * nats.mean()], rel=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [("denoising", {"noise": -1.0}, "denoising: expected noise of at least 0, got -1.0"),
     ("vae", {"beta": float("nan")}, "vae: expected beta of at least 0, got nan"),
     ("vae", {"beta": "x"}, "vae: beta: expected a number, got 'x'"),
     ("vae", {"code": 0}, "vae: code: expected a whole number of at least 1, got 0"),
     ("mlp", {"hidden": (3, "x")}, r"mlp: hidden: .* least 1 or several, .* got \(3, 'x'\)"),
     ("googlenet", {"aux": 1}, "googlenet: aux: expected true or false, got 1"),
     ("resnet20", {"width": True}, "resnet20: width: expected a whole number .* got True"),
     ("resnet50", {"stem": 7}, "resnet50: stem: expected a word or none, got 7")],
)  # fmt: skip
def test_options_that_cannot_be(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        models.create(name, **options)


@pytest.mark.parametrize(
    ("name", "macs", "parameters"),
    [("autoencoder", 434_176, 435_536), ("denoising", 434_176, 435_536), ("vae", 450_560, 451_984)],
)
def test_work_is_that_of_the_docstring(name: str, macs: int, parameters: int) -> None:
    with context.using(backend="meta", ledger=ag.Ledger(), tape=None) as state:
        model = models.create(name)
        model(ag.zeros(1, 1, 28, 28))
    assert state.ledger.total().macs == macs
    assert sum(p.size for p in model.parameters()) == parameters
    said = models.__dict__["autoencoder"].__dict__[name].__doc__
    assert name == "denoising" or (f"{macs:,} MACs" in said and f"{parameters:,} par" in said)


@pytest.mark.parametrize("name", ["denoising", "vae"])
def test_work_is_known_from_shapes(name: str) -> None:
    counts = []
    for backend in ("meta", "numpy"):
        with context.using(backend=backend, ledger=ag.Ledger()) as state:
            model = models.create(name, **SMALL)
            x = ag.zeros(*X.shape) if backend == "meta" else ag.tensor(X)
            models.training_loss(model, x, x).backward()
            counts.append({key[:3]: cost for key, cost in state.ledger.sums(tuple).items()})
    assert counts[0] == counts[1] and counts[0]
