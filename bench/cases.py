"""What can be measured: models, batch sizes and modes. Imports neither NumPy nor torch."""

from __future__ import annotations

from dataclasses import dataclass

MODES = ("train", "infer")
DTYPES = ("float32", "bf16")
# Each with the type in which torch then computes, at least in part.
TORCH_MODES = {
    "nchw": "float32",
    "channels-last": "float32",
    "compile": "float32",
    "autocast": "bf16",
    "bfloat16": "bf16",
    "bfloat16-compile": "bf16",
    "fp32-precision": "bf16",
}
CLASSES = 10


@dataclass(frozen=True)
class Case:
    """A model with batches of `batch` images of `shape` (C, H, W), in some modes."""

    model: str
    batch: int
    shape: tuple[int, int, int] = (1, 28, 28)
    modes: tuple[str, ...] = MODES

    @property
    def name(self) -> str:
        """The name in `--cases` and in the table, such as `lenet-64`."""
        return f"{self.model}-{self.batch}"


_LISTED = (
    Case("lenet", 64),
    Case("lenet", 256),
    Case("lenet", 1, modes=("infer",)),
    Case("lenet5", 64),
    Case("resnet20", 128, (3, 32, 32)),
    Case("resnet18", 32, (3, 32, 32)),
    Case("mlp", 64),
    Case("lstm", 128),
)
CASES = {case.name: case for case in _LISTED}
MODELS = tuple(dict.fromkeys(case.model for case in _LISTED))


def find(name: str) -> list[Case]:
    """Return the case with this name, or all cases of the model with this name."""
    return [case for case in _LISTED if name in (case.name, case.model)]
