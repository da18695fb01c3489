"""Test-time augmentation: the views, and the commands that average over them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.trainer.cli import main
from tallygrad.trainer.components.views import mean_output, views
from tallygrad.trainer.config import CHOICES

IMAGES = np.arange(2 * 3 * 4 * 5, dtype="f4").reshape(2, 3, 4, 5)


def test_views_are_mirrored_and_shifted() -> None:
    shares, flipped = zip(*views(ag.tensor(IMAGES), "flip"), strict=True)
    assert shares == (0.5, 0.5)
    np.testing.assert_array_equal(flipped[1].numpy(), IMAGES[..., ::-1])
    shares, moved = zip(*views(ag.tensor(IMAGES), "translate"), strict=True)
    assert shares == (0.25, 0.25, 0.125, 0.125, 0.125, 0.125)
    up, down = moved[2].numpy(), moved[4].numpy()
    np.testing.assert_array_equal(up[..., 1:, 1:], IMAGES[..., :-1, :-1])
    np.testing.assert_array_equal(down[..., :-1, :-1], IMAGES[..., 1:, 1:])
    np.testing.assert_array_equal(up[..., 0, 1:], IMAGES[..., 1, :-1])  # the border is mirrored
    for plain, mirrored in (moved[:2], moved[2:4], moved[4:]):
        np.testing.assert_array_equal(mirrored.numpy(), plain.numpy()[..., ::-1])


@pytest.mark.parametrize("tta", ["flip", "translate"])
def test_the_mean_of_the_outputs(tta: str) -> None:
    def model(x: ag.Tensor) -> ag.Tensor:
        ag.add_loss(x[0, 0, 0, 0])
        return (x * x)[:, 0, 0, :2]

    outputs = [share * model(view).numpy() for share, view in views(ag.tensor(IMAGES), tta)]
    with ag.added_losses() as terms:
        mean = mean_output(model, ag.tensor(IMAGES), tta).numpy()
    np.testing.assert_allclose(mean, np.sum(outputs, 0), rtol=1e-6)
    added = [share * view[0, 0, 0, 0].item() for share, view in views(ag.tensor(IMAGES), tta)]
    assert sum(term.item() for term in terms) == pytest.approx(sum(added))
    plain = mean_output(model, ag.tensor(IMAGES), "none").numpy()
    np.testing.assert_array_equal(plain, model(ag.tensor(IMAGES)).numpy())


def test_commands_average_over_views(
    tmp_path: Path, write_mnist: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """A training records its views: eval and predict take them unless told otherwise."""
    data, run = write_mnist(tmp_path / "data", 64, 48), tmp_path / "run"
    words = ["--data-dir", str(data), "--threads", "1"]
    train = ["train", "--model", "mlp", "--dataset", "mnist", "--lr", "0.01", *words]
    train += ["--backend", "numpy"]
    assert main([*train, "--tta", "flip", "--out", str(run)]) == 0
    result = json.loads((run / "result.json").read_text())

    def evaluated(*more: str) -> dict[str, Any]:
        capsys.readouterr()
        assert main(["eval", str(run), "--json", *words, *more]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    own, plain, both = evaluated(), evaluated("--tta", "none"), evaluated("--tta", "translate")
    assert own["tta"] == "flip" and "tta" not in plain and both["tta"] == "translate"
    assert own["loss"] == pytest.approx(result["test_loss"], rel=1e-6)
    assert len({own["loss"], plain["loss"], both["loss"]}) == 3
    answers = []
    for tta in CHOICES["tta"]:
        predict = ["predict", str(run), "--samples", "0-2", "--json", *words, "--tta", tta]
        assert main(predict) == 0
        answers.append(capsys.readouterr().out)
    assert len({*answers}) == 3


def test_images_are_not_averaged(
    tmp_path: Path, write_mnist: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_mnist(tmp_path / "data", 64, 4)
    words = ["--model", "autoencoder", "--task", "reconstruction", "--tta", "flip"]
    train = ["train", "--dataset", "mnist", "--data-dir", str(data), "--threads", "1", *words]
    assert main([*train, "--out", str(tmp_path / "run")]) == 2
    message = "--tta: expected none for outputs that are images, (1, 28, 28), got flip"
    assert message in capsys.readouterr().err
