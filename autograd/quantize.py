"""Post-training quantization: convolutions and linear layers as products of 8-bit integers.

How a model computes is observed while it runs on the calibration batches. A layer is known by its
weight in calls of primitives. A batch norm is folded into a layer if all that it reads are results
of this layer, which nothing else reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from math import inf, isfinite, prod
from typing import TypeAlias, TypeGuard
from weakref import WeakKeyDictionary

import numpy as np

from . import context
from .array import Array, array
from .capture.observer import Dispatched, PassiveObserver
from .differentiate import no_grad
from .dtypes import COMPUTED
from .ledger import Ledger
from .nn.layers import Conv2d, Identity, Linear
from .nn.module import Module
from .nn.norm import BatchNorm
from .nn.quantized import QuantizedConv2d, QuantizedLinear, scale_of
from .ops.quantized import MOST_TERMS
from .storage import Storage
from .tensor import Tensor

Layer: TypeAlias = Conv2d | Linear
Batch: TypeAlias = Tensor | tuple[Tensor, ...]
LAYERS: Mapping[str, type[Layer]] = {"conv2d": Conv2d, "linear": Linear}  # by primitive
AXES = {"conv2d": 4, "linear": 2}  # of results whose second axis is that of the weight's rows


class Uses(PassiveObserver):
    """Observes what layers read, and who reads their results.

    `range` has the smallest and the largest number that a layer read, if it read any. `readers` are
    those of a layer's results, `sources` the layers whose results a batch norm reads; None is
    anything else. `unpaired` counts calls of primitives on a module's numbers less those of the
    module."""

    def __init__(self, model: Module, ledger: Ledger) -> None:
        super().__init__(ledger)
        modules = [*model.modules()]
        self.layers = {id(m.weight.array): m for m in modules if _has_integer_form(m)}
        means = [(m.running_mean, m) for m in modules if _is_foldable(m)]
        self.norms = {id(mean.array): m for mean, m in means if mean is not None}
        both: list[Module] = [*self.layers.values(), *self.norms.values()]
        self.unpaired = dict.fromkeys(both, 0)
        self.range: dict[Layer, tuple[float, float]] = {}
        self.reshaped: list[Array] = []
        # None is anything else than a batch norm, or a layer.
        self.readers: dict[Layer, set[BatchNorm | None]] = {m: set() for m in self.layers.values()}
        self.sources: dict[BatchNorm, set[Layer | None]] = {m: set() for m in self.norms.values()}
        # Results of layers that somebody holds, and whether a batch norm has read them.
        self.alive: WeakKeyDictionary[Storage, tuple[Layer, bool]] = WeakKeyDictionary()

    def called(self, module: Module) -> None:
        """Observe that a module is called."""
        if module in self.unpaired:
            self.unpaired[module] -= 1

    def refuse(self, what: str) -> None:
        """Observe that Python reads numbers, nobody knows of which array: no norm is folded."""
        for norm in self.norms.values():
            self.sources[norm].add(None)

    def add(self, call: Dispatched) -> None:
        """Observe a call."""
        name, args = call.primitive.name, call.args
        if name == "reshape" and self._keeps_channels(args[0], call.results[0]):
            return
        norm = self.norms.get(id(args[3])) if name == "batch_norm_eval" else None
        for i, a in enumerate(args):
            maker = self._read(a, norm if i == 0 else None)
            if norm is not None and i == 0:
                self.sources[norm].add(maker)
                self.unpaired[norm] += 1
            layer = self.layers.get(id(a))
            if layer is None:
                continue
            if name == "reshape":  # as Conv1d does
                self.layers[id(call.results[0])] = layer
                self.reshaped.append(call.results[0])
                continue
            self.unpaired[layer] += 1
            if i == 1 and isinstance(layer, LAYERS.get(name, ())):
                self._computed(layer, args[0], call.results[0], AXES[name])

    def _keeps_channels(self, y: Array, result: Array) -> bool:
        """Tell whether a layer's results are reshaped, as those of Conv1d, such that the second
        axis stays that of the weight's rows; who reads the new array then reads them."""
        if y.storage not in self.alive or result.shape[:2] != y.shape[:2]:
            return False
        self.alive[result.storage] = self.alive[y.storage]
        return True

    def _computed(self, layer: Layer, x: Array, y: Array, axes: int) -> None:
        """Observe what a layer made of its input."""
        if x.spec.size:
            low, high = self.range.get(layer, (inf, -inf))
            if x.has_numbers:
                low = float(np.minimum(x.value.min(), low))
                high = float(np.maximum(x.value.max(), high))
            self.range[layer] = low, high
        if len(y.shape) == axes:
            self.alive[y.storage] = layer, False

    def _read(self, a: Array, norm: BatchNorm | None) -> Layer | None:
        """Note who reads an array, and return the layer whose result it is, if it is one."""
        layer, again = self.alive.get(a.storage, (None, False))
        if layer is None:
            return None
        self.readers[layer].add(None if again else norm)
        self.alive[a.storage] = layer, True
        return layer

    def end_batch(self) -> None:
        """Observe that a batch is done: whoever still holds a layer's result may read it."""
        for layer, _ in self.alive.values():
            self.readers[layer].add(None)
        self.alive.clear()

    def folded(self) -> dict[Layer, BatchNorm]:
        """Return the batch norms that the layers before them can do the work of."""
        return {
            layer: norm
            for layer, readers in self.readers.items()
            for norm in readers
            if norm is not None and readers == {norm} and self.sources[norm] == {layer}
            if self.unpaired[layer] == self.unpaired[norm] == 0
        }


def _has_integer_form(module: Module) -> TypeGuard[Layer]:
    """Tell whether a module computes as Conv2d, Conv1d or Linear do, in sums that fit int32."""
    if not isinstance(module, (Conv2d, Linear)):
        return False
    weight, forward = module.weight, type(module).forward
    is_plain = forward in (Conv2d.forward, Linear.forward) and weight.dtype in COMPUTED
    return is_plain and prod(weight.shape[1:]) <= MOST_TERMS


def _is_foldable(module: Module) -> TypeGuard[BatchNorm]:
    if not isinstance(module, BatchNorm):
        return False
    return type(module).forward is BatchNorm.forward and module.running_mean is not None


class NoneCalled(PassiveObserver):
    """Checks that modules which were replaced are called no more."""

    def __init__(self, names: Mapping[Module, str], ledger: Ledger) -> None:
        super().__init__(ledger)
        self.names = names

    def called(self, module: Module) -> None:
        """ValueError for a module that was replaced."""
        if module in self.names:
            raise ValueError(
                f"quantize: {self.names[module]}: expected calls as a child of a module alone, got "
                "one through another reference"
            )


def quantize(model: Module, batches: Iterable[Batch]) -> Module:
    """Return a copy of a model for inference with int8 weights and activations.

    Conv2d, Conv1d and Linear become QuantizedConv2d and QuantizedLinear, whose products are exact;
    batch norms right after them are folded into their weights and become Identity. Everything else
    computes as before, also layers that the batches do not reach, or with empty inputs alone.
    Weights have a symmetric scale for each filter, inputs one for each layer,
    from the largest magnitude in `batches`; inputs without negative numbers there are unsigned. A
    batch is the model's input, or a tuple of its inputs.

    ValueError for no batches, for a model without such layers or one that is quantized, and for
    numbers that are not finite, TypeError for what is no model, and what is no list of batches."""
    _check(model, batches)
    model, ledger = deepcopy(model).eval(), Ledger()
    uses, batch = Uses(model, ledger), None
    with no_grad(), context.using(ledger=ledger, autocast=None):
        for batch in batches:
            _check_batch(batch)
            with context.using(observer=uses):
                result = _call(model, batch)
            uses.end_batch()
            del result
        if batch is None:
            raise ValueError("quantize: expected batches to calibrate with, got none")
        replaced = _replacements(model, uses)
        for parent in [*model.modules()]:
            for name, child in [*parent.named_children()]:
                if child in replaced:
                    setattr(parent, name, replaced[child][1])
        names = {module: name for module, (name, _) in replaced.items()}
        model = replaced[model][1] if model in replaced else model
        with context.using(observer=NoneCalled(names, ledger)):
            _call(model, batch)
    return model.eval()


def _check(model: object, batches: object) -> None:
    """TypeError or ValueError for what is no model in floating-point and no list of batches."""
    if not isinstance(model, Module):
        said = f"{type(model).__name__} {getattr(model, '__name__', '')}".rstrip()
        raise TypeError(f"quantize: expected a Module, not traced yet, got {said}")
    for name, module in model.named_modules():
        if isinstance(module, QuantizedConv2d | QuantizedLinear):
            raise ValueError(
                "quantize: expected a model in floating-point, got one that is quantized: "
                f"{name or type(module).__name__}"
            )
    if isinstance(batches, Tensor):
        raise TypeError(f"quantize: expected a list of batches, got a tensor {batches.shape}")
    if not isinstance(batches, Iterable):
        raise TypeError(f"quantize: expected a list of batches, got {type(batches).__name__}")


def _check_batch(batch: object) -> None:
    """TypeError or ValueError for a batch that is not a tensor, or a tuple of them, of numbers."""
    inputs = batch if isinstance(batch, tuple) else (batch,)
    for x in inputs:
        if not isinstance(x, Tensor):
            raise TypeError(
                "quantize: expected each batch as a tensor, or a tuple of the model's inputs, got "
                f"{type(x).__name__}"
            )
        if not x.size:
            raise ValueError(f"quantize: expected batches with numbers, got {x.shape}")


def _call(model: Module, batch: Batch) -> object:
    return model(*batch) if isinstance(batch, tuple) else model(batch)


def _replacements(model: Module, uses: Uses) -> dict[Module, tuple[str, Module]]:
    """Return for each module to replace its name and what comes in its place."""
    folded = uses.folded()
    replaced: dict[Module, tuple[str, Module]] = {}
    for name, module in model.named_modules():
        if _has_integer_form(module) and module in uses.range and not uses.unpaired[module]:
            norm = folded.get(module)
            replaced[module] = name, _integer_form(name, module, norm, uses)
            if norm is not None:
                replaced[norm] = name, Identity()
    if not replaced:
        raise ValueError(
            "quantize: expected a model with a Conv2d, Conv1d or Linear of float32 weights that "
            "nothing else uses, got none"
        )
    return replaced


def _integer_form(name: str, layer: Layer, norm: BatchNorm | None, uses: Uses) -> Module:
    """Return a layer of integers. ValueError for weights or inputs that are not finite."""
    weight, bias = layer.weight.detach(), None if layer.bias is None else layer.bias.detach()
    if norm is not None:
        weight, bias = _fold(weight, bias, norm)
    low, high = uses.range[layer]
    if low > high:  # there are shapes alone
        low, high = -1.0, 1.0
    largest = Tensor(array(np.asarray(max(-low, high)), weight.dtype))
    for what, top in (("weights", weight.abs().max()), ("inputs", largest)):
        if top.array.has_numbers and not isfinite(float(top.item())):
            said = name or type(layer).__name__
            raise ValueError(f"quantize: {said}: expected finite {what}, got {top.item()}")
    numbers = weight, bias, scale_of(largest, signed=low < 0), low < 0
    if isinstance(layer, Conv2d):
        return QuantizedConv2d(layer, *numbers)
    return QuantizedLinear(layer, *numbers)


def _fold(weight: Tensor, bias: Tensor | None, norm: BatchNorm) -> tuple[Tensor, Tensor]:
    """Return the weight and the bias of a layer that does the work of the batch norm after it."""
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None and var is not None
    rate = 1 / (var + norm.eps).sqrt()
    rate = rate if norm.weight is None else rate * norm.weight.detach()
    shift = -mean * rate if bias is None else (bias - mean) * rate
    shift = shift if norm.bias is None else shift + norm.bias.detach()
    return weight * rate.reshape(-1, *(1 for _ in weight.shape[1:])), shift
