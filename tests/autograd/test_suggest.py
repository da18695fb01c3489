"""Which known name a mistyped or foreign one stands for, and that nonsense is not suggested."""

from __future__ import annotations

import pytest

from tallygrad.autograd.suggest import LISTED, closest, nearest, typing_errors, unknown
from tallygrad.trainer import cli

OPTIONS = ("--model", "--dataset", "--lr", "--batch-size", "--target", "--out", "--dtype", "--tune")


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("--modle", OPTIONS, "--model"),
        ("--learning-rate", OPTIONS, "--lr"),
        ("--learning_rate", OPTIONS, "--lr"),
        ("--bs", OPTIONS, "--batch-size"),
        ("--batch", OPTIONS, "--batch-size"),
        ("--BATCH_SIZE", OPTIONS, "--batch-size"),
        ("--arch", OPTIONS, "--model"),
        ("--output-dir", OPTIONS, "--out"),
        ("--optimizer", OPTIONS, None),
        ("--horizontal-flip", OPTIONS, None),
        ("trian", ("train", "eval", "bill"), "train"),
        ("evaluate", ("train", "eval", "bill"), "eval"),
        ("frobnicate", ("train", "eval", "bill"), None),
        ("minst", ("digits", "mnist", "cifar10"), "mnist"),
        ("CIFAR-10", ("digits", "mnist", "cifar10"), "cifar10"),
        ("cifar", ("digits", "cifar10", "cifar100"), "cifar10"),
        ("imagenet", ("digits", "mnist", "cifar10"), None),
        ("fp32", ("float32", "float64"), "float32"),
        ("int8", ("float32", "float64"), None),
        ("mca", ("mac", "add"), "mac"),
        ("17", ("11", "13", "16", "19"), None),  # another number is another thing
        ("", ("", "a"), None),
    ],
)
def test_only_what_is_near_is_suggested(
    name: str, known: tuple[str, ...], expected: str | None
) -> None:
    assert closest(name, known) == expected


@pytest.mark.parametrize(
    ("a", "b", "errors"),
    [("", "", 0), ("abc", "", 3), ("ab", "ba", 1), ("abc", "abd", 1), ("abc", "ca", 3)],
)
def test_typing_errors_by_hand(a: str, b: str, errors: int) -> None:
    assert typing_errors(a, b) == typing_errors(b, a) == errors


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["train", "--learning-rate", "1"], "unknown option --learning-rate; did you mean '--lr'?"),
        (["train", "--optimizer", "lion"], "unknown optimizer 'lion'; choose from sgd, adam"),
        (["train", "--max-grad-norm", "1"], "--max-grad-norm; did you mean '--clip-norm'?"),
        (["train", "--np", "4"], "--np: ranks come from the launcher"),
        (["train", "--zzz"], "unknown option --zzz (see tallygrad train --help)"),
        (
            ["train", "--dataset", "minst"],
            "--dataset: unknown data set 'minst'; did you mean 'mnist'?",
        ),
        (["train", "--dtype", "double"], "unknown value 'double'; did you mean 'float64'?"),
        (["cost", "lenet", "--batch-size", "2"], "--batch-size; did you mean '--batch'?"),
        (["cost", "lenet", "--machine", "eyeris"], "did you mean 'eyeriss'?"),
        (["plan", "lenet", "--network", "infiniband"], "did you mean 'infiniband-hdr'?"),
        (["train", "lenet"], "train: unexpected argument 'lenet': models are named by --model"),
        (["--verison"], "got option --verison; did you mean '--version'?"),
        ([], "expected a command, one of train, eval, predict, inspect, models, data, cost,"),
        (["trian"], "unknown command 'trian'; did you mean 'train'?"),
        (["frobnicate"], "unknown command 'frobnicate'; choose from train, eval,"),
    ],
)
def test_commands_suggest_in_one_line(
    capsys: pytest.CaptureFixture[str], words: list[str], complaint: str
) -> None:
    assert cli.main(words) == 2
    said = capsys.readouterr()
    assert complaint in said.err and said.err.count("\n") == 1 and not said.out


@pytest.mark.parametrize(
    ("known", "hint"),
    [
        (["alpha", "beta"], "; did you mean 'alpha'?"),
        (["x", "y"], "; choose from x, y"),
        ([f"n{i}" for i in range(LISTED + 1)], ""),
        ([], "; there are none"),
    ],
)
def test_a_hint_is_the_nearest_name_or_a_short_list(known: list[str], hint: str) -> None:
    assert nearest("alpa", known) == hint
    assert str(unknown("letter", "alpa", known)) == f"unknown letter 'alpa'{hint}"
