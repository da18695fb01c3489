"""Shares of zeros of a model's layers, as machines take them: from a run that counted them, or from
a small file of TOML or JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...autograd.ledger import Ledger, SparsitySample
from ..errors import UserError, nearest
from ..parsing import read_toml_or_json
from .phases import PASSES
from .reader import SHARE, Optional, Table, Where
from .report.ledger import share

SHARES = ("input", "output", "gradient", "weights")
FACTORS = {  # what meets in a pass
    "forward": ("input", "weights"),
    "backward_data": ("gradient", "weights"),
    "backward_weights": ("input", "gradient"),
}


@dataclass(frozen=True)
class LayerZeros:
    """Shares of zeros, 0 to 1, in a layer's input, in its output as the next layer reads it, in the
    gradients that come in, in those that it gives as the layer before it reads them, and in its
    weights; and by pass the share of MACs whose factors both are not zero."""

    input: float = 0.0
    output: float = 0.0
    gradient: float = 0.0
    input_gradient: float = 0.0
    weights: float = 0.0
    nonzero: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Zeros:
    """What is known of layers by name, and where it is from."""

    source: str
    layers: Mapping[str, LayerZeros]

    def of(self, layer: str) -> LayerZeros | None:
        """Return what is known of a layer."""
        return self.layers.get(layer)


def read(name: str, model: str, layers: Iterable[str]) -> Zeros:
    """Return the shares of a run folder, of a checkpoint or of a file for a model's layers, named
    in order. UserError where there are none, for a run of another model, and for layers that the
    model has not."""
    path, known, source = Path(name), [*layers], name
    if path.suffix in (".toml", ".json"):
        given = _of_file(path)
    else:
        ledger, steps = _of_run(path, model)
        given = of_ledger(ledger)
        source += f", sampled on {ledger.sampled_steps:,} of {steps:,} steps"
    for layer in given:
        if layer not in known:
            hint = nearest(layer, tuple(known))
            raise UserError(f"--zeros {path}: {model} has no layer {layer!r:.60}{hint}")
    return Zeros(source, _chained({layer: given[layer] for layer in known if layer in given}))


def of_ledger(ledger: Ledger) -> dict[str, dict[str, float]]:
    """Return the shares that a run has sampled, by layer."""
    phases: dict[str, dict[str, SparsitySample]] = {}
    for (scope, phase, *_), found in ledger.sampled.items():
        if phase in PASSES and found.macs:
            layer = phases.setdefault(scope, {})
            layer[phase] = layer.get(phase, SparsitySample()).plus(found)
    return {scope: _shares(found) for scope, found in phases.items()}


def _shares(found: Mapping[str, SparsitySample]) -> dict[str, float]:
    forward = found.get("forward", SparsitySample())
    back = found.get("backward_weights") or found.get("backward_data") or SparsitySample()
    shares = {
        "input": share(forward.activation_zeros, forward.activations),
        "weights": share(forward.weight_zeros, forward.weights),
        "gradient": share(back.gradient_zeros, back.gradients),
        **{phase: share(one.nonzero, one.macs) for phase, one in found.items()},
    }
    return {name: value for name, value in shares.items() if value is not None}


def _of_run(path: Path, model: str) -> tuple[Ledger, int]:
    """Return the books of a run and its steps."""
    from ..components.checkpoint import (
        load,  # which load h5py
        newest_checkpoint,
    )
    from ..components.state import read_ledger, recorded

    file = newest_checkpoint(path)
    meta = load(file).meta
    mine = recorded(file, meta, "model", str)
    if mine != model:
        raise UserError(f"--zeros {path}: a run of {mine}, not of {model}")
    ledger = read_ledger(file, meta)
    if not ledger.sampled_steps:
        raise UserError(f"--zeros {path}: this run has counted none: train with --sparsity every=K")
    return ledger, recorded(file, meta, "step", int)


def _of_file(path: Path) -> dict[str, dict[str, float]]:
    """Return the shares of a file: a table for each layer. UserError, naming key and value, for a
    file that is not one."""
    content = read_toml_or_json("--zeros", path, path.suffix[1:].upper())
    return dict(_layers(Where(f"--zeros {path}"), content))


def _layers(where: Where, content: Any) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield names of layers with their shares; TOML nests the tables of `[stage1.0.conv1]`."""
    expected = "a table of shares"
    if not isinstance(content, dict) or not content:
        where.refuse(expected, content)
    nested = {key: value for key, value in content.items() if isinstance(value, dict)}
    for key, value in content.items():
        if key not in nested and (nested or not where.key):
            where.at(key).refuse(expected, value)
    for key, value in nested.items():
        yield from _layers(where.at(key), value)
    if not nested:
        shares = _LAYER.read(where, content)
        yield where.key, {key: share for key, share in shares.items() if share is not None}


def _shares_by_name(**shares: float | None) -> dict[str, float | None]:
    return shares


_LAYER = Table(_shares_by_name, **{key: Optional(SHARE) for key in (*SHARES, *PASSES)})


def _chained(given: Mapping[str, Mapping[str, float]]) -> dict[str, LayerZeros]:
    """Return layers, in order, with what their neighbours read: what is not told of an output is
    taken to be as the input of the next layer, and the gradient that goes out as that which comes
    in to the layer before. What is told of no pass is the product of its factors' shares."""
    names = [*given]
    made: dict[str, LayerZeros] = {}
    for i, name in enumerate(names):
        own = given[name]
        after = given[names[i + 1]] if i + 1 < len(names) else {}
        before = given[names[i - 1]] if i else {}
        nonzero = {
            phase: own.get(phase, (1 - own.get(a, 0.0)) * (1 - own.get(b, 0.0)))
            for phase, (a, b) in FACTORS.items()
        }
        layer = LayerZeros(**{key: own.get(key, 0.0) for key in SHARES}, nonzero=nonzero)
        made[name] = replace(
            layer,
            output=own.get("output", after.get("input", 0.0)),
            input_gradient=before.get("gradient", 0.0),
        )
    return made
