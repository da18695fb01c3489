"""torch's side: the same step in each of its modes. Import only if torch is installed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from .cases import Case
from .measure import Contender
from .ours import DECAY, MOMENTUM, RATE, batch
from .torch_models import create, functional, torch

torch.set_num_threads(1)


def build(case: Case, mode: str, kind: str) -> Contender:
    """Return torch in a mode: "nchw", "channels-last", "compile" or "bf16".

    "compile" is torch.compile on channels-last, "bf16" autocast to bfloat16 on channels-last.
    """
    layout = torch.contiguous_format if kind == "nchw" else torch.channels_last
    images, labels = map(torch.from_numpy, batch(case))
    images = images.contiguous(memory_format=layout)
    model = create(case).to(memory_format=layout).train(mode == "train")
    make = _training if mode == "train" else _inference
    return Contender(kind, make(model, images, labels, kind))


def _casting(kind: str) -> Callable[[], Any]:
    if kind != "bf16":
        return nullcontext
    return lambda: torch.autocast("cpu", dtype=torch.bfloat16)


def _compiled(function: Any, kind: str) -> Any:
    if kind != "compile":
        return function
    # Otherwise the graphs of one case count towards the recompilation limit of the next.
    torch.compiler.reset()
    return torch.compile(function)


def _training(model: Any, images: Any, labels: Any, kind: str) -> Callable[[], None]:
    """Return a training step: forward, loss, backward, update."""
    optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=MOMENTUM, weight_decay=DECAY)
    casting = _casting(kind)

    def loss(x: Any, y: Any) -> Any:
        return functional.cross_entropy(model(x), y)

    run = _compiled(loss, kind)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with casting():
            value = run(images, labels)
        value.backward()
        optimizer.step()

    return step


def _inference(model: Any, images: Any, labels: Any, kind: str) -> Callable[[], None]:
    """Return a forward pass."""
    casting = _casting(kind)
    run = _compiled(model, kind)

    def step() -> None:
        with torch.inference_mode(), casting():
            run(images)

    return step
