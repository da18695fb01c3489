"""torch's DistributedDataParallel over gloo. Import only if torch is installed."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from tallygrad.trainer.distributed.comm import Comm

from .cases import Case
from .ours import DECAY, MOMENTUM, RATE, batch
from .torch_models import create, functional, torch

torch.set_num_threads(1)
distributed: Any = import_module("torch.distributed")


def theirs(
    case: Case, precision: str, comm: Comm | None = None, meeting: Path | None = None
) -> Callable[[], None]:
    """Return a training step on one batch that stays the same, channels-last, in bf16 by autocast;
    of all ranks where they are given, which meet by a file."""
    layout = torch.channels_last
    images, labels = map(torch.from_numpy, batch(case))
    images = images.contiguous(memory_format=layout)
    model = create(case).to(memory_format=layout).train()
    if comm is not None:
        if not distributed.is_initialized():
            place = f"file://{meeting}"
            distributed.init_process_group(
                "gloo", init_method=place, rank=comm.rank, world_size=comm.size
            )
        model = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=MOMENTUM, weight_decay=DECAY)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss = functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()

    return step
