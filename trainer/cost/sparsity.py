"""Shares of zeros of a model's layers, as machines take them: from a run that counted them, or from
a small file of TOML or JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...autograd.ledger import Ledger, Sample
from ..errors import UserError, nearest
from ..files import read_toml_or_json
from .report.ledger import PASSES, share

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
    phases: dict[str, dict[str, Sample]] = {}
    for (scope, phase, *_), found in ledger.sampled.items():
        if phase in PASSES and found.macs:
            layer = phases.setdefault(scope, {})
            layer[phase] = layer.get(phase, Sample()).plus(found)
    return {scope: _shares(found) for scope, found in phases.items()}


def _shares(found: Mapping[str, Sample]) -> dict[str, float]:
    forward = found.get("forward", Sample())
    back = found.get("backward_weights") or found.get("backward_data") or Sample()
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
    flat = _tables(path, read_toml_or_json("--zeros", path, path.suffix[1:].upper()))
    keys = (*SHARES, *PASSES)
    for layer, table in flat.items():
        for key, value in table.items():
            where = f"--zeros {path}: {layer}.{key}"
            if key not in keys:
                raise UserError(f"{where} is unknown{nearest(key, keys)}")
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise UserError(f"{where} = {value!r:.60}: a number from 0 to 1 is needed")
            if not 0 <= value <= 1:
                raise UserError(f"{where} = {value!r:.60}: it must be from 0 to 1")
    return flat


def _tables(path: Path, held: Any, name: str = "") -> dict[str, dict[str, Any]]:
    """Return the tables by the layers' names; TOML nests those of `[stage1.0.conv1]`."""
    if not isinstance(held, dict) or not held:
        where = name or "the file"
        raise UserError(f"--zeros {path}: {where} = {held!r:.60}: a table of shares is needed")
    nested = {key: value for key, value in held.items() if isinstance(value, dict)}
    if nested and len(nested) < len(held):
        odd = next(key for key in held if key not in nested)
        where = f"{name}.{odd}" if name else odd
        raise UserError(f"--zeros {path}: {where} = {held[odd]!r:.60}: a table of shares is needed")
    if not nested:
        if not name:
            odd, value = next(iter(held.items()))
            raise UserError(f"--zeros {path}: {odd} = {value!r:.60}: a table of shares is needed")
        return {name: held}
    found: dict[str, dict[str, Any]] = {}
    for key, value in nested.items():
        found |= _tables(path, value, f"{name}.{key}" if name else key)
    return found


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
