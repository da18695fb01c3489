"""Attention layers: torch's numbers with every kind of mask, and what masks must do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import nn, random

N, L, S, E, H = 3, 4, 5, 6, 2


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape)


PADDING = np.arange(S) >= np.array([[5], [3], [4]])
LATER = ~np.tri(L, S, dtype=bool)
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "no bias, every head's weights": ({"bias": False}, {"average_attn_weights": False}),
    "other widths": ({"kdim": 3, "vdim": 7}, {"need_weights": False}),
    "padding": ({"batch_first": True}, {"key_padding_mask": PADDING}),
    "both masks": ({}, {"key_padding_mask": PADDING, "attn_mask": LATER}),
    "a mask for each head": ({}, {"attn_mask": drawn(N * H, L, S) > 0.7}),
    "numbers": ({}, {"attn_mask": drawn(L, S), "key_padding_mask": np.where(PADDING, -np.inf, 0)}),
    "more to read": ({"add_bias_kv": True}, {"key_padding_mask": PADDING, "attn_mask": LATER}),
    "zeros to read": (
        {"add_zero_attn": True, "batch_first": True, "add_bias_kv": True},
        {"attn_mask": drawn(L, S)},
    ),
    "causal": ({"batch_first": True}, {"attn_mask": LATER, "is_causal": True}),
}


@pytest.mark.parity
@pytest.mark.parametrize("case", CASES)
def test_parity_with_torch(case: str) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    options, masks = CASES[case]
    theirs = torch.nn.MultiheadAttention(E, H, **options).double()
    for p in theirs.parameters():  # biases, which begin with zeros, too
        torch.nn.init.normal_(p)
    ours = nn.MultiheadAttention(E, H, **options).double()
    state = {k: v.detach().numpy() for k, v in theirs.state_dict().items()}
    assert [*state] == [*ours.state_dict()]
    ours.load_state_dict(state)
    widths = zip((L, S, S), (E, options.get("kdim", E), options.get("vdim", E)), strict=True)
    shapes = [(N, t, w) if options.get("batch_first") else (t, N, w) for t, w in widths]
    arrays = [drawn(*shape, 1)[..., 0] for shape in shapes]
    x = [ag.tensor(a, requires_grad=True) for a in arrays]
    tx = [torch.tensor(a, requires_grad=True) for a in arrays]
    switches = {k: v for k, v in masks.items() if not isinstance(v, np.ndarray)}
    arrays_of = {k: v for k, v in masks.items() if isinstance(v, np.ndarray)}
    y, weights = ours(*x, **switches, **{k: ag.tensor(v) for k, v in arrays_of.items()})
    t, shares = theirs(*tx, **switches, **{k: torch.tensor(v) for k, v in arrays_of.items()})
    (y * y).sum().backward()
    (t * t).sum().backward()
    pairs = [(y, t), *((a.grad, b.grad) for a, b in zip(x, tx, strict=True))]
    pairs += [(p.grad, q.grad) for p, q in zip(ours.parameters(), theirs.parameters(), strict=True)]
    assert (weights is None) == (shares is None)
    pairs += [] if shares is None else [(weights, shares)]
    for a, b in pairs:
        np.testing.assert_allclose(a.numpy(), b.detach().numpy(), rtol=1e-9, atol=1e-11)


@pytest.mark.parity
@pytest.mark.parametrize(
    "options",
    [
        {"batch_first": True, "activation": "gelu"},
        {"norm_first": True, "layer_norm_eps": 0.1},
        {"bias": False},
    ],
    ids=str,
)
def test_the_encoder_layer_is_torchs(options: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    theirs = torch.nn.TransformerEncoderLayer(E, H, 8, dropout=0.0, **options).double()
    for p in theirs.parameters():
        torch.nn.init.normal_(p)
    ours = nn.TransformerEncoderLayer(E, H, 8, dropout=0.0, **options).double()
    state = {k: v.detach().numpy() for k, v in theirs.state_dict().items()}
    assert [*state] == [*ours.state_dict()]
    ours.load_state_dict(state)
    numbers = drawn(N, S, E) if options.get("batch_first") else drawn(S, N, E)
    x, tx = ag.tensor(numbers, requires_grad=True), torch.tensor(numbers, requires_grad=True)
    y = ours(x, src_key_padding_mask=ag.tensor(PADDING))
    t = theirs(tx, src_key_padding_mask=torch.tensor(PADDING))
    (y * y).sum().backward()
    (t * t).sum().backward()
    pairs = [(y, t), (x.grad, tx.grad)]
    pairs += [(p.grad, q.grad) for p, q in zip(ours.parameters(), theirs.parameters(), strict=True)]
    for a, b in pairs:
        np.testing.assert_allclose(a.numpy(), b.detach().numpy(), rtol=1e-8, atol=1e-9)


MASKS = {"tgt_mask": np.triu(np.full((L, L), -np.inf), 1), "memory_key_padding_mask": PADDING}


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("options", [{"batch_first": True}, {"norm_first": True}], ids=str)
def test_the_transformer_is_torchs(options: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    sizes = {"num_encoder_layers": 2, "num_decoder_layers": 2, "dim_feedforward": 5}
    theirs = torch.nn.Transformer(E, H, dropout=0.0, **sizes, **options).double()
    for p in theirs.parameters():
        torch.nn.init.normal_(p)
    ours = nn.Transformer(E, H, dropout=0.0, **sizes, **options).double()
    state = {k: v.detach().numpy() for k, v in theirs.state_dict().items()}
    assert [*state] == [*ours.state_dict()]
    ours.load_state_dict(state)
    batch_first = options.get("batch_first", False)
    numbers = [drawn(*((N, t, E) if batch_first else (t, N, E))) for t in (S, L)]
    x = [ag.tensor(a, requires_grad=True) for a in numbers]
    tx = [torch.tensor(a, requires_grad=True) for a in numbers]
    y = ours(*x, **{k: ag.tensor(v) for k, v in MASKS.items()})
    t = theirs(*tx, **{k: torch.tensor(v) for k, v in MASKS.items()})
    again = ours(*x, memory_key_padding_mask=ag.tensor(PADDING), tgt_is_causal=True)
    np.testing.assert_allclose(again.detach().numpy(), y.detach().numpy(), rtol=1e-12)
    (y * y).sum().backward()
    (t * t).sum().backward()
    pairs = [(y, t), *((a.grad, b.grad) for a, b in zip(x, tx, strict=True))]
    pairs += [(p.grad, q.grad) for p, q in zip(ours.parameters(), theirs.parameters(), strict=True)]
    for a, b in pairs:
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-7, atol=1e-8)


def test_layers_of_a_stack_are_copies_and_the_mask_is_torchs() -> None:
    layer = nn.TransformerEncoderLayer(E, H, 8)
    first, second = nn.TransformerEncoder(layer, 2).layers
    assert first.linear1.weight is not second.linear1.weight is not layer.linear1.weight
    np.testing.assert_array_equal(first.linear1.weight.numpy(), second.linear1.weight.numpy())
    mask = nn.Transformer.generate_square_subsequent_mask(3)
    assert mask.tolist() == np.triu(np.full((3, 3), -np.inf), 1).tolist()
    with pytest.raises(ValueError, match="TransformerEncoder: expected num_layers of at least 1"):
        nn.TransformerEncoder(layer, 0)


def test_dropout_of_the_encoder_layer_goes_by_the_sample() -> None:
    layer, x = nn.TransformerEncoderLayer(E, H, 8, dropout=0.5), ag.randn(S, N, E)
    found = []
    for samples in (np.arange(N), np.arange(1)):
        with random.keyed(samples, 0, 0):
            found.append(layer(x[:, : len(samples)], is_causal=True).numpy()[:, 0])
    np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-6)
    with random.keyed(np.arange(N), 0, 1):
        assert not np.allclose(layer(x, is_causal=True).numpy()[:, 0], found[0])


def test_one_tensor_is_projected_by_one_product() -> None:
    layer, x = nn.MultiheadAttention(E, H), ag.tensor(drawn(L, N, E), "float32")
    with ag.context.using(ledger=ag.Ledger()) as state:
        once, _ = layer(x, x, x)
    thrice, _ = layer(x, x.clone(), x)
    np.testing.assert_allclose(once.numpy(), thrice.numpy(), rtol=1e-5, atol=1e-6)
    assert sum(n for (*_, name, _, _), n in state.ledger.calls.items() if name == "linear") == 2
    assert state.ledger.total().macs == N * L * E * 4 * E + 2 * N * L * L * E


def test_a_sequence_alone() -> None:
    layer, x = nn.MultiheadAttention(E, H), ag.tensor(drawn(L, E), "float32")
    y, weights = layer(x, x, x, is_causal=True)
    z, shares = layer(*[x.unsqueeze(1)] * 3, is_causal=True)
    np.testing.assert_allclose(y.numpy(), z.numpy()[:, 0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(weights.numpy(), shares.numpy()[0], rtol=1e-5, atol=1e-6)


def test_what_is_masked_has_no_say() -> None:
    """The first positions' results stay when later ones change, gradients of which are 0."""
    layer, numbers = nn.MultiheadAttention(E, H, batch_first=True), drawn(N, L, E)
    found = []
    for change in (0.0, 1.0):
        x = ag.tensor(numbers + change * (np.arange(L) > 1)[:, None], "float32", requires_grad=True)
        y, _ = layer(x, x, x, is_causal=True)
        y[:, :2].sum().backward()
        assert x.grad is not None and not x.grad.numpy()[:, 2:].any() and x.grad.numpy().any()
        found.append(y.numpy()[:, :2])
    np.testing.assert_allclose(*found, rtol=1e-6)


def test_dropout_acts_on_the_weights_in_training() -> None:
    layer, x = nn.MultiheadAttention(E, H, dropout=0.5, batch_first=True), ag.randn(N, L, E)
    with random.keyed(np.arange(N), 0, 0):
        _, weights = layer(x, x, x, average_attn_weights=False)
    assert 0 < (weights.numpy() == 0).sum() < weights.numel()
    _, weights = layer.eval()(x, x, x)
    np.testing.assert_allclose(weights.numpy().sum(-1), 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: nn.MultiheadAttention(5, 2), "num_heads that divide embed_dim, got 2 and 5"),
        (lambda x: nn.MultiheadAttention(4, 2, 1.5), r"expected dropout in \[0, 1\], got 1.5"),
        (
            lambda x: nn.TransformerEncoderLayer(E, H, activation="gelo"),
            "unknown activation 'gelo'; did you mean 'gelu'",
        ),
        (
            lambda x: nn.MultiheadAttention(E, H)(x, x[0], x),
            r"of 2 or of 3 axes, got \(3, 4, 6\), \(4, 6\), \(3, 4, 6\)",
        ),
        (
            lambda x: ag.scaled_dot_product_attention(x, x, x, x, is_causal=True),
            "expected attn_mask or is_causal, got both",
        ),
        (
            lambda x: ag.scaled_dot_product_attention(x, x, x, ag.ones(L, L, dtype="int64")),
            "expected a mask of truth values or numbers, got int64",
        ),
    ],
)
def test_wrong_arguments(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(ag.tensor(drawn(N, L, E)))
