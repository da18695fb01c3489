"""`tallygrad inspect`: what a checkpoint holds, without MPI and without the code of the model.

NumPy and h5py load inside functions only, so that `--help` loads neither.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cost.report import Column, fit, name_column, text_table
from ..errors import show
from . import flags

if TYPE_CHECKING:
    from numpy.typing import NDArray

COLUMNS = (
    name_column("name"), Column("shape"), Column("dtype", 4), Column("bytes", 5), Column("mean", 1),
    Column("std", 1), Column("min", 2), Column("max", 2), Column("zeros", 3),
)  # fmt: skip
GROUPS = (name_column("group"), Column("tensors", 1), Column("values", 2), Column("bytes"))
LESS_MEMORY = "free some memory"
_LONG = ("ledger", "closed", "restarts")
_FIRST = ("step", "epoch", "metrics", "model", "dataset", "seed")


@dataclass(frozen=True, kw_only=True)
class InspectOptions:
    """The options of `tallygrad inspect`."""

    file: str
    as_json: bool


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the checkpoint and how to print it."""
    parser.add_argument("file", help="checkpoint, or run folder: its newest checkpoint")
    flags.add_json(parser)


def run(values: Mapping[str, Any]) -> int:
    """Print a checkpoint, or the newest one of a run's folder. UserError where there is none."""
    options = InspectOptions(**values)
    description = describe(Path(options.file))
    if options.as_json:
        print(json.dumps(description, indent=2, allow_nan=False))
    else:
        show(render(description))
    return 0


def describe(path: Path) -> dict[str, Any]:
    """Return a checkpoint's tensors with statistics, totals by group, and its record.

    Mean, standard deviation and extremes are those of the finite values, in float64; NaN and
    infinities are counted. What JSON cannot say (NaN, no value) is None.
    """
    from ..components.checkpoint import load, newest_checkpoint

    file = newest_checkpoint(Path(path))
    checkpoint = load(file)
    rows = [_row(name, array) for name, array in checkpoint.tensors.items()]
    return {
        "path": str(file),
        "file_bytes": file.stat().st_size,
        "digest": checkpoint.digest,
        "tensors": rows,
        "totals": _totals(rows),
        "meta": _strict(checkpoint.meta),
    }


def render(description: Mapping[str, Any]) -> str:
    """Lay a description out as text: tensors, record, totals."""
    rows = description["tensors"]
    odd = [name for name in ("nan", "inf") if any(row[name] for row in rows)]
    columns = [*COLUMNS, *map(Column, odd)]
    lines = [description["path"], ""]
    cells = [[_cell(column.head, row[column.head]) for column in columns] for row in rows]
    lines += text_table(columns, cells)
    lines += ["", *_record(description["meta"]), ""]
    totals = description["totals"]
    cells = [
        [name, f"{t['tensors']:,}", f"{t['values']:,}", f"{t['bytes']:,}"]
        for name, t in totals.items()
    ]
    return "\n".join([*lines, *text_table(GROUPS, cells)])


def _row(name: str, array: NDArray[Any]) -> dict[str, Any]:
    """Describe one array."""
    import numpy as np

    from ..bfloat16 import BITS, NAME, as_numbers

    dtype = NAME if array.dtype == BITS else array.dtype.name
    size, array = array.nbytes, as_numbers(array)
    is_float = array.dtype.kind == "f"
    finite = array[np.isfinite(array)] if is_float else array.reshape(-1)
    return {
        "name": name,
        "shape": list(array.shape),
        "dtype": dtype,
        "bytes": size,
        **_statistics(finite),
        "zeros": int(array.size - np.count_nonzero(array)),
        "nan": int(np.isnan(array).sum()) if is_float else 0,
        "inf": int(np.isinf(array).sum()) if is_float else 0,
    }


def _statistics(finite: NDArray[Any]) -> dict[str, Any]:
    """Return mean, std, min and max of finite values; None for each where there are none."""
    import numpy as np

    if not finite.size:
        return dict.fromkeys(("mean", "std", "min", "max"))
    with np.errstate(over="ignore", invalid="ignore"):
        mean = float(finite.mean(dtype=np.float64))
        std = float(finite.std(dtype=np.float64))
    return {
        "mean": _strict(mean),
        "std": _strict(std),
        "min": finite.min().item(),
        "max": finite.max().item(),
    }


def _totals(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Add up tensors, values and bytes for each first part of the names, and for all."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["name"].partition("/")[0], []).append(row)
    return {name: _total(members) for name, members in {**groups, "all": rows}.items()}


def _total(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    return {
        "tensors": len(rows),
        "values": sum(math.prod(row["shape"]) for row in rows),
        "bytes": sum(row["bytes"] for row in rows),
    }


def _strict(value: Any) -> Any:
    """Replace what JSON has no word for by None."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_strict(item) for item in value]
    return value


def _cell(column: str, value: Any) -> str:
    """Show one number or name as the table has it."""
    if value is None:
        return "-"
    if column == "shape":
        return "x".join(map(str, value)) or "scalar"
    if column in ("bytes", "zeros", "nan", "inf"):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _record(meta: Mapping[str, Any]) -> list[str]:
    """List the record of a run, one line a value; what is long by its number of entries."""
    names = [one for name in _FIRST for one in (_metrics(meta) if name == "metrics" else [name])]
    known = [name for name in names if name in meta]
    others = sorted(set(meta) - {*known, "config", *_LONG})
    pairs = [(_plain(name), _plain(meta[name])) for name in [*known, *others]]
    pairs += _flatten("config", meta.get("config", {}))
    for name in _LONG:
        if isinstance(meta.get(name), list):
            pairs.append((name, f"{len(meta[name])} entries"))
    width = max((len(name) for name, _ in pairs), default=0)
    return [fit(f"{name:{width}}  {value}") for name, value in pairs]


def _metrics(meta: Mapping[str, Any]) -> list[str]:
    """Return the metrics whose latest value is on record by its bare name: accuracy, or that of
    another task, which has a test_NAME beside it."""
    names = [name.removeprefix("test_") for name in meta if name.startswith("test_")]
    return [*dict.fromkeys(["accuracy", *names])]


def _flatten(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Name what is nested by its path: config.optimizer.lr."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _flatten(f"{name}.{_plain(key)}", item)
    elif value != {}:
        yield name, _plain(value)


def _plain(value: Any) -> str:
    # A string keeps its escapes: a file from elsewhere must not steer the terminal.
    text = json.dumps(value)
    return text[1:-1] if isinstance(value, str) else text
