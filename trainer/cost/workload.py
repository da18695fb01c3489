"""The work of a model, layer by layer and pass by pass, from a run on shapes alone.

The model's own Python runs on the `meta` backend, so the counts are those of a real run's ledger.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ...autograd import (
    Ledger,
    Tensor,
    autocast,
    context,
    models,
    nn,
    no_grad,
    optim,
    quantize,
    zeros,
)
from ...autograd.array import Array
from ...autograd.capture.observer import Dispatched
from ...autograd.capture.peak_memory import PeakMemory
from ...autograd.ledger import Cost
from ...autograd.nn.norm import BatchNorm

# The primitives that make a layer of filters, and the kind of that layer in reports.
KINDS = {
    "conv2d": "conv", "linear": "fc", "quantized_conv2d": "conv", "quantized_linear": "fc",
}  # fmt: skip
OTHER = "other"  # the kind of any other layer


class LayerShape(NamedTuple):
    """The shape of a layer of filters, in the letters of Sze et al. (Proc. IEEE 2017).

    N images, M filters, C channels; H x W inputs, R x S filters, E x F outputs; U strides of rows
    and columns. A linear layer has H = W = R = S = E = F = 1.
    """

    N: int
    M: int
    C: int
    H: int
    W: int
    R: int
    S: int
    E: int
    F: int
    U: tuple[int, int]
    groups: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the forward pass."""
        return self.N * self.M * (self.C // self.groups) * self.R * self.S * self.E * self.F


@dataclass
class LayerWork:
    """The work of a module in a step.

    `costs` and `peaks` are by phase; peaks are the most bytes of results alive at once meanwhile.
    `stashed` are bytes that the tape saves for the backward pass. `shapes` are those of its
    convolutions and matrix products, in the order of their calls. `weights` leave out biases.
    """

    name: str
    kind: str = OTHER
    weights: int = 0
    parameters: int = 0
    stashed: int = 0
    costs: dict[str, Cost] = field(default_factory=dict)
    peaks: dict[str, int] = field(default_factory=dict)
    shapes: list[LayerShape] = field(default_factory=list)

    def macs(self, phase: str) -> int:
        """Return the MACs of a phase, 0 where the layer has none."""
        return self.costs.get(phase, Cost()).macs


@dataclass(frozen=True)
class Work:
    """The work of a step on `batch` images of shape `input`, (C, H, W).

    `layers` are in the order of their first call. `parameters` is the number of trained values,
    `peak` the most bytes of results alive at once. `training` tells a training step from a forward
    pass. `optimizer` has `settings`, and keeps `slots` values for each trained one. `norms` are the
    channels of the batch norms. `precision` is float32, bf16 or int8.
    """

    model: str
    batch: int
    input: tuple[int, ...]
    layers: list[LayerWork]
    ledger: Ledger
    parameters: int
    peak: int
    training: bool
    optimizer: str
    settings: Sequence[str]
    slots: int
    norms: tuple[int, ...] = ()
    precision: str = "float32"

    def phase(self, name: str) -> Cost:
        """Return the cost of a phase, summed over all layers."""
        return self.ledger.by("phase").get(name, Cost())


class ShapeRecorder(PeakMemory):
    """Observes calls, and records the shapes of layers and the bytes of results that are alive."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger)
        self.shapes: dict[str, list[tuple[str, LayerShape]]] = {}

    def add(self, call: Dispatched) -> None:
        """Record a call."""
        super().add(call)
        primitive, (scope, phase, *_) = call.primitive, call.key
        if primitive.name in KINDS and phase == "forward":
            named = dict(zip(primitive.defaults, call.attrs, strict=True))
            shape = _shape(primitive.name, call.args, call.results[0], named)
            self.shapes.setdefault(scope, []).append((primitive.name, shape))


def _shape(name: str, args: Sequence[Array], y: Array, attrs: dict[str, Any]) -> LayerShape:
    x, w = args[0].shape, args[1].shape
    if KINDS[name] == "fc":
        rows = int(np.prod(x[:-1]))
        return LayerShape(rows, w[0], w[1], 1, 1, 1, 1, 1, 1, (1, 1), 1)
    (n, c, h, wide), (m, _, r, s), (e, f) = x, w, y.shape[2:]
    return LayerShape(n, m, c, h, wide, r, s, e, f, attrs["stride"], attrs["groups"])


def count(
    name: str, batch: int, input_shape: tuple[int, int, int], classes: int, training: bool,
    optimizer: str = "sgd", precision: str = "float32", **options: Any,
) -> Work:  # fmt: skip
    """Return the work of a step of training with an optimizer, by name, with its usual settings, or
    of a forward pass in evaluation mode. ValueError for an unknown model or optimizer and for what
    the model cannot take, such as training in int8, ImportError for bf16 where ml_dtypes is not
    installed."""
    if training and precision == "int8":
        raise ValueError("--precision: expected float32 or bf16 in training, got int8")
    ledger, mixed = Ledger(), autocast("bfloat16", enabled=precision == "bf16")
    with context.using(backend="meta", ledger=Ledger(), phase="forward", scope=""):
        model = models.create(name, input_shape=input_shape, classes=classes, **options)
        x = zeros(batch, *input_shape)
        labels, share = zeros(batch, dtype=np.int64), zeros(())
        parameters = [*model.parameters()]
        settings = optim.usual_settings(optimizer)
        if training:
            update = optim.create(optimizer, parameters, 0.1, **settings)
        else:
            inferring = quantize(model, [x]) if precision == "int8" else model.eval()
            if precision == "bf16":
                nn.keep_narrow_weights(inferring)
        recorder = ShapeRecorder(ledger)
        with context.using(ledger=ledger, observer=recorder):
            if training:
                with mixed:
                    loss = models.training_loss(model.train(), x, labels)
                loss.backward(share)  # as a micro-batch's
                update.step()
            else:
                with mixed:
                    _infer(inferring, x)
    ledger.add_peaks(recorder.lifetimes.peaks())
    layers = _layers(model, ledger, recorder)
    size, peak = sum(p.size for p in parameters), max(recorder.lifetimes.alive(), default=0)
    slots = max(len(group.slots()) for group in update.groups) if training else 0
    return Work(
        name, batch, input_shape, layers, ledger, size, peak, training, optimizer, [*settings],
        slots, tuple(m.num_features for m in model.modules() if isinstance(m, BatchNorm)),
        precision,
    )  # fmt: skip


def _infer(model: nn.Module, x: Tensor) -> None:
    with no_grad():
        model(x)


def _layers(model: nn.Module, ledger: Ledger, recorder: ShapeRecorder) -> list[LayerWork]:
    """Return the layers of a ledger with their shapes and parameters, without the optimizer's."""
    layers: dict[str, LayerWork] = {}
    for row in ledger.rows():
        layer = layers.setdefault(row.key.scope, LayerWork(row.key.scope))
        layer.stashed += row.stashed
        layer.peaks[row.key.phase] = max(row.peak, layer.peaks.get(row.key.phase, 0))
    for (scope, phase), cost in ledger.sums(lambda key: key.scope_and_phase).items():
        layers[scope].costs[phase] = cost
    for scope, calls in recorder.shapes.items():
        layer = layers[scope]
        layer.kind = KINDS[calls[0][0]]
        layer.shapes = [shape for _, shape in calls]
    for name, p in model.named_parameters():
        layer = layers.get(name.rpartition(".")[0], LayerWork(name))
        layer.parameters += p.size
        layer.weights += p.size * (p.ndim > 1)
    return [layer for layer in layers.values() if layer.name != "optimizer"]


def moved(cost: Cost) -> int:
    """Return the bytes that calls read and write, each operand and result once per call."""
    return cost.bytes_read + cost.bytes_written


def other_operations(cost: Cost) -> int:
    """Return the operations outside MACs: additions, multiplications, divisions, comparisons and
    transcendental functions."""
    return cost.add + cost.mul + cost.div + cost.cmp + cost.exp
