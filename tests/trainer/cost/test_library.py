"""The cost package as a library: public names, what loads when, and how deep a call goes."""

from __future__ import annotations

import subprocess
import sys
from types import FrameType

import pytest

from tallygrad.trainer import cost
from tallygrad.trainer.cli import main

ROOMS = 8  # modules of the trainer that a call is nested in at most


def test_every_public_name_is_there() -> None:
    assert all(getattr(cost, name) is not None for name in cost.__all__)
    assert sorted(cost.__all__) == sorted(cost._LAZY)
    with pytest.raises(AttributeError, match="has no attribute 'prices'"):
        cost.prices  # noqa: B018


def test_the_package_alone_loads_no_numpy() -> None:
    code = "import sys, tallygrad.trainer.cost; sys.exit('numpy' in sys.modules)"
    subprocess.run([sys.executable, "-P", "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("machine", ["horowitz45", "eyeriss"])
def test_a_call_is_nested_in_few_modules(machine: str, capsys: pytest.CaptureFixture[str]) -> None:
    """From the command line down to the arithmetic of a machine."""
    deepest: list[str] = []

    def look(frame: FrameType, event: str, argument: object) -> None:
        nonlocal deepest
        stack, caller = list[str](), frame if event == "call" else None
        while caller is not None:
            name = str(caller.f_globals.get("__name__"))
            if name.startswith("tallygrad.trainer.") and name not in stack:
                stack.append(name)
            caller = caller.f_back
        deepest = max(deepest, stack, key=len)

    words = ["cost", "lenet", "--training", "--machine", machine]
    assert main(words) == 0  # which imports all of it
    before = sys.getprofile()
    sys.setprofile(look)
    try:
        assert main(words) == 0
    finally:
        sys.setprofile(before)
    assert 4 < len(deepest) <= ROOMS, deepest
    assert f"training on {machine}" in capsys.readouterr().out


def test_the_optimizer_of_a_step_has_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cost", "mlp", "--training", "--optimizer", "sgd", "--json"]) == 0
    named = capsys.readouterr().out
    assert main(["cost", "mlp", "--training", "--json"]) == 0
    assert capsys.readouterr().out == named
    assert main(["cost", "mlp", "--training", "--optimizer", "sdg"]) == 2
    assert "--optimizer: unknown optimizer 'sdg'; did you mean 'sgd'?" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["cost", "profile"])
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["mlp", "--optimizer", "sgd"], "--optimizer: expected --training too, got sgd"),
        (["autoencoder", "--classes", "5"],
         "--classes: expected none, since autoencoder has no option classes, got 5"),
        (["mlp", "--training", "--optimizer", "sdg"], "--optimizer: unknown optimizer 'sdg'"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit(
    command: str, words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, *words]) == 2
    assert expected in capsys.readouterr().err


def test_what_is_counted_of_an_optimizer() -> None:
    conventions = cost.cost_report(cost.count("mlp", 1, (1, 28, 28), 10, training=True)).conventions
    assert conventions["update"] == "sgd with momentum and weight decay"
