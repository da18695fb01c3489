"""Packed sequences, and recurrent layers over them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import nn
from tallygrad.autograd.nn.utils.rnn import (
    PackedSequence,
    pack_padded_sequence,
    pack_sequence,
    pad_packed_sequence,
    unpack_sequence,
)

SORTED, MIXED, EQUAL = [5, 4, 4, 1], [4, 1, 5, 4], [3, 3, 3, 3]
KINDS: dict[str, dict[str, Any]] = {
    "RNN": {"nonlinearity": "relu", "num_layers": 2},
    "LSTM": {"num_layers": 2, "bidirectional": True, "batch_first": True},
    "LSTM, projected": {"bidirectional": True, "proj_size": 2},
    "GRU": {"bidirectional": True},
}


def layer_of(t: Any, kind: str, **options: Any) -> Any:
    return getattr(t.nn, kind.split(",")[0])(3, 4, **KINDS[kind] | options).double()


def results(t: Any, layer: Any, x: np.ndarray, lengths: list[int], start: list[np.ndarray]) -> Any:
    """Return all that a layer makes of packed sequences, and all gradients."""
    rnn, first = t.nn.utils.rnn, layer.batch_first
    x = t.tensor(x.swapaxes(0, 1) if first else x, requires_grad=True)
    hx = [t.tensor(h, requires_grad=True) for h in start]
    ordered = lengths != MIXED
    given = lengths if ordered else t.tensor(lengths)
    packed = rnn.pack_padded_sequence(x, given, first, enforce_sorted=ordered)
    y, h = layer(packed, (tuple(hx) if len(hx) == 2 else hx[0]) if hx else None)
    states = h if isinstance(h, tuple) else (h,)
    z, counts = rnn.pad_packed_sequence(y, first, padding_value=-2, total_length=7)
    terms = [((i + 1) * s * s).sum() for i, s in enumerate(states)]
    sum(terms, (z * z * z).sum()).backward()
    found = [y.data, y.batch_sizes, z, counts, *states, x.grad, *[h.grad for h in hx]]
    orders = [] if ordered else [y.sorted_indices, y.unsorted_indices]
    return [*found, *orders, *[p.grad for p in layer.parameters()]]


@pytest.mark.parity
@pytest.mark.parametrize("lengths", [SORTED, MIXED, EQUAL])
@pytest.mark.parametrize("kind", KINDS)
def test_layers_compute_what_torch_does(kind: str, lengths: list[int]) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    theirs, ours = layer_of(torch, kind), layer_of(ag, kind)
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    rng = np.random.default_rng(0)
    x = rng.standard_normal((6, 4, 3))
    ways = ours.num_layers * (1 + ours.bidirectional)
    widths = [ours.proj_size or 4, 4] if "LSTM" in kind else [4]
    start = [rng.standard_normal((ways, 4, n)) for n in widths] if lengths == MIXED else []
    mine, other = results(ag, ours, x, lengths, start), results(torch, theirs, x, lengths, start)
    for a, b in zip(mine, other, strict=True):
        np.testing.assert_allclose(a.numpy(), b.detach().numpy(), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_each_sequence_is_as_if_alone(kind: str) -> None:
    """Whatever stands behind its end; also without a tape, where an LSTM keeps no cells."""
    layer = layer_of(ag, kind, batch_first=True)
    x = ag.randn(4, 6, 3, dtype="float64")
    with ag.no_grad():
        packed = pack_padded_sequence(x, MIXED, True, enforce_sorted=False)
        y, h = layer(packed)
        for n, row in enumerate(unpack_sequence(y)):
            alone, last = layer(x[n : n + 1, : MIXED[n]])
            np.testing.assert_allclose(row.numpy(), alone[0].numpy(), rtol=1e-9)
            pairs = zip(h, last, strict=True) if isinstance(h, tuple) else [(h, last)]
            for a, b in pairs:
                np.testing.assert_allclose(a[:, n].numpy(), b[:, 0].numpy(), rtol=1e-9)


def test_padding_is_computed() -> None:
    """The ledger tells so: 2 sequences of 5 and of 1 step take the MACs of 2 of 5."""
    layer, x = nn.GRU(3, 4), ag.randn(5, 2, 3)
    macs = []
    for given in (x, pack_padded_sequence(x, [5, 1])):
        with ag.context.using(ledger=ag.Ledger()) as state:
            layer(given)
        macs.append(state.ledger.total().macs)
    assert macs[0] == macs[1] > 0


def test_sequences_are_packed_and_unpacked() -> None:
    rows = [ag.tensor([1.0, 2.0]), ag.tensor([3.0]), ag.tensor([4.0, 5.0, 6.0])]
    packed = pack_sequence(rows, enforce_sorted=False)
    assert packed.data.tolist() == [4, 1, 3, 5, 2, 6] and packed.batch_sizes.tolist() == [3, 2, 1]
    assert [x.tolist() for x in unpack_sequence(packed)] == [x.tolist() for x in rows]
    back = PackedSequence(packed.data * 2, packed.batch_sizes, packed.sorted_indices)
    assert [x.tolist() for x in unpack_sequence(back.to("float64"))] == [[2, 4], [6], [8, 10, 12]]
    x, lengths = pad_packed_sequence(pack_sequence(rows[:2]), True, -1.0)
    assert x.tolist() == [[1, 2], [3, -1]] and lengths.tolist() == [2, 1]


X = ag.ones(3, 2)


@pytest.mark.parametrize(("call", "said"), [
    (lambda: pack_padded_sequence(X, [1, 3]), r"from the longest on, or .*, got \[1, 3\]"),
    (lambda: pack_padded_sequence(X, [4, 1]), r"lengths of 2 sequences in \[1, 3\], got \[4, 1\]"),
    (lambda: pack_padded_sequence(X, [3, 0]), r"in \[1, 3\], got \[3, 0\]"),
    (lambda: pack_padded_sequence(X, [3]), r"lengths of 2 sequences in \[1, 3\], got \[3\]"),
    (lambda: pack_padded_sequence(X, [3.0, 1.5]), r"integer lengths .*, got \[3.0, 1.5\]"),
    (lambda: pack_padded_sequence(X[0], [2]), r"input of at least 2 axes, got shape \(2,\)"),
    (lambda: pack_padded_sequence(X[:, :0], []), r"lengths of 0 sequences .*, got \[\]"),
    (lambda: pad_packed_sequence(pack_padded_sequence(X, [3, 1]), total_length=2),
     "expected total_length of at least 3, got 2"),
])  # fmt: skip
def test_what_cannot_be_packed(call: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()
