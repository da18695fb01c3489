"""Options: defaults < file < flags, and what is said of bad ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from tallygrad.trainer import cli, config
from tallygrad.trainer.errors import UserError


def write(folder: Path, text: str) -> str:
    file = folder / "options.toml"
    file.write_text(text)
    return str(file)


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    file = write(tmp_path, 'model = "mlp"\nlr = 1\nbatch-size = 32\n')
    made = config.load(file, {"lr": 0.5})
    assert (made.model, made.lr, made.batch_size, made.epochs) == ("mlp", 0.5, 32, 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("modle = 'mlp'", "unknown key 'modle'; did you mean 'model'?"),
        ("epochs = 1.5", "epochs: expected int, got 1.5"),
        ("epochs = true", "epochs: expected int, got True"),
        ("lr = 'x'", "lr: expected float, got 'x'"),
        ("lr = nan", "lr: nan is not a finite number"),
        ("batch-size = 0", "batch-size: 0 is less than 1"),
        ("momentum = 2.0", "momentum: 2.0 is more than 1.0"),
        ("schedule = 'cosin'", "schedule: unknown value 'cosin'; did you mean 'cosine'?"),
        ("dtype = 'int8'", "dtype: unknown value 'int8'; there are float32, float64"),
        ("[model]\nname = 'x'", "[model] is a table; keys stand at the top level"),
        ("model = ", "not TOML"),
    ],
)
def test_bad_files_give_one_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        config.load(write(tmp_path, text), {})
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--config .*none.toml: No such file"):
        config.load(str(tmp_path / "none.toml"), {})


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["train", "--modle", "mlp"], "unknown option --modle; did you mean '--model'?"),
        (["train", "--lr", "fast"], "argument --lr: invalid float value: 'fast'"),
        (["train", "--epochs=0"], "--epochs: 0 is less than 1"),
        (["train", "--mod", "mlp"], "unknown option --mod;"),
        (["tarin"], "invalid choice: 'tarin'"),
        ([], "COMMAND"),
    ],
)
def test_bad_flags_give_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str], words: list[str], complaint: str
) -> None:
    assert cli.main(words) == 2
    said = capsys.readouterr()
    assert complaint in said.err and said.err.count("\n") == 1 and not said.out


def test_only_the_first_rank_complains(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PMI_RANK", "1")
    assert cli.main(["train", "--lr", "-1"]) == 2
    assert capsys.readouterr().err == ""
