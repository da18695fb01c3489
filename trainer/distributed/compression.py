"""Compressed exchange of gradients, with error feedback.

What compression loses of a rank's gradient is its residual, which is added to the gradient of the
next step, so that everything arrives in the end: Seide et al., "1-Bit Stochastic Gradient Descent"
(2014); Karimireddy et al., "Error Feedback Fixes SignSGD and other Gradient Compression Schemes"
(2019). Sums depend on the number of ranks, but are the same in every run on that number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ...autograd.array import Array, NDArray, array
from ...autograd.functional.create import zeros
from ...autograd.nn.flat import FlatParameters
from ...autograd.ops.update import accumulate
from .exchange import Reducer, gather_rows
from .schemes import CODECS, Half, LowRank, Matrix, Scheme, TopK

RESIDUAL, OF_SUMS, FACTORS = "residual", "residual_of_sums", "factors"


class Compressor:
    """Exchanges the buckets of a flat buffer, which begin at `starts`, compressed by a scheme:
    its name and its share or rank."""

    def __init__(
        self, option: tuple[str, float], flat: FlatParameters, reducer: Reducer,
        starts: Sequence[int],
    ) -> None:  # fmt: skip
        self._reducer, self._flat = reducer, flat
        self.residual: Array = zeros(flat.grad.spec.size, dtype=flat.dtype).array
        ends = [*starts[1:], flat.grad.spec.size]
        self._slices = dict(zip(starts, ends, strict=True))
        self.schemes = {a: self._scheme(*option, a, b) for a, b in self._slices.items()}

    def _scheme(self, name: str, amount: float, start: int, end: int) -> Scheme:
        dtype = np.dtype(self._flat.dtype)
        if name in CODECS:
            return Half(self._reducer, name, end - start, dtype)
        if name == "topk":
            return TopK(self._reducer, amount, end - start)
        pairs = zip(self._flat.offsets, self._flat.parameters, strict=True)
        shapes = [p.shape for offset, p in pairs if start <= offset < end]
        return LowRank(self._reducer, int(amount), start, shapes, dtype)

    def exchange(self, array: Array, start: int) -> None:
        """Begin the exchange of the bucket that begins at an element."""
        residual = self.residual.view(start, array.spec.shape)
        accumulate(array, residual)
        scheme = self.schemes[start]
        scheme.primitive(array, residual, through=scheme)

    def state_dict(self) -> dict[str, NDArray]:
        """Return residuals (ranks, n), those of sums (n,) and factors on rank 0, elsewhere nothing.
        All ranks must call it."""
        comm = self._reducer.comm
        rows = gather_rows(comm, self.residual.value[None])
        halves = [s for s in self.schemes.values() if isinstance(s, Half)]
        lost = [a for a in (gather_rows(comm, s.lost) for s in halves) if a is not None]
        if rows is None:
            return {}
        state = {RESIDUAL: rows}
        if lost:
            ends = [end - start for start, end in self._slices.items()]
            state[OF_SUMS] = np.concatenate([a[:n] for a, n in zip(lost, ends, strict=True)])
        if matrices := self._matrices():
            state[FACTORS] = np.concatenate([m.right.reshape(-1) for m in matrices])
        return state

    def load_state_dict(self, state: Mapping[str, NDArray]) -> None:
        """Go on from what `state_dict` returned. On another number of ranks, and with another
        scheme, nothing of the residuals is lost: they are divided among the ranks."""
        comm, owners = self._reducer.comm, self._reducer.owners
        size, share = self._flat.grad.spec.size, (comm.rank in owners) / max(len(owners), 1)
        rows = state.get(RESIDUAL)
        if rows is None or rows.shape[1:] != (size,):
            return
        mine = rows[comm.rank] if len(rows) == comm.size else share * rows.sum(axis=0)
        lost = state.get(OF_SUMS, np.zeros(size, rows.dtype))
        for start, end in self._slices.items():
            scheme = self.schemes[start]
            if isinstance(scheme, Half):
                padded = np.zeros((comm.size, len(scheme.lost)), rows.dtype)
                padded.reshape(-1)[: end - start] = lost[start:end]
                scheme.lost[...] = padded[comm.rank]
            else:
                mine = mine.copy()
                mine[start:end] += share * lost[start:end]
        self.residual.write(mine.astype(self._flat.dtype))
        self._load_factors(state.get(FACTORS))

    def _load_factors(self, factors: NDArray | None) -> None:
        matrices, end = self._matrices(), 0
        if factors is None or len(factors) != sum(m.right.size for m in matrices):
            return
        for m in matrices:
            begin, end = end, end + m.right.size
            m.right = factors[begin:end].reshape(m.right.shape).astype(m.right.dtype)

    def _matrices(self) -> list[Matrix]:
        schemes = [s for s in self.schemes.values() if isinstance(s, LowRank)]
        return [m for scheme in schemes for m in scheme.matrices]


class Residuals:
    """What compressed steps of an earlier run still owe to one that exchanges exact gradients: it
    is added once, to the sums of the next step."""

    def __init__(self, flat: FlatParameters) -> None:
        self._flat = flat
        self._owed: NDArray | None = None

    def state_dict(self) -> dict[str, NDArray]:
        """Return what is still owed, as the residual of a single rank (1, n)."""
        return {} if self._owed is None else {RESIDUAL: self._owed[None]}

    def load_state_dict(self, state: Mapping[str, NDArray]) -> None:
        """Owe all residuals that a `Compressor` has left."""
        rows = state.get(RESIDUAL)
        if rows is not None and rows.shape[1:] == (self._flat.grad.spec.size,):
            owed = rows.sum(axis=0) + state.get(OF_SUMS, 0)
            self._owed = owed.astype(self._flat.dtype)

    def settle(self) -> None:
        """Add what is owed to the gradients."""
        if self._owed is not None:
            accumulate(self._flat.grad, array(self._owed))
            self._owed = None
