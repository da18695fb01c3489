"""Which options of distributed training go together: as documented, and with which bits."""

from __future__ import annotations

import json
import re
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest

from tallygrad.trainer import cli
from tallygrad.trainer.combinations import check, inherit, obstacle
from tallygrad.trainer.config import TrainConfig, flag
from tallygrad.trainer.errors import UserError

PAGE = Path(__file__).resolve().parents[3] / "docs" / "exchange.md"
GIVEN: dict[str, Any] = {
    "overlap": "poll", "bucket_mb": 0.001, "hierarchical": "on", "shard_optimizer": True,
    "compress": "bf16", "sync_batch_norm": True, "local_steps": 2, "verify_every": 2,
    "clip_norm": 0.5,
}  # fmt: skip
WITH_ALL: dict[str, Any] = {
    "micro_batches": 4, "compare_every": 1, "memory_copy_every": 1, "on_lost_rank": "shrink",
    "clip_value": 0.1,
}  # fmt: skip
COURSES = ("compress", "sync_batch_norm", "local_steps", "clip_norm")  # which change the results

TRAIN = """
import json, os, sys
from dataclasses import replace
from pathlib import Path
from tallygrad.autograd import manual_seed, nn
from tallygrad.trainer.components.logs import RunFolder
from tallygrad.trainer.config import TrainConfig
from tallygrad.trainer.distributed.comm import connect
from tallygrad.trainer.distributed.failures.guard import guard
from tallygrad.trainer.loop import Training
from tallygrad.trainer.setup import Recipe

comm, out = connect(), Path(sys.argv[1])

def model(data):
    manual_seed(0)
    layers = nn.Conv2d(1, 2, 5, stride=4), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(72, 10))

def bits(number, options):
    config = TrainConfig(**{
        "dataset": "mnist", "data_dir": sys.argv[2], "batch_size": 8, "micro_batches": 4,
        "max_steps": 3, "augment": "none", "backend": "numpy", "compare_every": 0, **options,
    })
    recipe = replace(Recipe.of(config), model=model)
    folder = RunFolder(out / str(number), comm.rank == 0)
    training = Training(config, comm, folder, recipe=recipe)
    result = training.run()
    slots = [slot.value for group in training.parts.update.optimizer.groups
             for slot in group.slots().values()]
    names = {n for group in training.parts.update.optimizer.groups for n in group.slots()}
    size = sum(slot.size for slot in slots) / len(names)
    assert (size < training.parts.flat.data.spec.size) == config.shard_optimizer, size
    weights = training.parts.flat.data.value
    return weights.tobytes().hex() + repr(result["train_loss"]) + repr(result["test_loss"])

with guard(comm):
    found = [bits(*item) for item in enumerate(json.loads(sys.argv[3]))]
    every = comm.gather_bytes(json.dumps(found).encode())
    assert all(other == every[0] for other in every)
    if comm.rank == 0:
        (out / "bits.json").write_text(json.dumps(found))
"""


def table() -> dict[frozenset[str], str]:
    """Return what the page says of each pair."""
    section = PAGE.read_text("utf-8").partition("## What goes with what")[2]
    lines = [line for line in section.partition("\n## ")[0].splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines]
    found: dict[frozenset[str], str] = {}
    names = [re.sub(r"[`-]+", "_", head).strip("_") for head in rows[0]]
    for row in rows[2:]:
        name = row[0].split()[0].strip("`-").replace("-", "_")
        for other, cell in zip(names, row[1:], strict=False):
            if cell:
                found[frozenset({name, other})] = cell
    return found


def test_the_table_of_the_page_is_that_of_the_code() -> None:
    said = table()
    assert said.keys() == {frozenset(pair) for pair in combinations(GIVEN, 2)}
    for (one, other), cell in ((sorted(pair), cell) for pair, cell in said.items()):
        config = TrainConfig(**{name: GIVEN[name] for name in (one, other)})
        refused = ""
        try:
            check(config)
        except UserError as error:
            refused = str(error)
        assert bool(refused) == (cell == "no"), (one, other, cell)
        if refused:
            assert flag(one) in refused and flag(other) in refused
            assert all(str(GIVEN[n]) in refused for n in (one, other) if GIVEN[n] is not True)


def test_what_goes_with_all_others() -> None:
    section = PAGE.read_text("utf-8").partition("## What goes with what")[2]
    for (one, value), (other, given) in product(WITH_ALL.items(), (GIVEN | WITH_ALL).items()):
        check(TrainConfig(**{one: value, other: given}))
        assert f"`{flag(one)}`" in section.partition("\n## ")[0]


@pytest.mark.parametrize(("options", "said"), [
    ({"outer_lr": 0.5}, "--outer-lr: expected 1.0 without --local-steps, got 0.5"),
    ({"outer_momentum": 0.9}, "--outer-momentum: expected 0.0 without --local-steps, got 0.9"),
    ({"on_corruption": "stop"}, "--on-corruption: expected continue without --verify-every, got"),
])  # fmt: skip
def test_what_has_no_effect_alone_is_refused(options: dict[str, Any], said: str) -> None:
    check(TrainConfig(**options, **({"verify_every": 3} if "on_corruption" in options else
                                    {"local_steps": 3})))  # fmt: skip
    with pytest.raises(UserError, match=re.escape(said)):
        check(TrainConfig(**options))


@pytest.mark.parametrize(("before", "chosen", "reset"), [
    ({"verify_every": 3, "on_corruption": "stop"}, {"verify_every": 0}, {"on_corruption"}),
    ({"local_steps": 3, "outer_lr": 0.5, "outer_momentum": 0.9}, {"local_steps": 0},
     {"outer_lr", "outer_momentum"}),
    ({"bucket_mb": 4.0, "overlap": "poll", "hierarchical": "on"}, {"local_steps": 3},
     {"bucket_mb", "overlap", "hierarchical"}),
    ({"hierarchical": "on"}, {"compress": "bf16"}, {"hierarchical"}),
    ({"hierarchical": "off"}, {"shard_optimizer": True}, {}),
])  # fmt: skip
def test_options_without_effect_are_not_inherited(
    before: dict[str, Any], chosen: dict[str, Any], reset: set[str]
) -> None:
    made = inherit(TrainConfig(**{**before, **chosen}), chosen)
    check(made)
    assert made == TrainConfig(**{n: v for n, v in before.items() if n not in reset} | chosen)
    for name in reset:  # given now, they are refused
        again = {**chosen, name: before[name]}
        with pytest.raises(UserError, match=flag(name)):
            check(inherit(TrainConfig(**{**before, **again}), again))


@pytest.mark.parametrize(("before", "now", "reset"), [
    (["--verify-every", "2", "--on-corruption", "stop"], ["--verify-every", "0"], "on_corruption"),
    (["--bucket-mb", "4"], ["--local-steps", "2"], "bucket_mb"),
    (["--local-steps", "2", "--outer-lr", "0.5"], ["--local-steps", "0"], "outer_lr"),
])  # fmt: skip
def test_a_run_goes_on_without_what_its_options_rule_out(
    tmp_path: Path, write_mnist: Any, before: list[str], now: list[str], reset: str
) -> None:
    write_mnist(tmp_path / "data", 24, 6)
    words = [
        "train", "--model", "mlp", "--dataset", "mnist", "--data-dir", str(tmp_path / "data"),
        "--batch-size", "8", "--backend", "numpy", "--out", str(tmp_path / "run"),
    ]  # fmt: skip
    assert cli.main([*words, *before, "--max-steps", "1"]) == 0
    assert cli.main([*words, *now, "--resume", "auto"]) == 0
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record[reset] == getattr(TrainConfig, reset)


@pytest.mark.parametrize("chosen", ["local_steps", "other"])
def test_options_that_do_more_than_exchange_are_never_dropped(chosen: str) -> None:
    for name in ("compress", "shard_optimizer", "sync_batch_norm", "verify_every"):
        config = TrainConfig(**{name: GIVEN[name]}, local_steps=2)
        with pytest.raises(UserError, match="--local-steps: expected 0 with "):
            check(inherit(config, {name if chosen == "other" else chosen}))


def test_off_asks_for_nothing_and_auto_gives_way() -> None:
    for name in ("compress", "shard_optimizer", "local_steps"):
        for value in ("off", "auto"):
            config = TrainConfig(hierarchical=value, **{name: GIVEN[name]})
            check(config)
            assert obstacle(config, "hierarchical").startswith(flag(name))
    assert obstacle(TrainConfig(overlap="poll", verify_every=1), "hierarchical") == ""


def test_options_that_go_together_give_the_bits_that_they_promise(
    mpirun: Any, tmp_path: Path, write_mnist: Any
) -> None:
    """Each pair on two ranks: only four of the options change what is learned."""
    write_mnist(tmp_path / "data", 24, 6)
    every = GIVEN | {name: WITH_ALL[name] for name in ("compare_every", "memory_copy_every")}
    runs: list[dict[str, Any]] = [{}, *({name: every[name]} for name in COURSES)]
    for one, other in combinations(every, 2):
        pair = {name: every[name] for name in (one, other)}
        if table().get(frozenset(pair)) != "no" and not {*pair} <= {*COURSES}:
            runs.append(pair)
    averaging = {"ema": 0.5, "lookahead": "2,0.5", "optimizer": "adamw"}
    extra = [averaging, averaging | {"shard_optimizer": True}, averaging | {"verify_every": 1}]
    arguments = [str(tmp_path), str(tmp_path / "data"), json.dumps(runs + extra)]
    done = mpirun(2, TRAIN, *arguments, timeout=250)
    assert done.returncode == 0 and "corrupted" not in done.stderr, done.stderr
    found = json.loads((tmp_path / "bits.json").read_text())
    count = 1 + len(COURSES)
    plain = {frozenset(run): bits for run, bits in zip(runs[:count], found, strict=False)}
    assert len({*plain.values()}) == count and len(runs) > 36
    *found, averaged, shared, verified = found
    assert averaged == shared == verified and averaged not in found
    for run, bits in zip(runs, found, strict=True):
        assert bits == plain[frozenset(name for name in run if name in COURSES)], run
