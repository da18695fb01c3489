"""Trainings on a user's own data: the same bits from every form, and what a checkpoint keeps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallygrad.trainer.cli import main
from tallygrad.trainer.components.checkpoint import load

Image = pytest.importorskip("PIL.Image")
WORDS = ["train", "--model", "mlp", "--batch-size", "8", "--backend", "numpy", "--epochs", "1"]
NAMES = ("cat", "dog", "owl")


@pytest.fixture
def pets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of images, and the same as a NumPy archive."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (36, 5, 5, 3), np.uint8)
    labels = np.repeat([0, 1, 2], 12)
    images[np.arange(36), :2, :, labels] = 255
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        place = Path("pets", "train" if i % 3 else "test", NAMES[label], f"{i:03}.png")
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place)
    train = np.arange(36) % 3 > 0
    np.savez("pets.npz", x_train=images[train], y_train=labels[train], x_test=images[~train],
             y_test=labels[~train], classes=np.array(NAMES))  # fmt: skip
    return tmp_path / "pets"


def train(*words: str, out: str = "run") -> dict[str, Any]:
    assert main([*WORDS, "--out", out, *words]) == 0
    result: dict[str, Any] = json.loads(Path(out, "result.json").read_text())
    return result


def weights(out: str) -> dict[str, bytes]:
    tensors = load(next(Path(out, "checkpoints").glob("step-*.h5"))).tensors
    return {name: array.tobytes() for name, array in tensors.items()}


def test_every_form_trains_to_the_same_bits(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train("--dataset", "pets", out="a")
    assert "3x5x5, 3 classes" in capsys.readouterr().err
    train("--dataset", "pets", "--data-memory", "0", out="b")
    train("--dataset", "pets.npz", out="c")
    assert weights("a") == weights("b") == weights("c")


def test_a_checkpoint_keeps_classes_and_normalisation(
    pets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = train("--dataset", "pets")
    meta = load(next(Path("run", "checkpoints").glob("step-*.h5"))).meta
    assert meta["class_names"] == list(NAMES) and len(meta["mean"]) == len(meta["std"]) == 3
    assert meta["config"]["dataset"] == str(pets)
    capsys.readouterr()
    assert main(["eval", "run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["loss"] == pytest.approx(result["test_loss"])
    shutil.copytree(pets / "test", "same")
    assert main(["eval", "run", "--dataset", "same", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["loss"] == pytest.approx(result["test_loss"])
    # Other data are normalised as in training, and have its classes: "owl" stays the third.
    owls = Path("more", "owl")
    owls.mkdir(parents=True)
    for i in range(24, 36, 3):
        (owls / f"{i}.png").write_bytes((pets / "test" / "owl" / f"{i:03}.png").read_bytes())
    assert main(["eval", "run", "--dataset", "more", "--json"]) == 0
    more = json.loads(capsys.readouterr().out)
    assert main(["predict", "run", "--samples", "8-11", "--json"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert more["samples"] == 4 and {answer["label"] for answer in answers} == {"owl"}
    assert more["correct"] == sum(answer["name"] == "owl" for answer in answers)
    capsys.readouterr()
    (Path("more") / "fox").mkdir()
    Image.new("RGB", (5, 5)).save(Path("more", "fox", "1.png"))
    assert main(["eval", "run", "--dataset", "more"]) == 2
    assert "got 'fox'" in capsys.readouterr().err


def test_pictures_are_predicted(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train("--dataset", "pets")
    capsys.readouterr()

    def predict(*words: str) -> list[dict[str, Any]]:
        assert main(["predict", "run", *words, "--json"]) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    (sample,) = predict("--samples", "11")
    (answer,) = predict("pets/test/owl/033.png")
    assert sample.pop("index") == 11 and sample.pop("label") == "owl"
    assert answer.pop("index") == 0 and answer.pop("label") is None and answer == sample
    Image.open("pets/test/owl/033.png").resize((50, 90)).save("large.JPG")
    assert predict("large.JPG")[0].keys() >= {"name", "probability"}
    Path("broken.png").write_bytes(b"no image")
    assert main(["predict", "run", "broken.png"]) == 2
    assert "broken.png: expected an image" in capsys.readouterr().err


def test_numbers_that_are_no_bytes_are_predicted_as_they_are(
    pets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = np.random.default_rng(0).normal(40, 900, (30, 7)).astype(np.float32)
    np.savez("rows.npz", x=values, y=np.arange(30) % 2)
    train("--dataset", "rows.npz", "--test-split", "0.2")
    capsys.readouterr()
    assert main(["predict", "run", "--samples", "0-5", "--json"]) == 0
    known = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    np.save("rows.npy", values[:, :, None, None])
    assert main(["predict", "run", "rows.npy", "--json"]) == 0
    found = [json.loads(line)["probability"] for line in capsys.readouterr().out.splitlines()]
    assert len(found) == 30 and len(known) == 6
    assert all(min(abs(one["probability"] - x) for x in found) < 1e-5 for one in known)
    values[3, 2] = np.nan
    np.save("rows.npy", values[:, :, None, None])
    assert main(["predict", "run", "rows.npy"]) == 2
    assert "rows.npy: image 3: expected finite numbers, got nan" in capsys.readouterr().err


def test_a_run_goes_on_with_data_that_have_moved(
    pets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train("--dataset", "pets.npz")
    Path("elsewhere").mkdir()
    Path("pets.npz").rename("elsewhere/pets.npz")
    again = ["--resume", "auto", "--epochs", "2"]
    assert main([*WORDS, "--out", "run", *again[:2]]) == 2
    assert "pets.npz: no such file" in capsys.readouterr().err
    assert train(*again, "--dataset", "elsewhere/pets.npz")["epochs"] == 2
    assert main([*WORDS, "--out", "run", *again[:2], "--dataset", "elsewhere/pets.npz",
                 "--image-fit", "resize"]) == 2  # fmt: skip
    assert "--image-fit: expected crop as in" in capsys.readouterr().err


def test_a_validation_set_of_the_data(pets: Path) -> None:
    (pets / "val").mkdir()
    (pets / "test" / "cat").rename(pets / "val" / "cat")
    result = train("--dataset", "pets", "--image-size", "4x3")
    assert "validation_accuracy" in result or "best_test_accuracy" in result
    assert main(["eval", "run", "--split", "validation"]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--dataset", "digits", "--image-size", "9"],
            "--image-size: expected none with",
        ),
        (["--dataset", "pets", "--image-size", "9x"], "--image-size: expected a size in pixels"),
        (["--dataset", "pets", "--test-split", "1"], "--test-split: expected a share"),
        (["--dataset", "pet"], "--dataset: unknown data set 'pet'"),
        (["--dataset", "./pet"], "pet: no such file or folder"),
        (["--dataset", "my.py"], "my.py:NAME, a function in it, got"),
        (["--dataset", "run.csv"], "run.csv: expected a folder, .npz, .h5 or .hdf5, got run.csv"),
        (["--dataset", "pets", "--image-colors", "red"], "--image-colors: unknown value 'red'"),
    ],
)
def test_what_does_not_fit(
    pets: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("run.csv").touch()
    assert main([*WORDS, *words, "--out", "run"]) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "error" in x]
    assert message in line


CODE = """
import numpy as np

def load():
    with np.load("pets.npz") as f:
        return {one: (f[f"x_{one}"], f[f"y_{one}"], f["classes"]) for one in ("train", "test")}

def dataset(split):
    return load()[split]

def whole():
    return tuple(np.concatenate([part[i] for part in load().values()]) for i in (0, 1))

class Blank:
    name, split, input_shape, labels = "blank", "train", (3, 5, 5), np.zeros(24, np.int64)
    classes, mean, std = ("a", "b"), (0.0,) * 3, (1.0,) * 3
    def __len__(self):
        return 24
    def read(self, indices):
        return np.zeros((len(indices), 5, 5, 3), np.uint8)

def source(split):
    return Blank()

class Wrong(Blank):
    labels = Blank.labels + 2

def wrong(split):
    return Wrong()

def broken(split):
    raise KeyError(split)

def three(split):
    return 1

def holes(split):
    return np.zeros((3, 5, 5, 3), np.uint8), [0, 1, None]

def floats(split):
    return np.zeros((3, 5, 5, 3), np.uint8), np.array([0, 1, 1.5], object)

def nested(split):
    return (np.zeros((3, 5, 5, 3), np.uint8), np.zeros(3, np.int64)), 3

number = 3
"""


@pytest.fixture
def code(pets: Path) -> str:
    Path("mine.py").write_text(CODE)
    return "mine.py"


def test_code_trains_to_the_same_bits(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    train("--dataset", "pets.npz", out="a")
    for name in ("dataset", "load"):
        train("--dataset", f"{code}:{name}", out=name)
        assert weights(name) == weights("a")
    train("--dataset", f"{code}:whole", "--test-split", "0.25", out="whole")
    train("--dataset", f"{code}:source", out="source")
    capsys.readouterr()
    assert main(["eval", "dataset"]) == 2
    assert "code runs only where you name it" in capsys.readouterr().err
    assert main(["eval", "whole", "--dataset", f"{code}:whole", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 9  # the test set of the training
    assert main(["eval", "dataset", "--dataset", f"{code}:whole", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 36


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", "--dataset: mine.py:32: KeyError: 'train'"),
        ("wrong", "train: label at index 0: expected 0 to 1, got 2"),
        ("three", "expected (images, labels) or an object with name, got int"),
        ("holes", "train: label at index 2: expected a whole number or a name, got NoneType"),
        ("floats", "train: label at index 2: expected a whole number, got 1.5"),
        ("nested", "mine.py:nested train: expected images and labels as arrays: "),
        ("number", "expected a function, got int"),
        ("datasets", "no 'datasets' in mine.py; did you mean 'dataset'?"),
        ("whole", "expected a test set, or --test-split such as 0.2"),
    ],
)
def test_code_that_does_not_fit(
    code: str, name: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*WORDS, "--dataset", f"{code}:{name}", "--out", "run"]) == 2
    assert message in capsys.readouterr().err
