"""Shares of zeros in a model's layers, for machines that skip or compress them: from a run that
counted them, or from a TOML or JSON file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...autograd.ledger import Ledger, SparsitySample
from ..errors import UserError, nearest
from ..parsing import read_toml_or_json
from .phases import PASSES, REPEATED
from .reader import SHARE, KeyPath, Optional, Table

SHARES = ("input", "output", "gradient", "weights")
FACTORS = {  # the operands of the MACs of each pass
    "forward": ("input", "weights"),
    "backward_data": ("gradient", "weights"),
    "backward_weights": ("input", "gradient"),
}


@dataclass(frozen=True)
class LayerZeros:
    """Shares of zeros in a layer, 0 to 1.

    `output` is that of the output as the next layer reads it, `gradient` that of the gradients that
    come in, and `input_gradient` that of the gradients that go out, as the previous layer reads
    them. `nonzero` is by pass the share of MACs without a zero factor.
    """

    input: float = 0.0
    output: float = 0.0
    gradient: float = 0.0
    input_gradient: float = 0.0
    weights: float = 0.0
    nonzero: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Zeros:
    """The shares of zeros that are known, by layer, and their source in words."""

    source: str
    layers: Mapping[str, LayerZeros]

    def of(self, layer: str) -> LayerZeros | None:
        """Return the shares of a layer, None where they are unknown."""
        return self.layers.get(layer)


def from_file(name: str, model: str, layers: Iterable[str]) -> Zeros:
    """Return the shares in a TOML or JSON file, a table per layer; `layers` are the names of the
    model's layers in order. UserError, naming key and value, for a file that does not fit."""
    return _zeros(name, _of_file(Path(name)), name, model, layers)


def from_run(name: str, ledger: Ledger, steps: int, model: str, layers: Iterable[str]) -> Zeros:
    """Return the shares that a run sampled, from its ledger after `steps` steps; `layers` are the
    names of the model's layers in order. UserError where it sampled none."""
    if not ledger.sampled_steps:
        raise UserError(
            f"--zeros {name}: expected a run that counted zeros: train with --sparsity every=K"
        )
    source = f"{name}, sampled on {ledger.sampled_steps:,} of {steps:,} steps"
    return _zeros(source, of_ledger(ledger), name, model, layers)


def _zeros(
    source: str, shares: Mapping[str, Mapping[str, float]], name: str, model: str,
    layers: Iterable[str],
) -> Zeros:  # fmt: skip
    known = [*layers]
    for layer in shares:
        if layer not in known:
            hint = nearest(layer, known)
            raise UserError(f"--zeros {name}: {model} has no layer {layer!r:.60}{hint}")
    return Zeros(source, _chained({layer: shares[layer] for layer in known if layer in shares}))


def share(part: float, whole: float) -> float | None:
    """Return part / whole, None where the whole is 0."""
    return part / whole if whole else None


def of_ledger(ledger: Ledger) -> dict[str, dict[str, float]]:
    """Return the shares that a run sampled: {layer: {"input", "weights", "gradient" or a pass:
    share}}."""
    phases: dict[str, dict[str, SparsitySample]] = {}
    for (scope, phase, *_), samples in ledger.sampled.items():
        if phase in PASSES and samples.macs:
            layer = phases.setdefault(scope, {})
            layer[phase] = layer.get(phase, SparsitySample()).plus(samples)
    return {scope: _shares(samples) for scope, samples in phases.items()}


def nonzero_macs(ledger: Ledger) -> dict[tuple[str, str], float]:
    """Return the estimated MACs without a zero factor, by layer and phase, over all steps.

    A layer has the share of its sampled steps, in recomputation and evaluation that of its forward
    pass. Where nothing is known all MACs count.
    """
    shares, macs = of_ledger(ledger), dict[tuple[str, str], float]()
    for row in ledger.rows():
        scope, phase = key = row.key.scope_and_phase
        part = shares.get(scope, {}).get("forward" if phase in REPEATED else phase, 1.0)
        macs[key] = macs.get(key, 0.0) + row.cost.macs * part
    return macs


def _shares(samples: Mapping[str, SparsitySample]) -> dict[str, float]:
    forward = samples.get("forward", SparsitySample())
    back = samples.get("backward_weights") or samples.get("backward_data") or SparsitySample()
    shares = {
        "input": share(forward.activation_zeros, forward.activations),
        "weights": share(forward.weight_zeros, forward.weights),
        "gradient": share(back.gradient_zeros, back.gradients),
        **{phase: share(one.nonzero, one.macs) for phase, one in samples.items()},
    }
    return {name: value for name, value in shares.items() if value is not None}


def _of_file(path: Path) -> dict[str, dict[str, float]]:
    """Return the shares of a file by layer. UserError, naming key and value, where a table does not
    fit."""
    content = read_toml_or_json("--zeros", path, path.suffix[1:].upper())
    return dict(_layers(KeyPath(f"--zeros {path}"), content))


def _layers(key_path: KeyPath, content: Any) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield names of layers with their shares. TOML reads `[stage1.0.conv1]` as nested tables,
    hence the recursion: a table without tables is a layer."""
    expected = "a table of shares"
    if not isinstance(content, dict) or not content:
        key_path.refuse(expected, content)
    nested = {key: value for key, value in content.items() if isinstance(value, dict)}
    for key, value in content.items():
        if key not in nested and (nested or not key_path.key):
            key_path.at(key).refuse(expected, value)
    for key, value in nested.items():
        yield from _layers(key_path.at(key), value)
    if not nested:
        shares = _LAYER.read(key_path, content)
        yield key_path.key, {key: share for key, share in shares.items() if share is not None}


_LAYER = Table(dict[str, float | None], **{key: Optional(SHARE) for key in (*SHARES, *PASSES)})


def _chained(shares: Mapping[str, Mapping[str, float]]) -> dict[str, LayerZeros]:
    """Return layers, in order, with the shares that their neighbours imply.

    An output without a share of its own has that of the next layer's input; the gradient that goes
    out has that of the gradient that comes in to the previous layer. A pass without a share of
    non-zero MACs has the product of its operands' shares, as if zeros were independent.
    """
    # Neighbours are those in the order of the model's layers; a residual branch is not followed.
    names = [*shares]
    layers: dict[str, LayerZeros] = {}
    for i, name in enumerate(names):
        own = shares[name]
        after = shares[names[i + 1]] if i + 1 < len(names) else {}
        before = shares[names[i - 1]] if i else {}
        nonzero = {
            phase: own.get(phase, (1 - own.get(a, 0.0)) * (1 - own.get(b, 0.0)))
            for phase, (a, b) in FACTORS.items()
        }
        layer = LayerZeros(**{key: own.get(key, 0.0) for key in SHARES}, nonzero=nonzero)
        layers[name] = replace(
            layer,
            output=own.get("output", after.get("input", 0.0)),
            input_gradient=before.get("gradient", 0.0),
        )
    return layers
