"""Verified steps of a single rank: flips in its memory and its computations are without effect."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallygrad.autograd import context, get_num_threads, manual_seed, nn, set_num_threads
from tallygrad.datasets import Source
from tallygrad.trainer.components import verified_steps
from tallygrad.trainer.components.logs import RunFolder
from tallygrad.trainer.config import TrainConfig
from tallygrad.trainer.distributed.comm import SerialComm
from tallygrad.trainer.distributed.verification.corruption import Corrupted
from tallygrad.trainer.loop import Training
from tallygrad.trainer.setup import Recipe

STEPS = 3


def flip(array: Any) -> None:
    """Flip a high bit of the exponent of the largest element."""
    at = np.unravel_index(array.argmax(), array.shape)
    array.view(np.uint32)[at] ^= np.uint32(1 << 26)


def small(data: Source) -> nn.Module:
    """Return a model with batch norm."""
    manual_seed(0)
    layers = nn.Conv2d(1, 2, 5, stride=4), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(72, 10))


def plain(data: Source) -> nn.Module:
    """Return a model without batch norm."""
    manual_seed(0)
    layers = nn.Conv2d(1, 2, 5, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(72, 20), nn.Tanh()
    return nn.Sequential(*layers, nn.Linear(20, 10))


@pytest.fixture
def make(tmp_path: Path, write_mnist: Any) -> Callable[..., Training]:
    data = write_mnist(tmp_path / "data", 24, 6)

    def make(model: Callable[[Source], nn.Module] = small, **options: Any) -> Training:
        config = TrainConfig(
            model="lenet", dataset="mnist", data_dir=str(data), batch_size=6, augment="none",
            log_every=1 << 30, **{"backend": "numpy", **options},
        )  # fmt: skip
        recipe = replace(Recipe.of(config), model=model)
        folder = RunFolder(Path(os.devnull), writes=False)
        return Training(config, SerialComm(), folder, recipe=recipe)

    return make


def run(training: Training, steps: int = STEPS) -> Iterator[int]:
    """Yield the number of each step before it is done, and once more at the end."""
    training.record.open()
    with context.using(backend=training.parts.backend, ledger=training.record.ledger):
        for step, batch in enumerate(training.parts.data.train.epoch(0)):
            yield step
            if step == steps:
                return
            training.step(batch)


def result(training: Training) -> list[bytes]:
    parts = training.parts
    slots = [slot for group in parts.update.optimizer.groups for slot in group.slots().values()]
    arrays = [
        parts.flat.data,
        *slots,
        *(copy for copies in parts.buffers.copies for copy in copies),
    ]
    return [np.array(training.state.sums).tobytes(), *[a.value.tobytes() for a in arrays]]


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(verified_steps, "warn", lines.append)
    return lines


def undisturbed(make: Callable[..., Training], **options: Any) -> list[bytes]:
    training = make(**options)
    [*run(training)]
    return result(training)


@pytest.mark.parametrize("model", [small, plain])
@pytest.mark.parametrize("options", [{}, {"backend": "llvm", "threads": 1, "micro_batches": 3}])
def test_a_verified_step_leaves_the_bits_of_a_usual_one(
    make: Callable[..., Training], said: list[str], model: Any, options: dict[str, Any]
) -> None:
    if options:
        pytest.importorskip("llvmlite", reason="llvmlite is not installed")
    expected = undisturbed(make, model=model, **options)
    for every in (1, 2):
        training = make(model, verify_every=every, **options)
        [*run(training)]
        assert result(training) == expected and not said


@pytest.mark.parametrize(
    ("what", "line"),
    [("weights", "weights of"), ("velocity", "velocity of"), ("statistics", "1.running_var")],
)
@pytest.mark.parametrize("every", [1, 2])
def test_what_changes_in_memory_between_steps_is_put_right(
    make: Callable[..., Training], said: list[str], what: str, line: str, every: int
) -> None:
    """Step 2 is verified in any case."""
    training = make(verify_every=every)
    for step in run(training):
        parts = training.parts
        if step == 1:
            slots = parts.update.optimizer.groups[0].slots()
            array = {"weights": parts.flat.data, "statistics": parts.buffers.copies[-1][1]}
            flip((array.get(what) or slots["velocity"]).value)
    assert result(training) == undisturbed(make)
    (only,) = said
    assert only.startswith(f"step 2: corrupted: rank 0: {line}") and "changed; repaired" in only


@pytest.mark.parametrize("backend", ["numpy", "llvm"])
@pytest.mark.parametrize("every", [1, 2])
def test_what_changes_in_the_narrow_copy_has_no_effect(
    make: Callable[..., Training], said: list[str], backend: str, every: int
) -> None:
    """It is made anew in verified steps; step 2 is one in any case."""
    pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    if backend == "llvm":
        pytest.importorskip("llvmlite", reason="llvmlite is not installed")
    options: dict[str, Any] = {"backend": backend, "precision": "bf16", "threads": 1}
    training = make(verify_every=every, **options)
    for step in run(training):
        copy = training.parts.flat.data.storage.narrow
        assert copy is not None and (copy.array is not None) == (step > 0)
        if step == 1 and copy.array is not None:
            copy.array.value.view(np.uint16)[:] ^= 1 << 8
    assert result(training) == undisturbed(make, **options) and not said


@pytest.mark.parametrize("call", [0, 1])
@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("gradient", "rank 0: wrong gradient of 4.weight"),
        ("statistics", "rank 0: wrong statistics of "),
        ("images", "rank 0: wrong statistics of 1.running_mean"),
    ],
)
def test_what_is_computed_wrongly_is_computed_again(
    make: Callable[..., Training], said: list[str], call: int, what: str, line: str
) -> None:
    training = make(verify_every=1)
    inner, calls = training.verification._run, []

    def running(branch: Any, batch: Any, sync: Any, use: Any) -> Any:
        calls.append(batch)
        due = len(calls) == 3 + call  # of step 2
        if due and what == "images":
            flip(batch.images)
        rows = inner(branch, batch, sync, use)
        if due and what == "gradient":
            flip(training.parts.flat.grad.value[:720])  # of 4.weight
        if due and what == "statistics":
            flip(training.parts.buffers.copies[-1][0].value)
        return rows

    training.verification._run = running  # type: ignore[method-assign]
    [*run(training)]
    assert len(calls) == 2 * (STEPS + 1)
    assert said and all(each.startswith(f"step 2: corrupted: {line}") for each in said)
    assert result(training) == undisturbed(make)


@pytest.mark.parametrize("call", [0, 1])
@pytest.mark.parametrize(
    ("module", "what"),
    [(None, "input of 0"), ("0", "input of 3"), ("1", "input of 3"), ("4", "input of 5"),
     ("5", "input of the loss")],
)  # fmt: skip
def test_without_batch_norm_the_layer_that_read_something_wrong_is_named(
    make: Callable[..., Training], said: list[str], call: int, module: str | None, what: str
) -> None:
    training = make(plain, verify_every=1, micro_batches=2)
    name, calls = module or "0", []
    layer = dict(training.parts.model.named_modules())[name]
    forward = layer.forward

    def flipping(x: Any) -> Any:
        calls.append(x)
        due = len(calls) == 5 + 2 * call  # the first micro-batch of step 2
        if due and module is None:
            flip(x.array.value)
        y = forward(x)
        if due and module is not None:
            flip(y.array.value)
        return y

    layer.forward = flipping  # type: ignore[method-assign]
    [*run(training)]
    assert said and all(
        each.startswith(f"step 2: corrupted: rank 0: wrong {what}") for each in said
    )
    assert result(training) == undisturbed(make, model=plain, micro_batches=2)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Compute in one thread, as recordings need."""
    before = get_num_threads()
    set_num_threads(1)
    yield
    set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("model", [small, plain])
def test_verified_steps_are_replayed(make: Callable[..., Training], model: Any) -> None:
    """Those of a model whose running statistics tell its layers apart are usual steps."""
    pytest.importorskip("llvmlite", reason="llvmlite is not installed")
    training = make(model, verify_every=2, backend="llvm", threads=1, micro_batches=1)
    [*run(training)]
    steps: Any = {training.passes.train_step, training.passes.verified_step}
    assert len(steps) == (1 if model is small else 2)
    assert [len(kept) for step in steps for _, kept in step.captured.all()] == [1] * len(steps)
    assert len({step.shared for step in steps}) == 1


def test_an_order_of_samples_that_changed_is_made_again(
    make: Callable[..., Training], said: list[str]
) -> None:
    training = make(verify_every=1)
    for step in run(training):
        if step == 1:
            assert training.verification._order is not None
            _, order = training.verification._order
            order[6] = order[11]
    (only,) = said
    assert only.startswith("step 2: corrupted: rank 0: wrong statistics of 1.running_mean")
    assert result(training) == undisturbed(make)


def test_the_run_ends_where_it_is_to_stop(make: Callable[..., Training]) -> None:
    training = make(verify_every=1, on_corruption="stop")
    with pytest.raises(Corrupted, match=r"step 2: corrupted: rank 0: weights of .* changed"):
        for step in run(training):
            if step == 1:
                flip(training.parts.flat.data.value)


def test_a_fault_that_stays_ends_the_run(make: Callable[..., Training]) -> None:
    training = make(verify_every=1)
    inner, calls = training.verification._run, []

    def running(*arguments: Any) -> Any:
        rows = inner(*arguments)
        calls.append(0)
        if len(calls) % 2:
            flip(training.parts.flat.grad.value[:720])  # of 4.weight
        return rows

    training.verification._run = running  # type: ignore[method-assign]
    with pytest.raises(Corrupted, match=r"5 attempts: rank 0: other gradient of 4\.weight"):
        [*run(training)]
