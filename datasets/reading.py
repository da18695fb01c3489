"""How a user's own data set is read: sizes, colours, splits, and what is kept in memory."""

from __future__ import annotations

from dataclasses import dataclass

from .source import DataError, Moments

# What people call their splits, in any case.
WORDS = {
    "train": ("train", "training", "tr"),
    "test": ("test", "testing", "te"),
    "validation": ("val", "valid", "validation", "dev"),
}
FITS = ("crop", "resize")
COLORS = ("auto", "grey", "rgb")
IN_MEMORY = 512_000_000


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Options of reading a folder or file.

    `test_split` is the share of the training samples that become the test set of data that have
    none; with None, all of them are both. `size` is (height, width) of all images, None if they
    have it already: `fit` says whether others are scaled until they cover it and cropped in the
    middle, or scaled in both directions. `colors` is grey, rgb or auto: rgb if any image has
    colours. `memory` is the number of bytes of images up to which a data set is held in memory.
    `classes` and `moments`, mean and std, replace those of the data: a model is evaluated with
    those it was trained with. Raises DataError for values out of range.
    """

    test_split: float | None = 0.0
    size: tuple[int, int] | None = None
    fit: str = "crop"
    colors: str = "auto"
    memory: int = IN_MEMORY
    classes: tuple[str, ...] = ()
    moments: Moments | None = None

    def __post_init__(self) -> None:
        if not 0 <= (self.test_split or 0) < 1:
            raise DataError(f"--test-split: expected 0 to less than 1, got {self.test_split}")
        for flag, known in (("fit", FITS), ("colors", COLORS)):
            if getattr(self, flag) not in known:
                raise DataError(
                    f"--image-{flag}: expected one of {', '.join(known)}, got {getattr(self, flag)}"
                )


def split_of(word: str) -> str:
    """Return the split that a word names, "" for none."""
    return next((split for split, words in WORDS.items() if word.lower() in words), "")
