"""Models of the user through the commands: trained, evaluated, priced, and never run unasked."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from tallygrad.autograd import Tensor, nn
from tallygrad.datasets import Loader, load
from tallygrad.trainer.build import prepare
from tallygrad.trainer.cli import main

NET = """
from tallygrad.autograd import nn

class Net(nn.Module):
    def __init__(self, input_shape, classes, width=4):
        self.fc1 = nn.Linear(input_shape[0] * input_shape[1] * input_shape[2], width)
        self.fc2 = nn.Linear(width, classes)

    def forward(self, x):
        return self.fc2(self.fc1(x.flatten(1)).relu())

def twelve():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 12))

def copier(input_shape=(1, 4, 4)):
    return nn.Identity()

def pair(input_shape, classes):
    class Pair(nn.Module):
        def forward(self, x):
            return x, x
    return nn.Sequential(nn.Linear(28, 28), Pair())

def wrong():
    return nn.Sequential(nn.Flatten(), nn.Linear(783, 10))

def fails(input_shape, classes):
    return nn.Linear(input_shape[3], classes)

def nothing():
    return None

class Bare(nn.Module):
    pass

class Listed(nn.Module):
    def __init__(self):
        self.layers = [nn.Linear(784, 10)]

    def forward(self, x):
        return self.layers[0](x.flatten(1))

class Detached(nn.Sequential):
    def forward(self, x):
        return super().forward(x).detach()

def detached():
    return Detached(nn.Flatten(), nn.Linear(784, 10))

ready = nn.Identity()
Other = Net

class Reads(Net):
    def forward(self, x):
        return super().forward(x) * float(x.numpy().mean())

class Branches(Net):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else x

class Wide(Net):
    def forward(self, x):
        return super().forward(x).double()

class Asks(Net):
    def forward(self, x, y):
        return x

class Leaves(Net):
    def __init__(self, input_shape, classes):
        raise SystemExit(3)

class Scaled(nn.Module):
    def __init__(self, classes, reads=False):
        self.norm = nn.BatchNorm2d(1)
        self.fc, self.reads = nn.Linear(784, classes), reads

    def forward(self, x):
        scale = self.norm(x).relu().mean().detach()
        return self.fc((x * (float(scale) if self.reads else scale)).flatten(1))

def as_in_torch(num_classes=7, width=3):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, num_classes))

class Normed(nn.Module):
    def __init__(self, classes):
        self.fc = nn.utils.weight_norm(nn.Linear(784, 16))
        self.out = nn.Linear(16, classes)

    def forward(self, x):
        return self.out(self.fc(x.flatten(1)).relu()) * self.out.weight.norm()

def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(10))
"""


class Own(NamedTuple):
    """The file of an own model, a run of it, and the words that train it."""

    file: Path
    run: Path
    words: list[str]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, write_mnist: Any) -> Own:
    folder = tmp_path_factory.mktemp("own")
    (folder / "my.py").write_text(NET)
    write_mnist(folder / "data", 40, 20)
    words = ["--dataset", "mnist", "--data-dir", str(folder / "data"), "--batch-size", "20",
             "--epochs", "9", "--backend", "numpy", "--model-args", "width=3"]  # fmt: skip
    train = ["train", "--model", f"{folder / 'my.py'}:Net", *words, "--sparsity", "every=1"]
    assert main([*train, "--out", str(folder / "run"), "--max-steps", "2"]) == 0
    return Own(folder / "my.py", folder / "run", words)


def said(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> str:
    assert main([*words]) == status
    captured = capsys.readouterr()
    return captured.err.strip() if status else captured.out


def test_the_hash_of_the_file_is_on_record(own: Own, capsys: pytest.CaptureFixture[str]) -> None:
    name, digest = f"{own.file}:Net", hashlib.sha256(NET.encode()).hexdigest()
    config = json.loads((own.run / "config.json").read_text())
    assert (config["model"], config["model_args"], config["model_sha256"]) == (
        name, "width=3", digest,
    )  # fmt: skip
    (code,) = (
        c
        for c in json.loads((own.run / "provenance.json").read_text())["code"]
        if c["name"] == name
    )
    assert code == {"name": name, "file": str(own.file), "sha256": digest}
    meta = json.loads(said(capsys, "inspect", str(own.run), "--json"))["meta"]
    assert meta["model"] == f"{name}(width=3)"
    assert meta["config"]["model_sha256"] == digest


def test_commands_take_an_own_model(own: Own, capsys: pytest.CaptureFixture[str]) -> None:
    model = f"{own.file}:Net"
    shape = ["--input", "1,28,28", "--classes", "10", "--model-args", "width=3", "--json"]
    macs = 784 * 3 + 3 * 10
    cost = json.loads(said(capsys, "cost", model, *shape))
    assert (cost["model"], cost["totals"]["inference_macs"]) == (f"{model}(width=3)", macs)
    profile = said(capsys, "profile", model, *shape, "--steps", "1", "--backend", "numpy")
    assert {layer["layer"] for layer in json.loads(profile)["layers"]} >= {"fc1", "fc2"}
    result = json.loads((own.run / "result.json").read_text())
    for checkpoint in (str(own.run), str(own.run / "checkpoints" / "best.h5")):
        figures = json.loads(said(capsys, "eval", checkpoint, "--model", model, "--json"))
        assert figures["accuracy"] == result["test_accuracy"]
    lines = said(capsys, "predict", str(own.run), "--model", model, "--samples", "0-2", "--json")
    assert [json.loads(line)["index"] for line in lines.splitlines()] == [0, 1, 2]
    bill = ["bill", str(own.run), "--machine", "eyeriss", "--json"]
    assert json.loads(said(capsys, *bill, "--model", model))["machine"]["name"] == "eyeriss"
    shares = ["--machine", "eyeriss", "--zeros", str(own.run)]
    assert "sampled on 2 of 2 steps" in said(capsys, "cost", model, *shape, *shares)
    (row,) = json.loads(said(capsys, "models", model, *shape))
    assert (row["classes"], row["macs"]) == (10, macs)
    (row,) = json.loads(said(capsys, "models", f"{own.file}:copier", "--json"))
    assert row == {"model": f"{own.file}:copier", "input": [1, 4, 4], "classes": 0,
                   "parameters": 0, "macs": 0}  # fmt: skip


def test_files_may_follow_options(own: Own, capsys: pytest.CaptureFixture[str]) -> None:
    images = own.file.parent / "images.npy"
    np.save(images, np.zeros((2, 28, 28), np.uint8))
    words = ["predict", str(own.run), "--model", f"{own.file}:Net", "--json", str(images)]
    assert len(said(capsys, *words).splitlines()) == 2
    assert len(json.loads(said(capsys, "models", "lenet", "--json", "alexnet"))) == 2
    for named in (["--model", "lenet"], ["--model=lenet"]):
        assert json.loads(said(capsys, "cost", *named, "--json"))["model"] == "lenet"
    line = said(capsys, *words, "more", status=2)
    assert line == "tallygrad: error: predict: unexpected argument 'more'"


@pytest.mark.parametrize(("words", "classes"), [
    ([], 7), (["--classes", "5"], 5), (["--model-args", "num_classes=4"], 4),
])  # fmt: skip
def test_classes_have_their_name_in_torch(
    own: Own, words: list[str], classes: int, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = ["--input", "1,28,28", "--json"]
    counts = json.loads(said(capsys, "cost", f"{own.file}:as_in_torch", *shape, *words))
    assert counts["totals"]["inference_macs"] == 784 * classes


def test_models_lists_all_with_parameters_and_macs(capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(capsys, "models").splitlines()
    (lenet,) = (line.split() for line in lines if line.split()[0] == "lenet")
    assert lenet == ["lenet", "1x28x28", "10", "431,080", "2,293,000"]
    (row,) = json.loads(said(capsys, "models", "resnet20", "--model-args", "option=B", "--json"))
    assert row["model"] == "resnet20(option='B')" and row["parameters"] > 269_722


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("twelve", r"expected a model whose output for 2 samples is (2, 10), got (2, 12)"),
        ("pair", r"expected a model whose output for 2 samples is (2, 10), got tuple"),
        ("wrong", r"--model: linear: expected input (.., C) and weight (M, C), got (2, 784) and"),
        ("fails", r"--model: my.py:28: IndexError: tuple index out of range"),
        ("Wide", r"--model: expected an output of float32, as --dtype says, got float64"),
        ("Bare", r"--model: Bare has no forward"),
        ("Listed", r"--model: expected at least one parameter, got none: layers in a list or dict"),
        ("detached", r"--model: expected an output with a gradient for 2 parameters, got one"),
        ("Asks", r"--model: Asks.forward() missing 1 required positional argument: 'y'"),
        ("Leaves", r"--model: my.py:71: SystemExit: 3"),
        ("nothing", r"expected a Module, got NoneType"),
        ("lazy", r"--model: LazyLinear: expected a first call on data, which gives it parameters"),
        ("ready", r"to be a class or a function that returns a Module, got a Identity"),
        ("Nett", r"did you mean 'Net'?"),
    ],
)
def test_what_does_not_fit_is_one_line(
    own: Own, name: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", f"{own.file}:{name}", *own.words, "--model-args", ""]
    line = said(capsys, "train", *words, "--out", str(own.file.parent / name), status=2)
    assert message in line and "\n" not in line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cost", "my.py"], "--model: expected my.py:NAME, a class or a function in it"),
        (["cost", "{}:Net"], "expected a default of input_shape, got none; name it by --input"),
        (["cost", "{}:Net", "--input", "1,2,3"], "got none; name it by --classes N"),
        (["cost", "{}:twelve", "--input", "1,2,3"], "twelve: linear: expected input"),
        (["cost", "{}:Net", "--model-args", "widht=3"], "'widht'; did you mean 'width'?"),
        (
            ["cost", "{}:Reads", "--input", "1,28,28", "--classes", "9"],
            "my.py:55: numpy(): expected a tensor with numbers, got one of shape",
        ),
        (
            ["cost", "{}:Branches", "--input", "1,2,2", "--classes", "9"],
            "my.py:59: bool(): expected a tensor with numbers, got one of shape ()",
        ),
        (
            ["train", "--model", "{}:Net", "--dataset", "digits", "--model-args", "width=ten"],
            "--model with --model-args width=ten: my.py:6: TypeError: ",
        ),
        (["cost", "lenet", "--model-args", "a=1"], "unknown option of model lenet 'a'"),
        (["cost", "lenet", "--model-args", "a"], "--model-args: expected KEY=VALUE,..."),
        (["train", "--model-sha256", "12345678"], "--model-sha256: expected none with --model"),
        (["train", "--model-sha256", "1234"], "expected 8 to 64 hexadecimal digits or any"),
    ],
)
def test_wrong_options_are_one_line(
    own: Own, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = said(capsys, *(word.format(own.file) for word in words), status=2)
    assert message in line and "\n" not in line


@pytest.mark.parametrize("backend", ["numpy", "llvm"])
def test_a_model_that_reads_numbers_trains(
    own: Own, backend: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = []
    for reads in ("false", "true"):
        out, model = str(tmp_path / reads), f"{own.file}:Scaled"
        words = ["--model", model, *own.words, "--model-args", f"reads={reads}", "--out", out]
        said(capsys, "train", *words, "--backend", backend, "--threads", "1", "--epochs", "4")
        result = json.loads((tmp_path / reads / "result.json").read_text())
        figures = json.loads(said(capsys, "eval", out, "--model", model, "--json"))
        results.append([result["train_loss"], result["test_loss"], figures["loss"]])
    assert results[0] == results[1]


def copy_of(own: Own, folder: Path, text: str = NET) -> str:
    """Return the name of the model in another file."""
    (folder / "moved.py").write_text(text)
    return f"{folder / 'moved.py'}:Net"


def test_a_moved_file_is_the_same_and_a_changed_one_is_told(
    own: Own, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = copy_of(own, tmp_path)
    assert main(["eval", str(own.run), "--model", moved]) == 0
    assert capsys.readouterr().err == ""
    (tmp_path / "changed").mkdir()
    changed = copy_of(own, tmp_path / "changed", NET + "# more\n")
    digests = [hashlib.sha256(t.encode()).hexdigest()[:12] for t in (NET, NET + "# more\n")]
    assert main(["eval", str(own.run), "--model", changed]) == 0
    warning = capsys.readouterr().err
    assert all(digest in warning for digest in digests) and len(warning.splitlines()) == 1
    go_on = ["train", "--out", str(own.run), "--resume", "auto", "--max-steps"]
    refused = said(capsys, *go_on, "3", "--model", changed, status=2)
    assert all(digest in refused for digest in digests)
    assert refused.endswith(f"add --model-sha256 {digests[1]}")
    assert main([*go_on, "3", "--model", moved]) == 0
    assert main([*go_on, "4", "--model", changed, "--model-sha256", digests[1]]) == 0
    config = json.loads((own.run / "config.json").read_text())
    assert config["model_sha256"].startswith(digests[1]) and config["model"] == changed
    other = said(capsys, *go_on, "5", "--model", f"{own.file}:Other", "--model-sha256", "any",
                 status=2)  # fmt: skip
    assert f"--model: expected {changed} as in" in other


def test_a_run_of_a_stranger_runs_no_code(
    own: Own, tmp_path: Path, write_mnist: Any, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The file that its records name lies where they say, and leaves a trace when it runs."""
    monkeypatch.chdir(tmp_path)
    trace = tmp_path / "trace"
    Path("evil.py").write_text(f"{NET}\nopen({str(trace)!r}, 'a').close()\n")
    write_mnist(tmp_path / "data", 40, 20)
    train = ["train", "--out", "run", "--max-steps"]
    words = ["--dataset", "mnist", "--data-dir", "data", "--batch-size", "20"]
    words += ["--backend", "numpy", "--model"]
    assert main([*train, "1", *words, "evil.py:Net"]) == 0
    assert trace.exists()
    trace.unlink()
    from tallygrad.trainer import user_code

    monkeypatch.setattr(user_code, "_loaded", {})
    monkeypatch.setattr(user_code, "_modules", {})
    capsys.readouterr()
    for command in (
        ["eval", "run"], ["predict", "run"], ["bill", "run", "--machine", "eyeriss"],
        [*train, "2", "--resume", "auto"], ["train", "--config", "run/config.json"],
        [*train, "2", "--resume", "run/checkpoints/best.h5", "--out", "other"],
        ["eval", "run", "--model", "lenet"],
    ):  # fmt: skip
        line = said(capsys, *command, status=2)
        assert line.startswith("tallygrad: error: --model: expected evil.py:Net"), line
    for command in (["inspect", "run"], ["bill", "run"], ["bill", "run", "--machine", "truenorth"]):
        assert main(command) == 0
    assert not trace.exists()


def test_ranks_agree_on_the_file(mpirun: Any, own: Own, tmp_path: Path) -> None:
    for rank in (0, 1):
        (tmp_path / str(rank)).mkdir()
        (tmp_path / str(rank) / "my.py").write_text(NET + "#" * rank)
    code = (
        "import os, sys; from tallygrad.trainer.threads import launched_rank;"
        "os.chdir(os.path.join(sys.argv.pop(1), str(launched_rank())));"
        "from tallygrad.trainer.cli import main; sys.exit(main())"
    )
    words = ["train", "--model", "my.py:Net", *own.words, "--out", str(tmp_path / "run")]
    done = mpirun(2, code, str(tmp_path), *words)
    digests = [hashlib.sha256((NET + "#" * rank).encode()).hexdigest() for rank in (0, 1)]
    assert done.returncode == 2
    assert (
        f"ranks differ in SHA-256 of my.py:Net: expected {digests[0]} as on rank 0, got "
        f"{digests[1]} on rank 1" in done.stderr
    )


def test_eval_in_bf16_has_the_result_of_training_where_weights_are_read_by_more_than_products(
    own: Own, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    model, run = ["--model", f"{own.file}:Normed"], tmp_path / "run"
    words = [*model, *own.words[:-2], "--precision", "bf16", "--max-steps", "2"]
    assert main(["train", *words, "--out", str(run)]) == 0
    result = json.loads((run / "result.json").read_text())
    capsys.readouterr()
    found = json.loads(said(capsys, "eval", str(run), *model, "--json"))
    assert found["precision"] == "bf16" and found["loss"] == result["test_loss"]


def test_a_model_prepares_itself_from_training_images() -> None:
    seen: list[Any] = []

    class Whitened(nn.Module):
        def prepare(self, images: Tensor) -> None:
            seen.append(images.numpy())

    digits = load("digits", "train")
    prepare(Whitened(), Loader(digits, 64))
    prepare(nn.Identity(), Loader(digits, 64))
    (images,) = seen
    assert images.shape == (5000, 1, 28, 28) and images.dtype == "float32"
    whole = digits.read(np.arange(5000)).transpose(0, 3, 1, 2) / 255
    wanted = (whole - digits.mean[0]) / digits.std[0]
    np.testing.assert_allclose(images, wanted, atol=1e-5)
