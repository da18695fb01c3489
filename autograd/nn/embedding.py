"""Rows of a table by number, with torch's arguments."""

from __future__ import annotations

from typing import Any, Self

import numpy.typing as npt

from .. import context
from ..device import Device, layer_type
from ..functional.indexing import embedding, embedding_bag
from ..tensor import Parameter, Tensor
from . import init
from .layers import parameter
from .module import Module

__all__ = ["Embedding", "EmbeddingBag"]


class Embedding(Module):
    """A table of learned rows: x, integers of any shape, becomes (.., embedding_dim).

    The weight (num_embeddings, embedding_dim) is drawn from the normal distribution; the row
    `padding_idx` is 0 and has no gradient. IndexError for a row out of range."""

    shown: tuple[str, ...] = ("num_embeddings", "embedding_dim", "padding_idx")

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        device: Device = None,
        dtype: npt.DTypeLike | None = None,
        _weight: Tensor | None = None,
    ) -> None:
        dtype = layer_type(device, dtype)
        if padding_idx is not None and not -num_embeddings <= padding_idx < num_embeddings:
            raise ValueError(
                f"{type(self).__name__}: expected padding_idx in [{-num_embeddings}, "
                f"{num_embeddings}), got {padding_idx}"
            )
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.padding_idx = None if padding_idx is None else padding_idx % num_embeddings
        if _weight is not None:
            self.weight = Parameter(_weight)
            return
        self.weight = parameter(num_embeddings, embedding_dim, dtype=dtype)
        init.normal_(self.weight)
        if self.padding_idx is not None:
            with context.using(tape=None):
                init.zeros_(self.weight[self.padding_idx])

    @classmethod
    def from_pretrained(
        cls,
        embeddings: Tensor,
        freeze: bool = True,
        padding_idx: int | None = None,
        **options: Any,
    ) -> Self:
        """Return a layer whose weight is a given matrix, by default without a gradient."""
        if embeddings.ndim != 2:
            raise ValueError(f"{cls.__name__}: expected a matrix, got shape {embeddings.shape}")
        rows, columns = embeddings.shape
        layer = cls(rows, columns, padding_idx=padding_idx, _weight=embeddings, **options)
        layer.weight.requires_grad_(not freeze)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """Return (.., embedding_dim)."""
        return embedding(x, self.weight, self.padding_idx)


class EmbeddingBag(Embedding):
    """The sum, mean or maximum, by `mode`, of rows of a table, see `functional.embedding_bag`."""

    shown = ("num_embeddings", "embedding_dim", "mode", "padding_idx")

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        *,
        mode: str = "mean",
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        device: Device = None,
        dtype: npt.DTypeLike | None = None,
        _weight: Tensor | None = None,
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, padding_idx, device, dtype, _weight)
        self.mode, self.include_last_offset = mode, include_last_offset

    def forward(
        self, x: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None
    ) -> Tensor:
        """Return (bags, embedding_dim); x is (bags, L), or one axis that `offsets` divide."""
        return embedding_bag(
            x,
            self.weight,
            offsets,
            mode=self.mode,
            per_sample_weights=per_sample_weights,
            include_last_offset=self.include_last_offset,
            padding_idx=self.padding_idx,
        )
