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
    """Return torch in a mode of `TORCH_MODES`, which docs/bench.md explains. NotImplementedError
    for one that this torch does not have."""
    layout = torch.contiguous_format if kind == "nchw" else torch.channels_last
    dtype = torch.bfloat16 if kind.startswith("bfloat16") else torch.float32
    images, labels = map(torch.from_numpy, batch(case))
    images = images.to(dtype, memory_format=layout)
    model = create(case).to(dtype=dtype, memory_format=layout).train(mode == "train")
    make = _training if mode == "train" else _inference
    step = make(model, images, labels, kind)
    return Contender(kind, _reduced(step) if kind == "fp32-precision" else step)


def forget() -> None:
    """Drop what was compiled, which would count towards the recompilation limit of later cases."""
    torch.compiler.reset()


def _casting(kind: str) -> Callable[[], Any]:
    if kind != "autocast":
        return nullcontext
    return lambda: torch.autocast("cpu", dtype=torch.bfloat16)


def _compiled(function: Any, kind: str) -> Any:
    return torch.compile(function) if kind.endswith("compile") else function


def _reduced(step: Callable[[], None]) -> Callable[[], None]:
    """Return a step whose float32 products oneDNN may compute in bfloat16. NotImplementedError
    where torch cannot ask for that."""
    settings = torch.backends.mkldnn
    if not hasattr(settings, "fp32_precision"):
        raise NotImplementedError("torch.backends.mkldnn has no fp32_precision")

    def reduced() -> None:
        before = settings.fp32_precision
        settings.fp32_precision = "bf16"
        try:
            step()
        finally:
            settings.fp32_precision = before

    return reduced


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
