"""Data-parallel training on one, two and four ranks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tallygrad.trainer.components.checkpoint import load

SMALL = ["--dataset", "digits", "--eval-batch-size", "1000", "--log-every", "1"]


def train(mpirun: Any, ranks: int, out: Path, *words: str) -> dict[str, Any]:
    command = ["-m", "tallygrad.trainer", "train", *SMALL, "--out", str(out), *words]
    done = mpirun(ranks, command, timeout=200)
    assert done.returncode == 0, done.stderr
    return dict(json.loads((out / "result.json").read_text()))


def losses(out: Path) -> np.ndarray:
    lines = map(json.loads, (out / "log.jsonl").read_text().splitlines())
    return np.array([e["loss"] for e in lines if e["event"] == "step"])


def bits(out: Path) -> dict[str, bytes]:
    """Return what must not differ: every tensor of the last checkpoint, losses, accuracies."""
    held = load(max((out / "checkpoints").glob("step-*.h5")))
    found = {name: value.tobytes() for name, value in held.tensors.items()}
    names = ("test_loss", "test_accuracy", "train_loss", "training_macs")
    result = json.loads((out / "result.json").read_text())
    found |= {name: repr(result[name]).encode() for name in names}
    return found | {"losses": losses(out).tobytes()}


@pytest.mark.parametrize(
    ("kind", "value", "seed"),
    [("dtype", "float32", "0"), ("precision", "bf16", "0"),
     pytest.param("dtype", "float32", "3", marks=pytest.mark.slow),
     pytest.param("dtype", "float64", "0", marks=pytest.mark.slow)],
)  # fmt: skip
def test_one_and_two_ranks_end_with_the_same_bits(
    mpirun: Any, tmp_path: Path, kind: str, value: str, seed: str
) -> None:
    """By default, with LeNet; these seeds tip a ReLU or a pooling where sums round otherwise."""
    if value == "bf16":
        pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    words = ["--model", "lenet", "--max-steps", "50", f"--{kind}", value, "--seed", seed]
    for ranks in (1, 2):
        train(mpirun, ranks, tmp_path / str(ranks), *words)
    assert len(losses(tmp_path / "1")) == 50
    assert bits(tmp_path / "1") == bits(tmp_path / "2")


@pytest.mark.slow
def test_losses_on_more_ranks_than_micro_batches_differ_by_rounding_alone(
    mpirun: Any, tmp_path: Path
) -> None:
    words = ["--model", "lenet", "--batch-size", "16", "--max-steps", "50", "--dtype", "float64"]
    results = [train(mpirun, ranks, tmp_path / str(ranks), *words) for ranks in (2, 4)]
    two, four = losses(tmp_path / "2"), losses(tmp_path / "4")
    np.testing.assert_allclose(four, two, rtol=0, atol=1e-12)
    assert (four != two).any()
    assert len({r["training_macs"] for r in results}) == 1
    assert [r["ranks"] for r in results] == [2, 4]


def ragged(folder: Path, write_mnist: Any) -> list[str]:
    """Return the options of a run with batch norm and augmentation whose last step leaves some of
    the micro-batches empty, on data written to the folder."""
    write_mnist(folder, 43, 29)
    words = ["--dataset", "mnist", "--data-dir", str(folder), "--model", "resnet20"]
    words += ["--batch-size", "20", "--micro-batches", "6", "--epochs", "2", "--lr", "0.1"]
    return [*words, "--augment", "standard,cutout", "--eval-batch-size", "11", "--bucket-mb", "0.2"]


def test_a_ragged_run_has_the_same_bits_on_any_ranks_and_stopped_or_not(
    mpirun: Any, tmp_path: Path, write_mnist: Any
) -> None:
    """Four ranks share six micro-batches unevenly; MPICH itself adds up six ranks in another
    order. The last run stops twice, in the middle of an epoch and after its empty parts."""
    words = ragged(tmp_path / "data", write_mnist)
    found = []
    for ranks in (1, 2, 4, 6):
        assert train(mpirun, ranks, tmp_path / str(ranks), *words)["steps"] == 6
        found.append(bits(tmp_path / str(ranks)))
    out = tmp_path / "stopped"
    train(mpirun, 4, out, *words, "--max-steps", "2")
    train(mpirun, 1, out, *words, "--max-steps", "4", "--resume", "auto")
    train(mpirun, 3, out, *words, "--resume", "auto")
    found.append(bits(out))
    assert len(found[0]) > 100
    assert all(other == found[0] for other in found[1:])


def test_ranks_that_read_a_file_have_the_bits_of_one_that_holds_it(
    mpirun: Any, tmp_path: Path
) -> None:
    """Each sample once an epoch, in the same order, from chunks that three ranks unpack."""
    images = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3), np.uint8)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for split in ("train", "test"):
            file.create_dataset(f"{split}/images", data=images, chunks=(7, 8, 8, 3),
                                compression="gzip")  # fmt: skip
            file[f"{split}/labels"] = np.arange(50) % 3
    words = ["--dataset", str(tmp_path / "a.h5"), "--model", "mlp", "--batch-size", "12"]
    words += ["--micro-batches", "4", "--augment", "crop=1,flip", "--backend", "numpy"]
    for ranks, memory in ((1, "1GB"), (3, "0")):
        out = tmp_path / str(ranks)
        assert train(mpirun, ranks, out, *words, "--data-memory", memory)["steps"] == 5
    assert bits(tmp_path / "1") == bits(tmp_path / "3")


def test_ranks_without_a_micro_batch_are_told(
    mpirun: Any, tmp_path: Path, write_mnist: Any
) -> None:
    command = ["-m", "tallygrad.trainer", "train", "--model", "mlp", "--backend", "numpy"]
    command += ["--dataset", "mnist", "--data-dir", str(write_mnist(tmp_path / "data", 40, 20))]
    told = {
        "1": ["idle     2 ranks, for lack of micro-batches (1)"],
        "2": ["idle     1 rank, for lack of micro-batches (2)"],
        "3": [],
    }
    for micro_batches, said in told.items():
        out = str(tmp_path / micro_batches)
        done = mpirun(3, [*command, "--max-steps", "1", "--micro-batches", micro_batches,
                          "--batch-size", "20", "--out", out])  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert [line for line in done.stderr.splitlines() if line.startswith("idle")] == said


@pytest.mark.slow
def test_eval_repeats_the_loss_of_the_run_to_the_bit(
    mpirun: Any, tmp_path: Path, write_mnist: Any
) -> None:
    """Also where its batches are smaller than the number of ranks."""
    words = ragged(tmp_path / "data", write_mnist)
    words += ["--eval-batch-size", "1", "--dtype", "float64"]
    expected = train(mpirun, 1, tmp_path / "run", *words, "--max-steps", "3")
    newest = tmp_path / "run" / "checkpoints" / "step-00000003.h5"
    for ranks in (1, 3):
        command = ["-m", "tallygrad.trainer", "eval", str(newest), "--json", "--batch-size", "1"]
        done = mpirun(ranks, command)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["loss"] == expected["test_loss"] and found["precision"] == "float64"


def test_ranks_that_do_not_divide_the_batch_and_resume_on_fewer(
    mpirun: Any, tmp_path: Path
) -> None:
    words = ["--model", "mlp", "--batch-size", "10", "--dtype", "float64", "--lr", "0.01"]
    train(mpirun, 1, tmp_path / "one", *words, "--max-steps", "12")
    out = tmp_path / "many"
    train(mpirun, 4, out, *words, "--max-steps", "7")
    result = train(mpirun, 3, out, *words, "--max-steps", "12", "--resume", "auto")
    np.testing.assert_allclose(losses(out), losses(tmp_path / "one"), rtol=0, atol=1e-12)
    assert result["steps"] == 12 and result["ranks"] == 3
    one, many = (load(tmp_path / n / "checkpoints" / "step-00000012.h5") for n in ("one", "many"))
    for name, value in one.tensors.items():
        np.testing.assert_allclose(many.tensors[name], value, rtol=1e-9, atol=1e-12)


def test_a_last_batch_with_fewer_samples_than_ranks(
    mpirun: Any, tmp_path: Path, write_mnist: Any
) -> None:
    write_mnist(tmp_path / "data", 13, 7)
    words = ["--dataset", "mnist", "--data-dir", str(tmp_path / "data"), "--batch-size", "4"]
    words += ["--model", "mlp", "--dtype", "float64", "--epochs", "2", "--bucket-mb", "0.1"]
    for ranks in (1, 2, 4):
        result = train(mpirun, ranks, tmp_path / str(ranks), *words)
        assert result["steps"] == 8
    for ranks in (2, 4):
        found, expected = losses(tmp_path / str(ranks)), losses(tmp_path / "1")
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


STEP = """
import hashlib, sys
import numpy as np
from tallygrad.autograd import from_numpy, nn, optim, tensor
from tallygrad.autograd.nn.flat import flatten
from tallygrad.trainer.distributed.comm import connect
from tallygrad.trainer.distributed.failures.guard import guard
from tallygrad.trainer.distributed.exchange import Reducer
from tallygrad.trainer.distributed.sync import GradientSync

comm = connect()
with guard(comm):
"""


def on_ranks(mpirun: Any, ranks: int, body: str) -> list[str]:
    code = STEP + "".join(f"    {line}\n" for line in body.strip().splitlines())
    done = mpirun(ranks, code)
    assert done.returncode == 0, done.stderr
    return sorted(done.stdout.split("\n"))[1:]


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_gradients_that_depend_on_the_rank_are_summed(mpirun: Any, ranks: int) -> None:
    body = """
a = nn.Linear(3, 2, bias=False).double()
b = nn.Linear(2, 4, bias=True).double()
unused = nn.Linear(5, 5).double()
layers = [unused, b, a]
flat = flatten([p for m in layers for p in m.parameters()])
sync = GradientSync(flat, Reducer(comm), bucket_bytes=1)
assert len(sync.buckets) == len(flat.parameters)
for _ in range(2):
    x = from_numpy(np.full((1, 3), comm.rank + 1.0))
    a(x).sum().backward()
    sync.wait()
    expected = sum(r + 1.0 for r in range(comm.size))
    np.testing.assert_array_equal(a.weight.grad.numpy(), np.full((2, 3), expected))
    for p in [*b.parameters(), *unused.parameters()]:
        np.testing.assert_array_equal(p.grad.numpy(), np.zeros(p.shape))
    for p in flat.parameters:
        p.grad = None
print("fine\\n", end="")
"""
    assert on_ranks(mpirun, ranks, body) == ["fine"] * ranks


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_all_ranks_hold_the_same_weights(mpirun: Any, ranks: int) -> None:
    body = """
from tallygrad.autograd import manual_seed
manual_seed(comm.rank)
net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
flat = flatten(list(net.parameters())[::-1])
comm.bcast(flat.data.value)
sync = GradientSync(flat, Reducer(comm))
sgd = optim.SGD(flat, 0.1, momentum=0.9)
rng = np.random.default_rng(comm.rank)
for _ in range(5):
    net(from_numpy(rng.standard_normal((3, 4)).astype(np.float32))).sum().backward()
    sync.wait(); sgd.step(); sgd.zero_grad()
print(hashlib.sha256(flat.data.value.tobytes()).hexdigest() + "\\n", end="")
"""
    assert len(set(on_ranks(mpirun, ranks, body))) == 1


def test_plain_batch_norm_over_ranks_is_not_the_global_one(mpirun: Any, tmp_path: Path) -> None:
    """The negative control: each rank normalises by its own share, so that two ranks must differ
    from one. Were they equal, the comparison of losses above could not see a difference."""
    body = """
net = nn.BatchNorm1d(2).double()
x = np.arange(8.0).reshape(4, 2) ** 2
mine = np.array_split(x, comm.size)[comm.rank]
y = net(from_numpy(mine)).numpy()
whole = np.round(comm.allgather(np.ascontiguousarray(y)), 6).tobytes()
print(hashlib.sha256(whole).hexdigest() + "\\n", end="")
"""
    one, two = (set(on_ranks(mpirun, n, body)) for n in (1, 2))
    assert len(one) == len(two) == 1 and one != two


def test_evaluation_totals_are_exact_for_any_number_of_ranks(mpirun: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(mpirun, 1, out, "--model", "mlp", "--max-steps", "20")
    found = []
    for ranks in (1, 2, 4):
        command = ["-m", "tallygrad.trainer", "eval", str(out), "--json", "--batch-size", "999"]
        done = mpirun(ranks, command)
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout))
    assert {f["samples"] for f in found} == {10_000}
    assert len({f["correct"] for f in found}) == 1
    assert found[0]["loss"] == found[1]["loss"]
    assert abs(found[2]["loss"] - found[0]["loss"]) < 1e-6


@pytest.mark.parametrize(("ranks", "words", "said"), [
    (2, ["--batch-size", "0"], ("--batch-size", "at least 1", "got 0")),
    (2, ["--model", "nothing"], ("--model", "nothing")),
    (3, ["--out", "/dev/null/x"], ("/dev/null",)),
])  # fmt: skip
def test_bad_input_gives_one_line_from_one_rank(
    mpirun: Any, tmp_path: Path, ranks: int, words: list[str], said: tuple[str, ...]
) -> None:
    command = ["-m", "tallygrad.trainer", "train", *SMALL, "--max-steps", "2"]
    done = mpirun(ranks, [*command, "--out", str(tmp_path / "run"), *words])
    lines = [line for line in done.stderr.splitlines() if "tallygrad: error:" in line]
    assert done.returncode == 2 and len(lines) == 1, done.stderr
    assert all(word in lines[0] for word in said) and "Traceback" not in done.stderr
