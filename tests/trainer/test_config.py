"""Options: defaults < file < flags, and what is said of bad ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tallygrad.autograd import models
from tallygrad.datasets import augment
from tallygrad.trainer import cli, config, recipes, values
from tallygrad.trainer.commands import dispatch
from tallygrad.trainer.errors import UserError
from tallygrad.trainer.setup import Recipe

SIZE = "memory-limit: expected a size, such as 500MB or 2GB, got "
EVERY = "sparsity: expected off or every=K with K at least 1, such as every=100, got "


def write(folder: Path, text: str) -> str:
    file = folder / "options.toml"
    file.write_text(text)
    return str(file)


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    file = write(tmp_path, 'model = "mlp"\nlr = 1\nbatch-size = 32\n')
    made = config.TrainConfig(**config.gather(file, {"lr": 0.5}))
    assert (made.model, made.lr, made.batch_size, made.epochs) == ("mlp", 0.5, 32, 1)


def test_sizes_are_megabytes_or_say_what_they_are() -> None:
    for text, size in (("0", 0), ("1.5", 1_500_000), ("20mb", 20_000_000), ("2 GB", 2 * 10**9)):
        assert values.parse_size(text) == size


def test_every_k() -> None:
    assert [values.parse_every(text) for text in ("off", "every=1", "every=250")] == [0, 1, 250]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "memory-limit = 'much'",
            SIZE + "'much'",
        ),
        (
            "memory-limit = '-1GB'",
            SIZE + "'-1GB'",
        ),
        ("memory-limit = 'nan'", SIZE + "'nan'"),
        ("sparsity = 'every=0'", EVERY + "'every=0'"),
        ("sparsity = 'every=-1'", EVERY + "'every=-1'"),
        ("sparsity = 'every=1.5'", EVERY + "'every=1.5'"),
        ("sparsity = 'each=2'", EVERY + "'each=2'"),
        ("sparsity = '5'", EVERY + "'5'"),
        ("sparsity = ''", EVERY + "''"),
        ("sparsity = 5", "sparsity: expected str, got 5"),
        ("modle = 'mlp'", "unknown key 'modle'; did you mean 'model'?"),
        ("epochs = 1.5", "epochs: expected int, got 1.5"),
        ("epochs = true", "epochs: expected int, got True"),
        ("lr = 'x'", "lr: expected float, got 'x'"),
        ("lr = nan", "lr: expected a finite number, got nan"),
        ("batch-size = 0", "batch-size: expected at least 1, got 0"),
        ("momentum = 2.0", "momentum: expected 0.0 to 1.0, got 2.0"),
        ("schedule = 'cosin'", "schedule: unknown value 'cosin'; did you mean 'cosine'?"),
        ("dtype = 'int8'", "dtype: unknown value 'int8'; choose from float32, float64"),
        (
            "[model]\nname = 'x'",
            "model: expected a value, got a table; keys stand at the top",
        ),
        ("model = ", "not valid TOML"),
        ("epochs = " + "9" * 5000, "not valid TOML"),
        ("model = " + "[" * 3000, "not valid TOML"),
        ("lr = " + "9" * 400, "expected numbers of at most 1024 bits, got 1329"),
        ("batch-size = 8\nbatch_size = 9", "batch_size: expected once, got it twice"),
    ],
)
def test_bad_files_give_one_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        config.gather(write(tmp_path, text), {})
    assert "options.toml" in str(caught.value)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_options_come_from_the_record_of_a_run_too(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config.TrainConfig(model="mlp", lr=0.5, nesterov=True).to_json()))
    made = config.TrainConfig(**config.gather(str(file), {"epochs": 3}))
    assert made == config.TrainConfig(model="mlp", lr=0.5, nesterov=True, epochs=3)
    for text, words in (("[1]", "expected an object of options"), ("{", "not valid JSON")):
        file.write_text(text)
        with pytest.raises(UserError, match=words):
            config.gather(str(file), {})


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--config: .*none.toml: No such file"):
        config.gather(str(tmp_path / "none.toml"), {})


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["train", "--modle", "mlp"], "unknown option --modle; did you mean '--model'?"),
        (["train", "--lr", "fast"], "argument --lr: invalid float value: 'fast'"),
        (["train", "--epochs=0"], "--epochs: expected at least 1, got 0"),
        (["train", "--mod", "mlp"], "unknown option --mod; did you mean '--model'?"),
        (["train", "--threads", "10000"], "--threads: expected 0 to 1024, got 10000"),
        (["eval", "x.h5", "--threads", "9999"], "--threads: expected 0 to 1024, got 9999"),
        (["train", "mlp"], "train: unexpected argument 'mlp'"),
        (["eval", "x.h5", "--threads", "-3"], "--threads: expected 0 to 1024, got -3"),
        (["tarin"], "unknown command 'tarin'; did you mean 'train'?"),
        ([], "expected a command"),
    ],
)
def test_bad_flags_give_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str], words: list[str], complaint: str
) -> None:
    assert cli.main(words) == 2
    said = capsys.readouterr()
    assert complaint in said.err and said.err.count("\n") == 1 and not said.out


@pytest.mark.parametrize(
    ("words", "status", "lines"),
    [
        (["cost", "lenet", "--csv"], 0, 9),
        (["cost", "lenett"], 2, 0),
        (["--version"], 0, 1),
        (["frobnicate"], 2, 0),
    ],
)
def test_what_one_rank_can_do_is_done_once(
    mpirun: Any, words: list[str], status: int, lines: int
) -> None:
    done = mpirun(2, ["-m", "tallygrad.trainer", *words])
    assert done.returncode == status
    assert len(done.stdout.splitlines()) == lines
    assert done.stderr.count("tallygrad: error:") == (status > 0)


@pytest.mark.parametrize("ranks", [1, 2])
def test_ranks_that_meet_a_bad_option_alike_give_one_line(mpirun: Any, ranks: int) -> None:
    done = mpirun(ranks, ["-m", "tallygrad.trainer", "train", "--lr", "-1"])
    assert done.returncode == 2
    assert done.stderr.count("tallygrad: error: --lr: expected at least 0.0, got -1.0") == 1


def test_one_rank_with_a_bad_option_does_not_leave_the_others_waiting(
    mpirun: Any, tmp_path: Path
) -> None:
    code = """
import os, sys
from tallygrad.trainer.cli import main
rank = os.environ.get("PMI_RANK") or os.environ["OMPI_COMM_WORLD_RANK"]
sys.exit(main(["train", "--config", "/nowhere/x.toml"] if rank == "1" else
              ["train", "--model", "mlp", "--max-steps", "1", "--out", OUT]))
""".replace("OUT", repr(str(tmp_path / "run")))
    done = mpirun(2, code, timeout=30)
    assert done.returncode == 2 and "/nowhere/x.toml: No such file" in done.stderr


def test_options_of_a_resumed_run_lie_under_those_given_now() -> None:
    held = config.TrainConfig(lr=0.5, momentum=0.1, max_steps=5, out="old", threads=2).to_json()
    made = config.resume({"momentum": 0.3, "resume": "auto", "out": "new"}, held)
    assert (made.lr, made.momentum, made.out, made.resume) == (0.5, 0.3, "new", "auto")
    assert (made.max_steps, made.threads) == (0, 0)
    with pytest.raises(UserError, match="checkpoint: lr: expected float, got 'x'"):
        config.resume({}, {"lr": "x"})


def test_help_names_choices_and_values(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--tune {off,fast,full}" in shown and "--out FOLDER" in shown
    assert "--schedule NAME" in shown
    assert "): constant, step, cosine, one-cycle, exponential," in " ".join(shown.split())


def test_an_interrupt_before_the_ranks_know_each_other(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*given: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(dispatch, "_run", interrupted)
    assert cli.main(["train"]) == 130
    assert capsys.readouterr().err == "tallygrad: interrupted by SIGINT\n"


@pytest.mark.parametrize("name", ["meta", "cuda"])
@pytest.mark.parametrize(
    "words", [["train", "--model", "mlp", "--max-steps", "1"], ["profile", "mlp", "--steps", "1"]]
)
def test_options_choose_the_backend_not_the_environment(
    tmp_path: Path, name: str, words: list[str]
) -> None:
    words += ["--backend", "numpy"]
    command = [sys.executable, "-P", "-m", "tallygrad.trainer", *words]
    env = {**os.environ, "TALLYGRAD_BACKEND": name}
    done = subprocess.run(
        command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr


def test_recipes_are_options_under_those_of_file_and_flags(tmp_path: Path) -> None:
    plain = config.gather(None, {}, "cifar10-resnet20")
    assert plain["model"] == "resnet20" and plain["epochs"] == 8
    file = write(tmp_path, "epochs = 3\nlr = 0.5")
    values = config.gather(file, {"lr": 0.25}, "cifar10-resnet20")
    assert values == {**plain, "epochs": 3, "lr": 0.25}
    with pytest.raises(UserError, match=r"^--recipe: unknown recipe 'cifar'"):
        config.gather(None, {}, "cifar")


def test_another_optimizer_leaves_out_the_recipes_options_of_its_own() -> None:
    usual = config.gather(None, {}, "cifar10-94")
    assert config.gather(None, {"optimizer": "sgd", "lr": 0.1}, "cifar10-94") == usual | {"lr": 0.1}
    other = config.gather(None, {"optimizer": "adamw"}, "cifar10-94")
    assert other == {
        "optimizer": "adamw", "model": "airbench", "dataset": "cifar10", "epochs": 10,
        "batch_size": 1000, "augment": "alternate,reflect=2", "label_smoothing": 0.2,
        "tta": "translate", "eval_every": 10,
    }  # fmt: skip


def test_help_names_every_augmentation() -> None:
    text = config.TrainConfig.__dataclass_fields__["augment"].metadata["help"]
    words = {word.strip(",;").partition("=")[0] for word in text.split()}
    assert words >= {*augment.NAMED, *augment.BARE, "standard", "none"}


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_can_be_trained(name: str) -> None:
    chosen = config.TrainConfig(**config.gather(None, {}, name))
    assert chosen.dataset in name and Recipe.of(chosen).task.metrics
    assert set(models.names()) >= {chosen.model}
