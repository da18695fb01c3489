"""Test-time augmentation: the mean of a model's outputs over several views of each image."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ...autograd import Tensor, add_loss, added_losses, pad
from ...datasets import Source
from ..errors import UserError
from ..tasks.task import Task

SHIFT = 1  # pixels


def views(images: Tensor, tta: str) -> Iterator[tuple[float, Tensor]]:
    """Yield the views of images (N, C, H, W) that are not none, and the share of each in the mean.

    flip: the images and their mirror images. translate: both, and with half of the weight both of
    the images shifted by a pixel up and left, and down and right, with mirrored borders (Jordan
    2024)."""
    shifted = [(1.0, images)]
    if tta == "translate":
        wide = pad(images, (SHIFT,) * 4, mode="reflect")
        far = 2 * SHIFT
        shifted = [(0.5, images), (0.25, wide[..., :-far, :-far]), (0.25, wide[..., far:, far:])]
    for share, view in shifted:
        yield share / 2, view
        yield share / 2, view[..., ::-1]


def mean_output(model: Callable[[Tensor], Tensor], images: Tensor, tta: str) -> Tensor:
    """Return the mean of a model's outputs over the views of images; so are the terms that it adds
    to the loss."""
    if tta == "none":
        return model(images)
    first, *others = [_part(model, view, share) for share, view in views(images, tta)]
    return sum(others, first)


def _part(model: Callable[[Tensor], Tensor], view: Tensor, share: float) -> Tensor:
    with added_losses() as terms:
        output = model(view)
    for term in terms:
        add_loss(term * share)
    return output * share


def check_views(tta: str, task: Task, data: Source) -> None:
    """UserError where outputs of views cannot be averaged: they are images themselves, or images
    are too small to be shifted."""
    if tta == "none":
        return
    if len(shape := task.output_shape(data)) > 1:
        raise UserError(f"--tta: expected none for outputs that are images, {shape}, got {tta}")
    if tta == "translate" and min(data.input_shape[1:]) <= SHIFT:
        raise UserError(
            f"--tta: expected images larger than {SHIFT} x {SHIFT} to shift, "
            f"got {data.input_shape[1]} x {data.input_shape[2]}"
        )
