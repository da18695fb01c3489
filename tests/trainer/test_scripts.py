"""Scripts of the user: the same bits as the command's, on any number of ranks."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
import tallygrad.trainer as tg
from tallygrad import datasets
from tallygrad.autograd import models, nn, optim
from tallygrad.datasets import ImageDataset, IndexLoader, Loader
from tallygrad.trainer import session, user_code
from tallygrad.trainer.cli import main
from tallygrad.trainer.components.checkpoint import load
from tallygrad.trainer.distributed.comm import SerialComm
from tallygrad.trainer.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = '''
"""Train a net with batch norm and dropout in two parts, going on from a checkpoint."""
import json, sys
import numpy as np
import tallygrad.autograd as ag
import tallygrad.trainer as tg
from tallygrad.autograd import nn, optim
from tallygrad.datasets import Loader, load

class Net(nn.Module):
    def __init__(self, input_shape, classes):
        self.conv = nn.Conv2d(input_shape[0], 4, 5, stride=4)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.3)
        self.fc = nn.Linear(144, classes)
        self.register_buffer("seen", ag.zeros(1, dtype=np.int64))

    def forward(self, x):
        if self.training:
            with ag.no_grad():
                self.seen += len(x)
        return self.fc(self.drop(self.norm(self.conv(x)).relu().flatten(1)))

def train(data, out, epochs, goes_on):
    ag.manual_seed(0)
    model = Net((1, 28, 28), 10)
    last = [*model.fc.parameters()]
    others = [p for p in model.parameters() if all(p is not q for q in last)]
    groups = [{"params": others}, {"params": last}]
    optimizer = optim.SGD(groups, lr=0.02, momentum=0.9, weight_decay=5e-4)
    optimizer.add(optim.EMA(0.9))
    train = Loader(load("mnist", "train", data), 20)
    test = Loader(load("mnist", "test", data), 11, shuffle=False)
    model, optimizer, train, test = tg.distribute(
        model, optimizer, train, test, micro_batches=6, clip_norm=0.5
    )
    first = tg.load(out, model, optimizer)["epoch"] + 1 if goes_on else 0
    for epoch in range(first, epochs):
        model.train()
        for batch in train:
            scores = model(ag.from_numpy(batch.images))
            loss = ag.cross_entropy(scores, ag.from_numpy(batch.labels))
            optimizer.zero_grad()
            optimizer.backward(loss)
            optimizer.step()
    model.eval()
    correct = 0
    with optimizer.averaged(), ag.no_grad():
        for batch in test:
            scores = model(ag.from_numpy(batch.images)).numpy()
            correct += int((scores.argmax(1) == batch.labels).sum())
        figures = tg.evaluate(model, test)
    assert tg.sum(correct) == round(figures["accuracy"] * 29)
    tg.save(out, model, optimizer, epoch=epoch)
    return figures, optimizer

if __name__ == "__main__":
    train(sys.argv[1], sys.argv[2], 1, False)
    figures, optimizer = train(sys.argv[1], sys.argv[2], 2, True)
    print(json.dumps([tg.size(), optimizer.steps, figures]))
'''
WORDS = ["--dataset", "mnist", "--batch-size", "20", "--micro-batches", "6", "--epochs", "2",
         "--schedule", "constant", "--augment", "none", "--clip-norm", "0.5", "--ema", "0.9",
         "--eval-batch-size", "11", "--backend", "numpy"]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, write_mnist: Any) -> Path:
    """A folder with the script, tiny data, and a run of the command with the script's model."""
    folder = tmp_path_factory.mktemp("scripts")
    (folder / "script.py").write_text(SCRIPT)
    data = write_mnist(folder / "data", 43, 29)
    words = ["train", "--model", f"{folder / 'script.py'}:Net", "--data-dir", str(data), *WORDS]
    assert main([*words, "--out", str(folder / "run")]) == 0
    return folder


@pytest.fixture
def alone_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process as the only rank."""
    monkeypatch.setattr(session, "_joined", [SerialComm()])


def bits(path: Path) -> dict[str, bytes]:
    """Return all tensors of a checkpoint."""
    return {name: value.tobytes() for name, value in load(path).tensors.items()}


@pytest.mark.slow
def test_a_script_has_the_bits_of_the_command_on_more_ranks_than_micro_batches(
    mpirun: Any, place: Path
) -> None:
    """Some of the last step's micro-batches are empty, and one of seven ranks has none."""
    out, expected = place / "net.h5", place / "run" / "checkpoints" / "step-00000006.h5"
    result = json.loads((place / "run" / "result.json").read_text())
    for ranks in (1, 7):
        done = mpirun(ranks, [str(place / "script.py"), str(place / "data"), str(out)])
        assert done.returncode == 0, done.stderr
        (line,) = done.stdout.splitlines()  # rank 0 alone prints
        size, steps, figures = json.loads(line)
        assert (size, steps) == (ranks, 6)
        assert figures == {"loss": result["test_loss"], "accuracy": result["test_accuracy"]}
        assert bits(out) == bits(expected)
        out.unlink()


def test_fit_has_the_bits_of_the_command(place: Path, alone_here: None) -> None:
    net = user_code.load("--model", f"{place / 'script.py'}:Net").value
    splits = [datasets.load("mnist", split, place / "data") for split in ("train", "test")]
    options = {word[2:].replace("-", "_"): value for word, value in zip(
        WORDS[2:-2:2], WORDS[3:-2:2], strict=True)}  # fmt: skip
    options = {k: json.loads(v) if v[0].isdigit() else v for k, v in options.items()}
    events: list[str] = []
    history = tg.fit(
        net, *splits, out=str(place / "fitted"), backend="numpy", log_every=1,
        callbacks=[lambda event: events.append(event["event"])], **options,
    )  # fmt: skip
    result = json.loads((place / "run" / "result.json").read_text())
    assert history.result["test_loss"] == result["test_loss"] == history["test_loss"][-1]
    assert events == [*["step"] * 3, "epoch"] * 2
    newest = "checkpoints/step-00000006.h5"
    assert bits(place / "fitted" / newest) == bits(place / "run" / newest)
    assert main(["eval", str(place / "fitted"), "--data-dir", str(place / "data"),
                 "--model", f"{place / 'script.py'}:Net"]) == 0  # fmt: skip


def images(count: int) -> ImageDataset:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, 1, 4, 4), np.uint8)
    labels = rng.integers(0, 3, count)
    return ImageDataset("random", "train", pixels, labels, ("a", "b", "c"), (0.5,), (0.25,))


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


def optimizer_of(model: nn.Module) -> optim.Optimizer:
    """Return an optimizer with settings of single parameters."""
    optimizer = optim.SGD(model.parameters(), lr=0.1, weight_decay=0.5)
    optimizer.exempt_from_decay(p for p in model.parameters() if p.ndim == 1)
    optimizer.scale_rates((p for p in model.parameters() if p.ndim == 2), 2.0)
    return optimizer


Made = tuple[nn.Module, tg.DistributedOptimizer, tg.ShardedLoader]


@pytest.fixture
def made(alone_here: None) -> Made:
    ag.manual_seed(0)
    model = linear()
    return tg.distribute(model, optimizer_of(model), Loader(images(12), 6), micro_batches=3)


def loss_of(model: nn.Module, batch: Any) -> ag.Tensor:
    scores = model(ag.from_numpy(batch.images))
    return ag.cross_entropy(scores, ag.from_numpy(batch.labels))


def test_a_step_is_that_of_the_whole_batch(made: Made) -> None:
    model, optimizer, train = made
    ag.manual_seed(0)
    whole = linear()
    update = optimizer_of(whole)
    steps = []
    for batch in train:
        optimizer.backward(loss_of(model, batch))
        optimizer.step()
        steps.append((len(batch.labels), optimizer.steps))
    assert steps == [(2, 0), (2, 0), (2, 1), (2, 1), (2, 1), (2, 2)]
    for batch in Loader(images(12), 6):
        loss_of(whole, batch).backward()
        update.step()
        update.zero_grad()
    for p, q in zip(model.parameters(), whole.parameters(), strict=True):
        np.testing.assert_allclose(p.numpy(), q.numpy(), rtol=1e-5, atol=1e-7)


def test_batches_of_numbers_shard_data_of_the_script(alone_here: None) -> None:
    """Each sample once an epoch, and a step the gradient of the mean over its batch."""
    x = np.random.default_rng(0).standard_normal((10, 2)).astype(np.float32)
    y = x @ np.array([[1.0], [2.0]], np.float32)
    for micro_batches in (1, 3):
        ag.manual_seed(0)
        model = nn.Linear(2, 1)
        model, optimizer, train = tg.distribute(
            model, optim.SGD(model.parameters(), lr=0.3), IndexLoader(10, 4, seed=5),
            micro_batches=micro_batches,
        )  # fmt: skip
        numbers = []
        for _ in range(20):
            for batch in train:
                rows = batch.indices
                loss = ag.mse_loss(model(ag.from_numpy(x[rows])), ag.from_numpy(y[rows]))
                optimizer.backward(loss)
                optimizer.step()
                numbers.append(rows)
        assert sorted(np.concatenate(numbers)) == [*np.repeat(np.arange(10), 20)]
        assert optimizer.steps == 60
        np.testing.assert_allclose(model.weight.numpy(), [[1, 2]], atol=1e-3)
    with pytest.raises(TypeError, match="of a Loader, got that of IndexLoader"):
        tg.evaluate(model, train)


def no_step(model: nn.Module, optimizer: tg.DistributedOptimizer, batch: Any) -> None:
    optimizer.backward(loss_of(model, batch))


def plain_sweep(model: nn.Module, optimizer: tg.DistributedOptimizer, batch: Any) -> None:
    loss_of(model, batch).backward()
    optimizer.step()


def scheduled_step(model: nn.Module, optimizer: tg.DistributedOptimizer, batch: Any) -> None:
    optimizer.backward(loss_of(model, batch))
    optimizer.step()
    optim.lr_scheduler.StepLR(optimizer.optimizer, 1).step()


def clipped_part(model: nn.Module, optimizer: tg.DistributedOptimizer, batch: Any) -> None:
    optimizer.backward(loss_of(model, batch))
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)


def limited_part(model: nn.Module, optimizer: tg.DistributedOptimizer, batch: Any) -> None:
    optimizer.backward(loss_of(model, batch))
    nn.utils.clip_grad_value_(model.parameters(), 1.0)


def no_mean(model: nn.Module, optimizer: tg.DistributedOptimizer, batch: Any) -> None:
    scores = model(ag.from_numpy(batch.images))
    labels = ag.from_numpy(batch.labels)
    optimizer.backward(ag.cross_entropy(scores, labels, reduction="none"))


def two_sweeps(model: nn.Module, optimizer: tg.DistributedOptimizer, batch: Any) -> None:
    no_step(model, optimizer, batch)
    no_step(model, optimizer, batch)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (no_step, "expected optimizer.step() once for each micro-batch"),
        (plain_sweep, "step: expected optimizer.backward(loss) before it, got none"),
        (scheduled_step, "expected step() after a loop over a loader of distribute(), got it with"),
        (clipped_part, "loop over a loader of distribute(); distribute(.., clip_norm=X) clips the"),
        (limited_part, "distribute(.., clip_value=X) clips the batch's"),
        (
            no_mean,
            "backward: expected the mean loss of the samples, one number, got a tensor of sh",
        ),
        (two_sweeps, "expected one call for each micro-batch"),
    ],
)
def test_a_loop_that_would_train_something_else_is_refused(
    made: Made, body: Callable[..., None], message: str
) -> None:
    model, optimizer, train = made
    with pytest.raises((RuntimeError, ValueError), match=re.escape(message)):
        for batch in train:
            body(model, optimizer, batch)


def test_a_loop_left_within_a_step_is_refused_and_evaluation_needs_no_step(made: Made) -> None:
    model, optimizer, train = made
    with pytest.raises(RuntimeError, match=r"in a loop over a loader from distribute\(\)"):
        optimizer.backward(loss_of(model, next(iter(Loader(images(12), 6)))))
    for batch in train:
        optimizer.backward(loss_of(model, batch))
        optimizer.step()
        break
    for more in (lambda: next(iter(train)), lambda: tg.save("none.h5", model, optimizer)):
        with pytest.raises(RuntimeError, match="got one with 1 of 3 micro-batches"):
            more()
    model.eval()
    assert sum(len(batch.labels) for batch in train) == 12
    with pytest.raises(UserError, match="expected batches of at least 9 samples"):
        tg.distribute(linear(), optim.SGD(linear().parameters(), 0.1), Loader(images(12), 6),
                      micro_batches=9)  # fmt: skip


@pytest.mark.parametrize(("wrong", "kind", "message"), [
    (lambda m, o, t: tg.distribute(o, m, t), TypeError, "expected a Module of tallygrad, got SGD"),
    (lambda m, o, t: tg.distribute(m, t), TypeError, "expected an Optimizer of tallygrad, got Loa"),
    (lambda m, o, t: tg.distribute(m, o, [t]), TypeError, "loader 0 to be a DataLoader, L"),
    (lambda m, o, t: tg.distribute(m, o, t, clip_norm=-1), ValueError, "at least 0, got -1 and 0"),
    (lambda m, o, t: tg.evaluate(m, t), TypeError, "distribute() makes of a Loader, got Loader"),
    (lambda m, o, t: tg.save("none.h5", m, o), TypeError, "optimizer that distribute() returned"),
    (lambda m, o, t: tg.load("none.h5", m, o), TypeError, "optimizer that distribute() returned"),
])  # fmt: skip
def test_other_objects_than_those_of_distribute_are_refused(
    alone_here: None, wrong: Callable[..., object], kind: type[Exception], message: str
) -> None:
    model = linear()
    with pytest.raises(kind, match=re.escape(message)):
        wrong(model, optimizer_of(model), Loader(images(12), 6))


def test_rates_can_be_set(made: Made) -> None:
    _, optimizer, _ = made
    optimizer.param_groups[0]["lr"] = 0.3
    assert optimizer.lr == 0.3 and optimizer.rates == [0.3]
    optimizer.lr = 0.4
    assert optimizer.optimizer.rates == [0.4] and len(optimizer.param_groups[0]["params"]) == 2
    with pytest.raises(ValueError, match="SGD: expected lr of at least 0, got -1"):
        optimizer.lr = -1.0
    with pytest.raises(KeyError, match=r"SGD: expected one of lr, .*momentum, .*, got rate"):
        optimizer.param_groups[0]["rate"] = 1.0
    assert optimizer.rates == [0.4]


def test_a_scheduler_steps_between_epochs(made: Made) -> None:
    model, optimizer, train = made
    scheduler = optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    for batch in train:
        optimizer.backward(loss_of(model, batch))
        optimizer.step()
    scheduler.step()
    assert optimizer.rates == optimizer.optimizer.rates == [0.05]


def test_a_hook_runs_after_each_update(made: Made) -> None:
    """Not after each micro-batch: there a scheduler may step, and an average is made by hand."""
    model, optimizer, train = made
    scheduler = optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    seen: list[Any] = []
    optimizer.register_step_post_hook(lambda *_: scheduler.step())
    handle = optimizer.register_step_post_hook(lambda *given: seen.append(given))
    rates = []
    for batch in train:
        optimizer.backward(loss_of(model, batch))
        optimizer.step()
        assert optimizer.in_loop
        rates.append(optimizer.lr)
    assert rates == [0.1, 0.1, 0.05, 0.05, 0.05, 0.025]
    assert seen == [(optimizer, (), {})] * 2
    handle.remove()
    optimizer.optimizer.step()
    assert len(seen) == 2 and optimizer.lr == 0.0125


def test_a_callback_ends_a_fit_at_the_end_of_an_epoch(alone_here: None) -> None:
    data = images(12)
    history = tg.fit(
        linear(), data, data, epochs=9, batch_size=6, optimizer="adam", lr=0.01, backend="numpy",
        callbacks=[lambda event: event["event"] == "epoch" and event["epoch"] == 2],
    )  # fmt: skip
    assert [epoch["step"] for epoch in history.epochs] == [2, 4]
    assert history.result["epochs"] == 2 and len(history["train_loss"]) == 2
    with pytest.raises(UserError, match="--lr: expected at least 0"):
        tg.fit(linear(), data, data, lr=-1.0)


def test_all_names_are_there_and_are_completed() -> None:
    assert {*tg.__all__} <= {*dir(tg)}
    assert all(getattr(tg, name).__doc__ for name in tg.__all__)
    page = (ROOT / "docs" / "scripts.md").read_text(encoding="utf-8")
    named = {*re.findall(r"`(\w+)\(", page.partition("## Names")[2])}
    assert named == {name for name in tg.__all__ if name.islower()}


def test_files_of_others_are_refused(made: Made, place: Path, tmp_path: Path) -> None:
    model, optimizer, _ = made
    with pytest.raises(UserError, match="script: expected dict, got None"):
        tg.load(place / "run" / "checkpoints" / "best.h5", model, optimizer)
    tg.save(tmp_path / "a" / "net.h5", model, optimizer, note="mine")
    assert tg.load(tmp_path / "a" / "net.h5", model, optimizer) == {"note": "mine"}
    alone = linear()
    assert tg.load(tmp_path / "a" / "net.h5", alone) == {"note": "mine"}
    np.testing.assert_array_equal(alone[1].weight.numpy(), model[1].weight.numpy())
    other = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    with pytest.raises(UserError, match=r"1\.weight: expected \(4, 16\), state has \(3, 16\)"):
        tg.load(tmp_path / "a" / "net.h5", other, optimizer)


@pytest.mark.parametrize(
    ("ending", "status", "said"),
    [("raise ValueError('no good')", 1, "[rank 1] ValueError: no good"),
     pytest.param("sys.exit(3)", 3, "", marks=pytest.mark.slow)],
)  # fmt: skip
def test_all_ranks_get_the_weights_of_the_first_and_one_that_fails_ends_the_job(
    mpirun: Any, ending: str, status: int, said: str
) -> None:
    code = f"""
import sys
import tallygrad.autograd as ag, tallygrad.trainer as tg
from tallygrad.autograd import nn, optim

ag.manual_seed(tg.rank())
model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
model, optimizer = tg.distribute(model, optim.SGD(model[1].parameters(), 0.1))
for p in model.parameters():  # one of the layers is not trained
    assert (tg.sum(p.numpy()) == 2 * p.numpy()).all()
if tg.rank():
    {ending}
tg.barrier()
"""
    done = mpirun(2, code, timeout=50)
    assert done.returncode == status and said in done.stderr


def test_the_example_of_the_docs_prints_the_same_on_one_and_two_ranks(
    mpirun: Any, alone_here: None, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "scripts.md").read_text(encoding="utf-8")
    (script,) = (b for b in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "tg.sum" in b)
    script = script.replace('load("digits", "train")', 'load("digits", "test")')  # a sixth of it
    assert re.findall(r"# (\d)", script) == ["1", "2", "3", "4", "5"]
    exec(compile(script, "docs/scripts.md", "exec"), {"__name__": "__main__"})
    done = mpirun(2, script)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"epoch 0: \d\d\.\d\d%\n", done.stdout)
    assert done.stdout == capsys.readouterr().out


def test_models_of_the_registry_are_untouched_by_a_fit_of_that_name(alone_here: None) -> None:
    def lenet(input_shape: Any, classes: int) -> nn.Module:
        return linear()

    data = images(12)
    assert tg.fit(lenet, data, data, batch_size=6, backend="numpy").result["steps"] == 2
    assert sum(p.size for p in models.create("lenet").parameters()) == 431_080
