"""LARS, LAMB and Muon beside their formulae, written for whole matrices in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import context, nn, optim
from tallygrad.autograd.orthogonal import orthogonalize

SHAPES = ((3, 4), (4,), (5, 2, 2, 1), (2, 3))
NORM = np.linalg.norm


def lars(w: Any, g: Any, slots: dict[str, Any], t: int, lr: float, decay: float) -> Any:
    rate = 0.01 * NORM(w) / (NORM(g) + decay * NORM(w) + 1e-8) if w.ndim > 1 else 1.0
    slots["v"] = 0.9 * slots.get("v", 0) + rate * (g + decay * w)
    return w - lr * slots["v"]


def adam(g: Any, slots: dict[str, Any], t: int, betas: tuple[float, float], eps: float) -> Any:
    slots["m"] = betas[0] * slots.get("m", 0) + (1 - betas[0]) * g
    slots["s"] = betas[1] * slots.get("s", 0) + (1 - betas[1]) * g * g
    m, s = slots["m"] / (1 - betas[0] ** t), slots["s"] / (1 - betas[1] ** t)
    return m / (np.sqrt(s) + eps)


def lamb(w: Any, g: Any, slots: dict[str, Any], t: int, lr: float, decay: float) -> Any:
    r = adam(g, slots, t, (0.9, 0.999), 1e-6) + decay * w
    return w - lr * r * (NORM(w) / NORM(r) if w.ndim > 1 else 1.0)


def muon(w: Any, g: Any, slots: dict[str, Any], t: int, lr: float, decay: float) -> Any:
    if w.ndim == 1:
        return w * (1 - lr * decay) - lr * adam(g, slots, t, (0.9, 0.95), 1e-7)
    slots["m"] = 0.95 * slots.get("m", 0) + 0.05 * g
    x = (0.05 * g + 0.95 * slots["m"]).reshape(len(w), -1)
    left, singular, right = np.linalg.svd(x, full_matrices=False)
    singular = singular / NORM(singular)
    for _ in range(5):
        singular = 3.4445 * singular - 4.775 * singular**3 + 2.0315 * singular**5
    step = (left * singular) @ right * 0.2 * max(x.shape) ** 0.5
    return w * (1 - lr * decay) - lr * step.reshape(w.shape)


CASES: list[tuple[str, Any, dict[str, Any]]] = [
    ("LARS", lars, {"trust_coefficient": 0.01}),
    ("LAMB", lamb, {}),
    ("Muon", muon, {"adjust_lr_fn": "match_rms_adamw"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "formula", "settings"), CASES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_fifty_steps_end_where_the_formula_does(
    name: str, formula: Any, settings: dict[str, Any], dtype: str
) -> None:
    rng = np.random.default_rng(0)
    exact = [rng.standard_normal(shape) for shape in SHAPES]
    ours = [nn.Parameter(ag.tensor(w.astype(dtype))) for w in exact]
    schedule = optim.schedules.Cosine(0.1, 60)
    made = getattr(optim, name)(ours, lr=schedule, weight_decay=0.1, **settings)
    made.exempt_from_decay(ours[1:2])
    slots: list[dict[str, Any]] = [{} for _ in SHAPES]
    for step in range(50):
        for i, p in enumerate(ours):
            g = rng.standard_normal(p.shape)
            p.deliver(ag.tensor(g.astype(dtype)))
            decay = 0.1 * (i != 1)
            exact[i] = formula(exact[i], g, slots[i], step + 1, schedule(step), decay)
        made.step()
        made.zero_grad()
    far = max(np.abs(p.numpy() - w).max() for p, w in zip(ours, exact, strict=True))
    assert far < (1e-12 if dtype == "float64" else 2e-6)


@pytest.mark.parametrize("shape", [(8, 5), (5, 8), (4, 4), (1, 9)])
def test_orthogonal_steps_have_singular_values_near_one(shape: tuple[int, int]) -> None:
    x = np.random.default_rng(1).standard_normal(shape)
    found = np.linalg.svd(orthogonalize(x, 5, 1e-7), compute_uv=False)
    assert found.min() > 0.3 and found.max() < 1.3
    assert not orthogonalize(np.zeros(shape), 5, 1e-7).any()


@pytest.mark.parametrize("name", ["LARS", "LAMB", "Muon"])
def test_a_gradient_or_a_weight_of_zeros_is_no_fault(name: str) -> None:
    """Its norm does not scale the step then."""
    for number in (0.0, 1.0):
        p = nn.Parameter(ag.full((2, 3), number))
        p.deliver(ag.full((2, 3), 1.0 - number))
        made = getattr(optim, name)([p], lr=0.1, weight_decay=0.0)
        made.step()
        assert np.isfinite(p.numpy()).all() and (p.numpy() == number).all() == (number == 1)


def test_the_products_of_muon_are_counted_on_meta_too() -> None:
    """Two products with the matrix and one of squares in each of five iterations."""
    rows = []
    for backend in ("numpy", "meta"):
        with context.using(backend=backend):
            p = nn.Parameter(ag.zeros(3, 7))
            p.deliver(ag.ones(3, 7))
            made = optim.Muon([p], weight_decay=0.0)
            with context.using(ledger=ag.Ledger()) as state:
                made.step()
        (row,) = state.ledger
        rows.append(row.cost)
    products = 5 * (2 * 3 * 3 * 7 + 3 * 3 * 3)
    assert rows[0] == rows[1] and rows[0].macs == 0
    assert rows[0].mul == products + 5 * 2 * 9 + (4 + 6) * 21
    assert rows[0].add == products + 5 * 9 + (5 + 6) * 21


@pytest.mark.parametrize(("name", "settings", "said"), [
    ("LARS", {"trust_coefficient": -1.0}, "LARS: expected trust_coefficient of at least 0, got -1"),
    ("LAMB", {"betas": (1.0, 0.9)}, r"LAMB: expected betas of two numbers in \[0, 1\)"),
    ("Muon", {"adjust_lr_fn": "none"}, "Muon: expected adjust_lr_fn original or match_rms_adamw"),
    ("Muon", {"ns_coefficients": (3.0, -4.0)}, "Muon: expected three ns_coefficients, got 2"),
    ("Muon", {"ns_steps": -1}, "Muon: expected a whole ns_steps in .0, 100., got -1"),
    ("Muon", {"ns_steps": 2.5}, r"Muon: expected a whole ns_steps in \[0, 100\], got 2"),
    ("LARS", {"momentum": 2}, r"LARS: expected momentum in \[0, 1\], got 2"),
])  # fmt: skip
def test_wrong_settings(name: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        getattr(optim, name)([nn.Parameter(ag.ones(2))], **settings)


def test_state_goes_on_with_the_same_bits() -> None:
    for name in ("LARS", "LAMB", "Muon"):
        numbers = [np.random.default_rng(5).standard_normal(s).astype("f4") for s in SHAPES]
        ends = []
        for cut in (False, True):
            ours = [nn.Parameter(ag.tensor(w.copy())) for w in numbers]
            made = getattr(optim, name)(ours)
            for step in range(4):
                if cut and step == 2:
                    state, made = made.state_dict(), getattr(optim, name)(ours)
                    made.load_state_dict(state)
                for p in ours:
                    p.deliver(ag.full(p.shape, 0.1 * (step + 1)))
                made.step()
                made.zero_grad()
            ends.append(b"".join(p.numpy().tobytes() for p in ours))
        assert ends[0] == ends[1]
