"""Data sets of a script's own in `distribute`: the same bits on any number of ranks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
import tallygrad.trainer as tg
from tallygrad.autograd import nn, optim
from tallygrad.datasets import (
    DataLoader,
    Dataset,
    IndexLoader,
    TensorDataset,
    WeightedRandomSampler,
)
from tallygrad.trainer import session
from tallygrad.trainer.distributed.comm import SerialComm
from tallygrad.trainer.errors import UserError
from tallygrad.trainer.sharded_loader import shard

SCRIPT = """
import sys
import numpy as np
import tallygrad.autograd as ag, tallygrad.trainer as tg
from tallygrad.autograd import nn, optim
from tallygrad.datasets import DataLoader, Dataset, WeightedRandomSampler, random_split

class Points(Dataset):
    def __init__(self, count):
        self.x = np.random.default_rng(0).standard_normal((count, 2)).astype(np.float32)
        self.read, self.noise = [], 0.1
    def __len__(self):
        return len(self.x)
    def __getitem__(self, i):
        self.read.append(i)
        return {"x": self.x[i] + self.noise * ag.randn(2).numpy(), "y": self.x[i, :1] * 2}

def train(path, first, last):
    ag.manual_seed(5)
    points = Points(23)
    known, new = random_split(points, [17, 6])
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Dropout(0.2), nn.Linear(4, 1))
    sampler = WeightedRandomSampler(1 + np.arange(17) % 3, 11)
    loaders = DataLoader(known, 5, sampler=sampler, num_workers=1), DataLoader(new, 4)
    optimizer = optim.SGD(model.parameters(), lr=0.05)
    model, optimizer, train, test = tg.distribute(model, optimizer, *loaders, micro_batches=3)
    if first:
        tg.load(path, model, optimizer)
    for epoch in range(first, last):
        model.train()
        points.read.clear()
        for batch in train:
            optimizer.backward(ag.mse_loss(model(batch["x"]), batch["y"]))
            optimizer.step()
        assert tg.sum(len(points.read)) == len(sampler)  # nobody reads what others train on
        assert tg.size() == 1 or len(points.read) < len(sampler)
    model.eval()
    points.noise = 0
    with ag.no_grad():
        loss = tg.sum(sum(((model(b["x"]) - b["y"]) ** 2).sum().item() for b in test))
    assert len(test.dataset) == 6 and (train.batch_size, len(train), optimizer.steps) == (
        5, 3, 3 * last)
    tg.save(path, model, optimizer)
    return [f"{loss:.4f}", *(p.numpy().tobytes().hex() for p in model.parameters())]

if __name__ == "__main__":
    train(sys.argv[1], 0, 1)
    print(train(sys.argv[1], 1, 3))
"""


@pytest.fixture
def alone_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process as the only rank."""
    monkeypatch.setattr(session, "_joined", [SerialComm()])


def run_here(path: Path) -> Any:
    """Return what the script's function makes in this process, without a break."""
    names: dict[str, Any] = {"__name__": "script"}
    exec(compile(SCRIPT, "script.py", "exec"), names)
    return names["train"](str(path), 0, 3)


@pytest.mark.slow
def test_any_number_of_ranks_has_the_same_bits_and_goes_on_from_a_checkpoint(
    mpirun: Any, tmp_path: Path, alone_here: None
) -> None:
    """Order, reading and draws do not follow from ranks, of which there may be more than
    micro-batches; nor from when the run began."""
    (tmp_path / "script.py").write_text(SCRIPT)
    expected = run_here(tmp_path / "here.h5")
    for ranks in (1, 2, 4):
        done = mpirun(ranks, [str(tmp_path / "script.py"), str(tmp_path / "net.h5")])
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{expected}\n"


class Pairs(Dataset[Any]):
    def __init__(self) -> None:
        self.x = np.arange(24, dtype=np.float32).reshape(12, 2)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Any:
        return self.x[index], np.int64(index)


def of_rank(loader: tg.ShardedLoader, rank: int, size: int) -> list[list[int]]:
    """Return the samples of a rank's micro-batches in epoch 0."""
    comm = SerialComm()
    comm.rank, comm.size = rank, size
    other = shard(loader.loader, comm, loader.loader.sampler.micro_batches)
    return [y.tolist() for _, y in other.epoch(0)]


def made(**options: Any) -> tuple[nn.Module, tg.DistributedOptimizer, tg.ShardedLoader]:
    model = nn.Linear(2, 12)
    loader = DataLoader(Pairs(), **options)
    return tg.distribute(model, optim.SGD(model.parameters(), lr=0.001), loader, micro_batches=2)


@pytest.mark.parametrize("workers", [0, 1])
def test_ranks_share_the_batches_of_one(alone_here: None, workers: int) -> None:
    ag.manual_seed(2)
    options = {"batch_size": 5, "shuffle": True, "num_workers": workers}
    model, optimizer, loader = made(**options)
    whole = [y.tolist() for _, y in DataLoader(Pairs(), **options)]
    parts = []
    for x, y in loader:
        assert x.tolist() == Pairs().x[y.numpy()].tolist()
        optimizer.backward(ag.cross_entropy(model(x), y))
        optimizer.step()
        parts.append(y.tolist())
    assert [a + b for a, b in zip(parts[::2], parts[1::2], strict=True)] == whole
    assert optimizer.steps == len(loader) == 3
    ranks = [of_rank(loader, rank, 2) for rank in range(2)]
    assert ranks == [parts[::2], parts[1::2]]
    model.eval()
    assert sorted(i for _, y in loader for i in y.tolist()) == [*range(12)]
    with pytest.raises(TypeError, match="makes of a Loader, got that of DataLoader"):
        tg.evaluate(model, loader)


def test_a_loader_that_only_evaluates_may_have_batches_of_one(alone_here: None) -> None:
    model = nn.Linear(2, 12)
    *_, train, test = tg.distribute(
        model, optim.SGD(model.parameters(), 0.1), IndexLoader(4, 2), DataLoader(Pairs())
    )
    with ag.no_grad():
        assert [y.tolist() for _, y in test] == [[i] for i in range(12)]
    assert len(train.dataset) == 4
    with pytest.raises(UserError, match="expected batches of at least 2 samples, one a micro-batc"):
        next(iter(test))
    with pytest.raises(UserError, match="expected batches of at least 2 samples"):
        made()


class Own:
    """Batches of a script's own."""

    epoch = 0

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __len__(self) -> int:
        return 1


@pytest.mark.parametrize(("loader", "kind", "message"), [
    (Own(), TypeError, "expected loader 0 to be a DataLoader, Loader or IndexLoader of tallygrad, "
     "got Own; the order is model, optimizer, loaders"),
    (TensorDataset(np.ones(4)), TypeError, "of tallygrad, got TensorDataset"),
    (DataLoader(Pairs(), 4, sampler=range(4)), UserError,
     "expected shuffle=True or a sampler of tallygrad.datasets, whose order all ranks know, got"),
])  # fmt: skip
def test_what_ranks_cannot_share_is_refused(
    alone_here: None, loader: Any, kind: type[Exception], message: str
) -> None:
    model = nn.Linear(2, 1)
    with pytest.raises(kind, match=re.escape(message)):
        tg.distribute(model, optim.SGD(model.parameters(), 0.1), loader)


def test_ranks_agree_on_weights_of_samples(alone_here: None) -> None:
    texts = [
        str(DataLoader(Pairs(), 4, sampler=WeightedRandomSampler(weights, 8)).sampler)
        for weights in (np.ones(12), np.ones(12), np.arange(12))
    ]
    assert texts[0] == texts[1] != texts[2]
