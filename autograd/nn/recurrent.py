"""Recurrent layers. Arguments, parameter names and shapes are torch's, gates in its order (LSTM:
i f g o, GRU: r z n); so are the initial numbers, drawn evenly from +- 1 / sqrt(hidden_size)."""

from __future__ import annotations

from math import sqrt

import numpy.typing as npt

from ..device import Device, layer_type
from ..functional.create import zeros
from ..functional.recurrent import (
    NONLINEARITIES,
    Steps,
    gru,
    gru_cell,
    lstm,
    lstm_cell,
    rnn_cell,
    rnn_relu,
    rnn_tanh,
)
from ..suggest import unknown
from ..tensor import Parameter, Tensor
from . import init
from .layers import parameter
from .module import Module

__all__ = ["GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNCell"]


def _shapes(
    rows: int, width: int, hidden: int, bias: bool, proj: int
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the parameters of one layer in one direction, by name."""
    shapes: dict[str, tuple[int, ...]] = {
        "weight_ih": (rows, width),
        "weight_hh": (rows, proj or hidden),
    }
    shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)} if bias else {}
    return shapes | ({"weight_hr": (proj, hidden)} if proj else {})


def _drawn(module: Module, hidden: int) -> None:
    """Draw all parameters uniformly from +- 1 / sqrt(hidden), torch's default."""
    bound = 1.0 / sqrt(hidden) if hidden else 0.0
    for p in module.parameters():
        init.uniform_(p, -bound, bound)


class _Recurrent(Module):
    """Layers of cells over sequences.

    Parameters of layer k: weight_ih_lk (gates H, I), in higher layers (gates H, directions H);
    weight_hh_lk (gates H, H); bias_ih_lk and bias_hh_lk (gates H,). Those of the backward direction
    end in _reverse."""

    shown = ("input_size", "hidden_size", "num_layers", "bidirectional")
    gates = 1
    proj_size = 0

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Device = None,
        dtype: npt.DTypeLike | None = None,
    ) -> None:
        dtype = layer_type(device, dtype)
        if not 0 <= dropout <= 1:
            name = type(self).__name__
            raise ValueError(f"{name}: expected dropout in [0, 1], got {dropout}")
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.batch_first, self.bidirectional = batch_first, bidirectional
        self.dropout = dropout
        self.order: list[str] = []
        for layer in range(num_layers):
            states = self.proj_size or hidden_size
            width = states * (1 + bidirectional) if layer else input_size
            for side in ("", "_reverse")[: 1 + bidirectional]:
                rows = self.gates * hidden_size
                shapes = _shapes(rows, width, hidden_size, bias, self.proj_size)
                for kind, shape in shapes.items():
                    self.order.append(f"{kind}_l{layer}{side}")
                    setattr(self, self.order[-1], parameter(*shape, dtype=dtype))
        _drawn(self, hidden_size)

    def weights(self) -> list[Parameter]:
        """Return the parameters, layer by layer and within it direction by direction."""
        return [getattr(self, name) for name in self.order]

    def _options(self) -> tuple[list[Parameter], int, float, bool, bool, bool]:
        """Return what the functions of sequences take behind the states."""
        way = self.training, self.bidirectional, self.batch_first
        return self.weights(), self.num_layers, self.dropout, *way


class RNN(_Recurrent):
    """An Elman network: h' = f(x weight_ih.T + bias_ih + h weight_hh.T + bias_hh), f "tanh" or
    "relu".

    Each of `num_layers` layers reads the outputs of the one below. `bidirectional` adds to each a
    second one that runs from the end; their outputs stand side by side. `dropout` is the share of
    outputs dropped between layers in training; `bias` decides whether there are bias_ih and bias_hh
    (Elman 1990)."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Device = None,
        dtype: npt.DTypeLike | None = None,
    ) -> None:
        dtype = layer_type(device, dtype)
        self.nonlinearity = _known(nonlinearity)
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            dtype=dtype,
        )

    def forward(self, x: Steps, hx: Tensor | None = None) -> tuple[Steps, Tensor]:
        """Return outputs (T, N, directions H) and final states (layers directions, N, H).

        x is (T, N, I), (N, T, I) if batch_first, or a PackedSequence, which gives another one; hx
        are the initial states, None for zeros."""
        run = rnn_tanh if self.nonlinearity == "tanh" else rnn_relu
        return run(x, hx, *self._options())


class LSTM(_Recurrent):
    """Long short-term memory (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al.
    2000).

    One step of it is `functional.recurrent.lstm_cell`. Options are those of RNN; `proj_size` P
    below hidden_size projects the states h, by weight_hr_lk (P, H), to P numbers (Sak et al.
    2014)."""

    gates = 4

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Device = None,
        dtype: npt.DTypeLike | None = None,
    ) -> None:
        if proj_size and not 0 < proj_size < hidden_size:
            raise ValueError(
                f"LSTM: expected proj_size below hidden_size {hidden_size}, got {proj_size}"
            )
        self.proj_size = proj_size
        options = num_layers, bias, batch_first, dropout, bidirectional
        super().__init__(input_size, hidden_size, *options, device, dtype)

    def forward(
        self, x: Steps, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Steps, tuple[Tensor, Tensor]]:
        """Return outputs (T, N, directions H) and the final (h, c), each (layers directions, N, H);
        of a projected h, H is P.

        x is (T, N, I), (N, T, I) if batch_first, or a PackedSequence, which gives another one; hx
        are the initial h and c, None for zeros."""
        return lstm(x, hx, *self._options())


class GRU(_Recurrent):
    """Gated recurrent units (Cho et al. 2014); one step is `functional.recurrent.gru_cell`.

    Options are those of RNN."""

    gates = 3

    def forward(self, x: Steps, hx: Tensor | None = None) -> tuple[Steps, Tensor]:
        """Return outputs (T, N, directions H) and final states (layers directions, N, H).

        x is (T, N, I), (N, T, I) if batch_first, or a PackedSequence, which gives another one; hx
        are the initial states, None for zeros."""
        return gru(x, hx, *self._options())


class _Cell(Module):
    shown = ("input_size", "hidden_size")
    gates = 1
    bias_ih: Parameter | None
    bias_hh: Parameter | None

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Device = None,
        dtype: npt.DTypeLike | None = None,
    ) -> None:
        dtype = layer_type(device, dtype)
        self.input_size, self.hidden_size = input_size, hidden_size
        rows = self.gates * hidden_size
        self.weight_ih = parameter(rows, input_size, dtype=dtype)
        self.weight_hh = parameter(rows, hidden_size, dtype=dtype)
        self.register_parameter("bias_ih", parameter(rows, dtype=dtype) if bias else None)
        self.register_parameter("bias_hh", parameter(rows, dtype=dtype) if bias else None)
        _drawn(self, hidden_size)

    def start(self, x: Tensor) -> Tensor:
        """Return a state of zeros for an input (N, I)."""
        return zeros(*x.shape[:-1], self.hidden_size, dtype=x.dtype)


class RNNCell(_Cell):
    """One step of an Elman network, see `RNN`.

    Parameters: weight_ih (H, I), weight_hh (H, H), bias_ih and bias_hh (H,)."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Device = None,
        dtype: npt.DTypeLike | None = None,
    ) -> None:
        dtype = layer_type(device, dtype)
        super().__init__(input_size, hidden_size, bias, dtype=dtype)
        self.nonlinearity = _known(nonlinearity)

    def forward(self, x: Tensor, hx: Tensor | None = None) -> Tensor:
        """Return the next state (N, H); x (N, I), hx (N, H), None for zeros."""
        h = self.start(x) if hx is None else hx
        weights = self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh
        return rnn_cell(x, h, *weights, self.nonlinearity)


class LSTMCell(_Cell):
    """One step of an LSTM, see `LSTM`.

    Parameters: weight_ih (4 H, I), weight_hh (4 H, H), bias_ih and bias_hh (4 H,), in the order i f
    g o."""

    gates = 4

    def forward(self, x: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Return the next h and c, each (N, H); x (N, I), hx: h and c, None for zeros; all with N
        or all without."""
        if x.ndim == 1:
            rows = None if hx is None else (hx[0].unsqueeze(0), hx[1].unsqueeze(0))
            h, c = self.forward(x.unsqueeze(0), rows)
            return h.squeeze(0), c.squeeze(0)
        state = (self.start(x), self.start(x)) if hx is None else hx
        return lstm_cell(x, state, self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)


class GRUCell(_Cell):
    """One step of a GRU, see `GRU`.

    Parameters: weight_ih (3 H, I), weight_hh (3 H, H), bias_ih and bias_hh (3 H,), in the order r z
    n."""

    gates = 3

    def forward(self, x: Tensor, hx: Tensor | None = None) -> Tensor:
        """Return the next state (N, H); x (N, I), hx (N, H), None for zeros; all with N or all
        without."""
        if x.ndim == 1:
            return self.forward(x.unsqueeze(0), None if hx is None else hx.unsqueeze(0)).squeeze(0)
        h = self.start(x) if hx is None else hx
        return gru_cell(x, h, self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)


def _known(nonlinearity: str) -> str:
    if nonlinearity not in NONLINEARITIES:
        raise unknown("nonlinearity", nonlinearity, NONLINEARITIES)
    return nonlinearity
