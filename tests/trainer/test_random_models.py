"""Models of the user that draw or change while they compute: the same training however it runs."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from tallygrad.trainer.cli import main
from tallygrad.trainer.components.checkpoint import load

DROPS = """
import tallygrad.autograd as ag
from tallygrad.autograd import nn

class Net(nn.Module):
    # Dropout of folded axes, of a sequence (L, N, C), of a weight, and within layers.
    def __init__(self):
        self.rows, self.drop = nn.Linear(28, 8), nn.Dropout(0.3)
        self.net = nn.GRU(8, 6, 2, dropout=0.3)
        self.attention = nn.MultiheadAttention(6, 2, dropout=0.3)
        self.last = nn.Linear(6, 10)

    def forward(self, x):
        y = self.drop(self.rows(x.reshape(-1, 28)).relu()).reshape(-1, 28, 8)
        y, _ = self.net(y[:, ::7].permute(1, 0, 2))
        y = self.drop(y)
        y, _ = self.attention(y, y, y)
        if not self.training:
            return self.last(y[-1])
        y = ag.dropout2d(y, 0.3, True) + ag.bernoulli(ag.full((3, 1, 6), 0.5))[:1]
        y = ag.alpha_dropout(y, 0.3, True) + 0.1 * ag.randn_like(y)
        y = y * ag.gumbel_softmax(y) + ag.feature_alpha_dropout(y, 0.1, True)
        return ag.linear(y[-1], ag.dropout(self.last.weight, 0.3, True), self.last.bias)
"""


def bits(run: Path) -> dict[str, bytes]:
    """Return the tensors of a run's last checkpoint."""
    newest = max((run / "checkpoints").glob("*.h5"))
    return {name: value.tobytes() for name, value in load(newest).tensors.items()}


def test_draws_of_any_axis_are_the_same_on_two_ranks(
    mpirun: Any, tmp_path: Path, write_mnist: Any
) -> None:
    file = tmp_path / "my.py"
    file.write_text(DROPS)
    data = write_mnist(tmp_path / "data", 22, 6)
    words = ["train", "--model", f"{file}:Net", "--data-dir", str(data), "--dataset", "mnist",
             "--batch-size", "11", "--micro-batches", "3", "--epochs", "1",
             "--backend", "numpy"]  # fmt: skip
    assert main([*words, "--out", str(tmp_path / "1")]) == 0
    done = mpirun(2, ["-m", "tallygrad.trainer", *words, "--out", str(tmp_path / "2")])
    assert done.returncode == 0, done.stderr
    assert bits(tmp_path / "1") == bits(tmp_path / "2")


CHANGES = """
import random
import tallygrad.autograd as ag
from tallygrad.autograd import nn

class Anneals(nn.Module):
    def __init__(self):
        self.fc, self.n = nn.Linear(784, 10), 0
        self.register_buffer("temperatures", ag.zeros(1))

    def forward(self, x):
        if self.training:
            self.n += 1
            with ag.no_grad():
                self.temperatures += 1 / self.n
        return self.fc(x.flatten(1)) / (1 + self.n)

class Draws(Anneals):
    def forward(self, x):
        return super().forward(x + 0.1 * ag.randn_like(x)) * (1 + random.random())

class Hooked(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(784, 10))
        self[1].register_forward_hook(lambda module, inputs, result: 2 * result)
"""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Anneals", ["model: forward changes attribute n of Anneals; steps run without capture"]),
        ("Draws", []),
        ("Hooked", []),
    ],
)
def test_a_model_that_changes_is_not_captured(
    name: str, said: list[str], tmp_path: Path, write_mnist: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Steps are captured with one thread alone. Evaluation takes draws and hooks too."""
    pytest.importorskip("llvmlite", reason="llvmlite is not installed")
    file, data = tmp_path / "my.py", write_mnist(tmp_path / "data", 40, 6)
    file.write_text(CHANGES)
    for threads in "12":
        words = ["train", "--model", f"{file}:{name}", "--data-dir", str(data), "--dataset",
                 "mnist", "--batch-size", "8", "--micro-batches", "1", "--epochs", "2",
                 "--backend", "llvm", "--threads", threads]  # fmt: skip
        random.seed(0)
        assert main([*words, "--out", str(tmp_path / threads)]) == 0
        lines = [s for s in capsys.readouterr().err.splitlines() if "capture" in s]
        assert lines == [f"tallygrad: warning: {line}" for line in said if threads == "1"]
    assert bits(tmp_path / "1") == bits(tmp_path / "2")
