"""Weights in flat buffers have a narrow copy for mixed precision. The update writes it; whatever
else changes the weights is seen, too."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import Tensor, context, nn, optim
from tallygrad.autograd.ledger import Ledger
from tallygrad.autograd.optim.group import Run
from tallygrad.autograd.optim.sgd import SGDGroup

pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
RNG = np.random.default_rng(0)
X = RNG.normal(size=(16, 40)).astype("f4")
Optimizers = Callable[..., optim.Optimizer]
FOLLOWING: list[tuple[Optimizers, dict[str, Any]]] = [  # whose updates write the copy
    (optim.SGD, {}),
    (optim.SGD, {"momentum": 0.9, "weight_decay": 0.1, "nesterov": True}),
    (optim.Adam, {}),
    (optim.Adam, {"amsgrad": True}),
    (optim.AdamW, {}),
    (optim.NAdam, {}),
    (optim.RAdam, {}),
    (optim.Adamax, {}),
    (optim.RMSprop, {"momentum": 0.9}),
    (optim.Adagrad, {}),
    (optim.Adadelta, {}),
    (optim.ASGD, {}),
    (optim.Rprop, {}),
]
OTHERS: list[tuple[Optimizers, dict[str, Any]]] = [
    (optim.LARS, {"lr": 0.1}),
    (optim.LAMB, {"lr": 0.1}),
    (optim.Muon, {"lr": 0.1}),
]


def net() -> nn.Sequential:
    ag.manual_seed(0)
    return nn.Sequential(nn.Linear(40, 150), nn.ReLU(), nn.Linear(150, 10))


def loss(model: nn.Module) -> Tensor:
    with ag.autocast():
        y = model(ag.tensor(X))
    return (y.float() ** 2).sum()


def step(model: nn.Module, optimizer: optim.Optimizer) -> float:
    value = loss(model)
    value.backward()
    optimizer.step()
    optimizer.zero_grad()
    return float(value.item())


def fresh(model: nn.Module) -> float:
    """Return the loss of other weights of the same numbers, which are in no flat buffer."""
    twin = net()
    for p, q in zip(twin.parameters(), model.parameters(), strict=True):
        p.array.write(q.array.value)
    return float(loss(twin).item())


def calls(ledger: Ledger, name: str) -> int:
    return sum(n for (_, _, called, *_), n in ledger.calls.items() if called == name)


def narrow_casts(ledger: Ledger) -> int:
    """Return the casts of weights, whose sizes no other tensors have."""
    return sum(
        n for (_, _, name, _, cost), n in ledger.calls.items()
        if name == "cast" and cost.bytes_read in (4 * 40 * 150, 4 * 150 * 10)
    )  # fmt: skip


@pytest.mark.parametrize(("make", "options"), FOLLOWING + OTHERS)
def test_losses_are_those_of_weights_that_are_cast(
    backend: str, make: Optimizers, options: dict[str, Any]
) -> None:
    model = net()
    optimizer = make(model.parameters(), **{"lr": 0.01, **options})
    for _ in range(4):
        before = fresh(model)
        assert step(model, optimizer) == before


@pytest.mark.parametrize(("make", "options"), FOLLOWING + OTHERS)
def test_updates_write_it_and_nothing_is_cast(
    backend: str, make: Optimizers, options: dict[str, Any]
) -> None:
    """A sweep of its own follows an update that looks at whole parameters."""
    model, ledgers = net(), [Ledger(), Ledger()]
    optimizer = make(model.parameters(), **{"lr": 0.01, **options})
    for ledger in ledgers:
        with context.using(ledger=ledger):
            step(model, optimizer)
    size = sum(p.size for p in model.parameters())
    assert not any(map(narrow_casts, ledgers))
    assert ledgers[0].total() == ledgers[1].total()  # the first numbers are not counted
    with context.using(ledger=(wide := Ledger())):
        (model(ag.tensor(X)) ** 2).sum().backward()
        optimizer.step()
    names = {key[2] for key in ledgers[0].calls if key[0] == "optimizer"}
    assert ("store" in names) == ((make, options) in OTHERS)
    written = [
        sum(n * key[4].bytes_written for key, n in one.calls.items() if key[0] == "optimizer")
        for one in (ledgers[1], wide)
    ]
    with context.using(ledger=(unread := Ledger())):
        optimizer.step()  # what nobody has read is not written
    written.append(
        sum(n * key[4].bytes_written for key, n in unread.calls.items() if key[0] == "optimizer")
    )
    assert written[0] - written[2] == 2 * size
    assert loss(model).item() == fresh(model)


def test_meta_counts_the_same(backend: str) -> None:
    found = []
    for name in (backend, "meta"):
        with context.using(backend=name):
            model = net()
            optimizer = optim.Adam(model.parameters())
            with context.using(ledger=(ledger := Ledger())):
                for _ in range(3):
                    loss(model).backward()
                    optimizer.step()
                    optimizer.zero_grad()
            found.append(ledger.total())
    assert found[0] == found[1]


def change_flat(model: nn.Module, optimizer: optim.Optimizer) -> None:
    flat = optimizer.groups[0].flat
    flat.data.write(flat.data.value * 1.5)


def change_in_place(model: nn.Module, optimizer: optim.Optimizer) -> None:
    with ag.no_grad():
        for p in model.parameters():
            p.mul_(1.5)


def change_data(model: nn.Module, optimizer: optim.Optimizer) -> None:
    for p in model.parameters():
        p.data = p.data * 1.5


def load(model: nn.Module, optimizer: optim.Optimizer) -> None:
    model.load_state_dict({name: 1.5 * value for name, value in model.state_dict().items()})


def write_unseen(model: nn.Module, optimizer: optim.Optimizer) -> None:
    for p in model.parameters():
        p.detach().numpy()[...] *= 1.5


def lay_anew(model: nn.Module, optimizer: optim.Optimizer) -> None:
    nn.flatten([*reversed([*model.parameters()])])
    change_in_place(model, optimizer)


CHANGES = [change_flat, change_in_place, change_data, load, write_unseen, lay_anew]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("traces", ["", "training", "inference"])
def test_changes_are_seen(
    backend: str, change: Callable[[nn.Module, optim.Optimizer], None], traces: str
) -> None:
    """Twice, also between replays, and by those who read the memory later."""
    model = net()
    optimizer = optim.SGD(model.parameters(), lr=0.01)

    def output(x: Tensor) -> Tensor:
        with ag.autocast():
            return (model(x).float() ** 2).sum()

    def trained(x: Tensor) -> Tensor:
        value = output(x)
        value.backward()
        return value

    run = {
        "": trained,
        "training": ag.trace(trained, training=True),
        "inference": ag.trace(output),
    }[traces]
    for i in range(8):
        wanted = fresh(model)
        assert float(run(ag.tensor(X)).item()) == wanted
        if traces != "inference":
            if change is not lay_anew or i < 3:
                optimizer.step()
            optimizer.zero_grad()
        if i in (3, 5):
            change(model, optimizer)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("reads_first", [True, False])
def test_weights_that_a_step_changes_are_seen_in_replays(
    backend: str, training: bool, reads_first: bool
) -> None:
    model = net()
    nn.flatten([*model.parameters()])

    def step(x: Tensor) -> tuple[Tensor, ...]:
        with ag.no_grad(), ag.autocast():
            before = (model(x).float().sum(),) if reads_first else ()
            for p in model.parameters():
                p.mul_(0.9)
            return *before, model(x).float().sum()

    run = ag.trace(step, training=training)
    for _ in range(5):
        copies = [p.array.value.copy() for p in model.parameters()]
        found = [float(y.item()) for y in run(ag.tensor(X))]
        after = [p.array.value.copy() for p in model.parameters()]
        wanted = []
        for numbers in (copies, after)[not reads_first :]:
            twin = net()
            for p, value in zip(twin.parameters(), numbers, strict=True):
                p.array.write(value)
            with ag.no_grad(), ag.autocast():
                wanted.append(float(twin(ag.tensor(X)).float().sum().item()))
        assert found == wanted


def test_averages_are_read_and_left_again(backend: str) -> None:
    model = net()
    optimizer = optim.SGD(model.parameters(), lr=0.01).add(optim.EMA(0.5))
    for _ in range(3):
        step(model, optimizer)
    with optimizer.averaged():
        assert loss(model).item() == fresh(model)
    before = fresh(model)
    assert step(model, optimizer) == before


class Halving(SGDGroup):
    """A group that knows nothing of narrow copies."""

    def update(self, run: Run, lr: Any) -> None:
        first, last, *_ = run
        part = self.flat.part(self.flat.data, first, last)
        part.write(part.value * 0.5)


class Halves(optim.SGD):
    group = Halving


class Clipping(SGDGroup):
    """A group that changes what the usual update leaves."""

    def update(self, run: Run, lr: Any) -> None:
        super().update(run, lr)
        self.flat.data.write(self.flat.data.value.clip(-0.05, 0.05))


class Clips(optim.SGD):
    group = Clipping


@pytest.mark.parametrize("make", [Halves, Clips])
def test_other_updates_leave_it_behind_and_it_is_renewed(backend: str, make: Optimizers) -> None:
    model = net()
    optimizer = make(model.parameters(), lr=0.01)
    for _ in range(3):
        before = fresh(model)
        assert step(model, optimizer) == before


def renewals(ledger: Ledger, size: int) -> int:
    """Return the calls that write a whole narrow copy."""
    return sum(
        n for (_, _, name, _, cost), n in ledger.calls.items()
        if name == "store" and cost.bytes_written == 2 * size
    )  # fmt: skip


@pytest.mark.parametrize("runs", ["frozen", "decay", "rates"])
def test_runs_of_parameters_write_it_together(backend: str, runs: str) -> None:
    model = net()
    optimizer = optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=0.1)
    first, bias, *_ = model.parameters()
    if runs == "decay":
        optimizer.exempt_from_decay([bias])
    elif runs == "rates":
        optimizer.scale_rates([bias], 3.0)
    step(model, optimizer)
    first.requires_grad_(runs != "frozen")
    with context.using(ledger=(ledger := Ledger())):
        for _ in range(3):
            before = fresh(model)
            assert step(model, optimizer) == before
    size = sum(p.size for p in model.parameters())
    # The twins of `fresh`, in no flat buffer, are cast: two weights each.
    assert narrow_casts(ledger) == 6 and not renewals(ledger, size)


def test_copies_of_models_have_their_own(backend: str) -> None:
    model = net()
    optimizer = optim.SGD(model.parameters(), lr=0.01)
    step(model, optimizer)
    twin = copy.deepcopy(model)
    step(model, optimizer)
    with context.using(ledger=(ledger := Ledger())):
        found = float(loss(twin).item())
    assert found == fresh(twin) != fresh(model) == loss(model).item() and not narrow_casts(ledger)


def test_a_step_on_meta_does_not_touch_the_copy_of_numbers(backend: str) -> None:
    model = net()
    optimizer = optim.SGD(model.parameters(), lr=0.01)
    step(model, optimizer)
    loss(model)
    change_in_place(model, optimizer)
    with context.using(backend="meta"):
        loss(model)
        optimizer.step()
    assert loss(model).item() == fresh(model)


def test_the_tape_does_not_stash_it(backend: str) -> None:
    """It is there anyway; casts of weights are stashed. On the meta backend, too."""
    found = []
    for flat in (True, False):
        ag.manual_seed(0)
        layer = nn.Linear(40, 40, bias=False)
        if flat:
            nn.flatten([*layer.parameters()])
        for name in (backend, "meta"):
            with context.using(backend=name, ledger=(ledger := Ledger())), ag.autocast():
                layer(layer(layer(ag.tensor(X))))
            found.append(sum(row.stashed for row in ledger.rows()))
    cast = 2 * 40 * 40
    assert found[0] == found[1] == found[2] - cast == found[3] - cast


def test_hooks_that_change_weights_are_seen_in_replays(backend: str) -> None:
    """Each step reads the weights twice, and a hook halves them between."""
    model = net()
    flat = nn.flatten([*model.parameters()])
    last = flat.parameters[0]
    last.post_grad_hooks.append(lambda p: flat.data.write(flat.data.value * 0.5))

    def two(x: Tensor) -> tuple[Tensor, Tensor]:
        with ag.autocast():
            first = (model(x).float() ** 2).sum()
        first.backward()
        with ag.no_grad(), ag.autocast():
            return first, (model(x).float() ** 2).sum()

    run = ag.trace(two, training=True)
    for _ in range(5):
        before = fresh(model)
        found = [float(y.item()) for y in run(ag.tensor(X))]
        assert found == [before, fresh(model)]
        for p in flat.parameters:
            p.grad = None


def test_other_types_have_none(backend: str) -> None:
    model = net().double()
    optimizer = optim.SGD(model.parameters(), lr=0.01)
    with ag.autocast():
        y = model(ag.tensor(X).double())
    assert y.dtype == np.float64
    y.sum().backward()
    optimizer.step()
    assert optimizer.groups[0].flat.narrow() is None


def test_a_graph_of_weights_that_changed_is_refused(backend: str) -> None:
    """As in float32: the numbers that the backward pass needs are gone."""
    model = net()
    optimizer = optim.SGD(model.parameters(), lr=0.01)
    step(model, optimizer)
    first, second = loss(model), loss(model)
    first.backward()
    optimizer.step()
    with pytest.raises(RuntimeError, match="changed in place"):
        second.backward()
