"""Facts in which all ranks of a job must agree: else they would train different models, or wait for
one another for ever."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby

import numpy as np
from numpy.typing import NDArray

from ...autograd import backends, nn
from ...datasets import Source
from ...datasets.source import Pixels
from ..errors import UserError
from ..provenance import package_version
from .comm import Comm

REMEDY = "all ranks need the same command, software and data"
HASHED = 256 << 20  # bytes of a split's images that are hashed, at most: a quarter of a second
READ = 4096  # images that are hashed at a time
VERSIONS = ("tallygrad", "numpy")  # llvmlite counts where it computes
FREE = ("threads",)  # options that do not change results


def agree(comm: Comm, facts: Callable[[], Mapping[str, object]]) -> None:
    """Raise UserError on every rank unless `facts()` are the same on all: it names the first that
    differs, both values and the ranks. All ranks must call it."""
    if comm.size == 1:  # nobody to differ from: nothing is hashed
        return
    # Digests first: they have one size, and nearly always agree, so that texts need not travel.
    own = json.dumps({name: str(value) for name, value in facts().items()}).encode()
    digests = comm.allgather(np.frombuffer(bytearray(hashlib.sha256(own).digest()), np.uint8))
    if (digests != digests[0]).any():
        by_rank = [json.loads(text) for text in comm.gather_bytes(own)]
        said = difference(by_rank) if by_rank else ""
        raise UserError(f"{comm.bcast_bytes(said.encode()).decode()}; {REMEDY}")


def difference(by_rank: Sequence[Mapping[str, str]]) -> str:
    """Name the first fact that differs, with both values; `by_rank` has the facts of each rank."""
    for name in dict.fromkeys(name for facts in by_rank for name in facts):
        values = [facts.get(name, "none") for facts in by_rank]
        others = [rank for rank, value in enumerate(values) if value != values[0]]
        if others:
            other = values[others[0]]
            alike = [rank for rank in others if values[rank] == other]
            return (
                f"ranks differ in {name}: expected {values[0]} as on rank 0, "
                f"got {other} on {_ranks(alike)}"
            )
    return "ranks differ in the order of their facts"


def _ranks(ranks: Sequence[int]) -> str:
    """Return "rank 3", or "ranks 1-3, 7"."""
    runs = []
    for _, members in groupby(enumerate(ranks), lambda pair: pair[1] - pair[0]):
        first, *rest = [rank for _, rank in members]
        runs.append(f"{first}-{rest[-1]}" if rest else str(first))
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(runs)}"


def program_facts(command: str, options: Mapping[str, object]) -> dict[str, object]:
    """Return what runs: the versions that decide results, command and options."""
    facts: dict[str, object] = {f"version of {name}": package_version(name) for name in VERSIONS}
    flags = {name: value for name, value in options.items() if name not in FREE}
    return facts | {"command": command} | {f"--{n.replace('_', '-')}": flags[n] for n in flags}


def work_facts(backend: str, *splits: Source) -> dict[str, object]:
    """Return what computes, for which kind of processor, and what tells its data from others."""
    facts: dict[str, object] = {"backend": backend}
    target = getattr(backends.get(backend), "target", None)
    if target is not None:
        facts |= {"target": target.name, "version of llvmlite": package_version("llvmlite")}
    for data in splits:
        facts |= _data_facts(data)
    return facts


def model_facts(model: nn.Module) -> dict[str, object]:
    """Return the name and the shape of each parameter and buffer."""
    named = chain(model.named_parameters(), model.named_buffers())
    return {f"shape of {name}": tensor.shape for name, tensor in named}


def _data_facts(data: Source) -> dict[str, object]:
    """Return sizes, a hash of all labels and one of the images: of all of them where they have up
    to `HASHED` bytes, else of every k-th."""
    split = f"{data.name}/{data.split}"
    step = 1 + len(data) * math.prod(data.input_shape) // HASHED
    images = "images" if step == 1 else f"every {step}th of the images"
    return {
        f"number of images of {split}": len(data),
        f"shape of images of {split}": data.input_shape,
        f"number of classes of {split}": len(data.classes),
        f"mean and std of {split}": (*data.mean, *data.std),
        f"hash of labels of {split}": _hash([data.labels]),
        f"hash of {images} of {split}": _hash(_images(data, step)),
    }


def _images(data: Source, step: int) -> Iterator[Pixels]:
    """Yield every `step`-th image, some at a time: a source need not hold them in memory."""
    indices = np.arange(0, len(data), step)
    for start in range(0, len(indices), READ):
        yield data.read(indices[start : start + READ])


def _hash(parts: Iterable[NDArray[np.generic]]) -> str:
    # Against accidents, not attacks: SHA-1 is the fastest where a processor has no help for any.
    digest = hashlib.sha1(usedforsecurity=False)
    for part in parts:
        digest.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()[:16]
