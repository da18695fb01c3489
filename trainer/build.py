"""From options to data, model and optimizer; what is wrong with an option is said here."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from .. import datasets
from ..autograd import (
    Ledger,
    OutOfMemory,
    added_losses,
    autocast,
    backends,
    context,
    from_numpy,
    grad,
    manual_seed,
    models,
    nn,
    optim,
    set_memory_limit,
    zeros,
)
from ..autograd.array import NoNumbers
from ..autograd.nn.flat import FlatParameters, flatten, gradient_order
from ..autograd.nn.norm import norm_parameters
from ..autograd.optim import Optimizer, schedules
from ..autograd.random import moment, replayed
from ..autograd.tape import Tape
from ..autograd.tensor import Tensor
from ..datasets import Batch, Loader, Source
from . import user_code
from .config import TrainConfig, flag
from .distributed.comm import Comm
from .errors import OverLimit, UserError, nearest, warn
from .optimizer_options import OF_SCHEDULES
from .tasks.task import Task
from .values import parse_image_size, parse_milestones, parse_part, parse_share, parse_size

T = TypeVar("T")
LOSS = "loss"  # what plateaus look at by default
PREPARING = 5000  # training images from which a model may compute what it starts with


@dataclass(frozen=True)
class Data:
    """Loaders of the splits; each rank's holds its share."""

    train: Loader
    test: Loader
    validation: Loader | None = None

    @property
    def choosing(self) -> Loader:
        """The set that chooses the best checkpoint: validation's where there is one."""
        return self.validation or self.test


def choose_backend(
    comm: Comm, wanted: str, target: str = "host", conv: str = "auto", tune: str = "off"
) -> str:
    """Return the name of the backend that the options ask for; for `auto` llvm, or NumPy with a
    line that says why it does not load. UserError for one that does not load, and for a target that
    this host does not execute."""
    if wanted == "numpy":
        return wanted
    words = [conv, *([] if target == "host" else [target])]
    name = f"llvm:{','.join(words + ([] if tune == 'off' else [f'tune={tune}']))}"
    try:
        backends.get(name)
        return name
    except ImportError as error:
        if wanted == "llvm":
            raise UserError(f"--backend llvm: {error} (pip install 'tallygrad[llvm]')") from error
        if comm.rank == 0:
            print(f"tallygrad: using NumPy: {error} (pip install 'tallygrad[llvm]')",
                  file=sys.stderr, flush=True)  # fmt: skip
    except ValueError as error:
        if target != "host" or wanted == "llvm":
            option = "--backend llvm" if target == "host" else f"--target {target}"
            raise UserError(f"{option}: {error}") from error
        if comm.rank == 0:
            print(f"tallygrad: using NumPy: {error}", file=sys.stderr, flush=True)
    return "numpy"


def narrow_arithmetic(backend: str) -> str:
    """Return how a backend computes with bfloat16, in words."""
    slow = "computed by NumPy in float32, slower than --precision float32"
    return str(getattr(backends.get(backend), "bfloat16", slow))


def reading(config: TrainConfig) -> datasets.Reading:
    """Return how the options say an own data set is read. UserError for options of such sets with
    one that is built in."""
    if not datasets.is_own(config.dataset):
        for name in ("test_split", "image_size", "image_fit", "image_colors"):
            value = getattr(config, name)
            if value != getattr(TrainConfig, name):
                raise UserError(
                    f"{flag(name)}: expected none with --dataset {config.dataset}, which is built "
                    f"in, got {value}"
                )
    return datasets.Reading(
        test_split=parse_share(config.test_split),
        size=parse_image_size(config.image_size),
        fit=config.image_fit,
        colors=config.image_colors,
        memory=parse_size(config.data_memory),
    )


def load_splits(
    name: str, splits: Sequence[str], data_dir: str, comm: Comm, how: datasets.Reading
) -> dict[str, Source]:
    """Load splits of a data set, of an own one all, rank 0 first: it fetches, draws or decodes what
    the others then find. UserError for an unknown name, with the nearest."""
    own = datasets.is_own(name)
    if not own and name not in datasets.names():
        raise UserError(f"--dataset: unknown data set {name!r}{nearest(name, datasets.names())}")

    def load() -> dict[str, Source]:
        shows = comm.rank == 0
        if own:
            return datasets.load_own(name, how, progress=shows)
        return {one: datasets.load(name, one, data_dir or None, progress=shows) for one in splits}

    found = load() if comm.rank == 0 else {}
    comm.idle_barrier()
    chunk = max(map(datasets.chunk_of, found.values()), default=0)
    if chunk > datasets.LARGE_CHUNK:
        warn(f"--dataset {name}: a shuffled image is read with the {chunk} of its chunk; "
             "`tallygrad data pack` makes smaller chunks")  # fmt: skip
    return found or load()


def load_data(config: TrainConfig, comm: Comm) -> Data:
    """Return the loaders that the options ask for."""
    how = reading(config)
    datasets.parse_augment(config.augment)  # refuses what is unknown before data are loaded
    with comm.journal.doing("loading data"):
        found = load_splits(config.dataset, ("train", "test"), config.data_dir, comm, how)
    return loaders(config, comm, found["train"], found["test"], found.get("validation"))


def hold_out(data: Source, part: str, seed: int) -> tuple[Source, Source | None]:
    """Return a training set without the part of it that `--validation` holds out, and that."""
    number = parse_part(part)
    if not number:
        return data, None
    return datasets.hold_out(data, round(number * len(data)) if number < 1 else int(number), seed)


def loaders(
    config: TrainConfig, comm: Comm, train: Source, test: Source, validation: Source | None = None
) -> Data:
    """Return the loaders of the splits, augmented as the options and the data set's name say. A
    validation set that the data have is replaced by what `--validation` holds out."""
    train, held_out = hold_out(train, config.validation, config.seed)
    validation = held_out or validation
    augment = datasets.parse_augment(config.augment, train.name, train.input_shape)
    dtype = np.dtype(config.dtype)
    shared: dict[str, Any] = {"rank": comm.rank, "size": comm.size, "dtype": dtype}
    shared["micro_batches"] = config.micro_batches_on(comm.size)
    size = config.eval_batch_size or config.batch_size
    return Data(
        Loader(train, config.batch_size, seed=config.seed, augment=augment, **shared),
        test_loader(test, size, **shared),
        test_loader(validation, size, **shared) if validation else None,
    )


def test_loader(
    data: Source, batch_size: int, *, size: int, micro_batches: int, **shared: Any
) -> Loader:
    """Return a loader in natural order, without augmentation; a batch is at least one sample a
    micro-batch, and at most the data set."""
    fitting = min(max(batch_size, micro_batches), len(data))
    shared |= {"size": size, "micro_batches": micro_batches}
    return Loader(data, fitting, shuffle=False, **shared)


def create_model(name: str, data: Source, dtype: Any, seed: int = 0) -> nn.Module:
    """Return a model for a data set's images and classes, its weights drawn from the seed."""
    manual_seed(seed)
    try:
        model = models.create(name, input_shape=data.input_shape, classes=len(data.classes))
        return model.astype(dtype)
    except ValueError as error:
        raise UserError(f"--model: {error}") from error


def prepare(model: nn.Module, data: Loader) -> None:
    """Let a model that has a method `prepare(images)` compute what it takes from data, such as
    filters that whiten: from the first training images, normalised."""
    if hasattr(model, "prepare"):
        pixels = data.dataset.read(np.arange(min(PREPARING, len(data.dataset))))
        model.prepare(from_numpy(data.normalise(pixels).transpose(0, 3, 1, 2)))


def mixed(precision: str) -> autocast:
    """Return the block in which a model and its loss compute in a precision, by name. UserError
    where bfloat16 is not to be had."""
    try:
        return autocast("bfloat16", enabled=precision == "bf16")
    except ImportError as error:
        raise UserError(f"--precision: expected float32, got {precision}: {error}") from error


def flatten_parameters(model: nn.Module, task: Task, data: Source, dtype: Any) -> FlatParameters:
    """Move the parameters into one buffer, in the order in which a sweep finishes them, which a
    step on the meta backend tells."""
    parameters = list(model.parameters())

    def order(twin: nn.Module, backend: str) -> list[int]:
        places = {id(p): i for i, p in enumerate(twin.parameters())}
        found = gradient_order(lambda: run(twin), list(twin.parameters()), backend)
        return [places[id(p)] for p in found]

    def run(twin: nn.Module) -> Tensor:
        loss = _blank_loss(twin, task, data, 2, dtype)
        if not parameters:
            raise UserError(
                "--model: expected at least one parameter, got none: layers in a list or dict of "
                "Python are not found, nn.ModuleList and nn.ModuleDict are"
            )
        if not loss.requires_grad:
            raise UserError(
                f"--model: expected an output with a gradient for {len(parameters)} parameters, "
                "got one without: is it detached, or are all of them frozen?"
            )
        return loss

    model.train()
    return flatten([parameters[i] for i in _rehearsed(model, order)])


def check_output(model: nn.Module, task: Task, data: Source, dtype: Any) -> None:
    """UserError where a model's output does not fit the task, or it cannot take the images."""

    def run(twin: nn.Module, backend: str) -> None:
        blank = context.using(backend=backend, tape=None, ledger=Ledger(), scope="")
        with blank, replayed(moment()):
            _blank_loss(twin, task, data, 2, dtype)

    _rehearsed(model, run)


def _rehearsed(model: nn.Module, run: Callable[[nn.Module, str], T]) -> T:
    """Run a model on shapes alone or, where it reads numbers, a copy of it on numbers: forward may
    change buffers. UserError for a model that cannot take the images of a data set."""
    with _fitting():
        try:
            return run(model, backends.SHAPES_ONLY)
        except NoNumbers:
            return run(deepcopy(model), "numpy")


@contextmanager
def _fitting() -> Iterator[None]:
    """UserError for a model that cannot take the images of a data set."""
    try:
        with user_code.explained("--model"):
            yield
    except (ValueError, TypeError, NotImplementedError) as error:
        raise UserError(f"--model: {error}") from error


def _blank_loss(model: nn.Module, task: Task, data: Source, size: int, dtype: Any) -> Tensor:
    """Return the loss of `size` blank samples like those of a data set or, where numbers count, of
    its first ones. UserError where the model's output does not fit the task."""
    images: Any = zeros(size, *data.input_shape, dtype=dtype)
    labels: Any = zeros(size, dtype=np.int64)
    if backends.computes():
        first = np.arange(size) % len(data)
        pixels = Loader(data, 1, dtype=np.dtype(dtype)).normalise(data.read(first))
        images, labels = from_numpy(pixels.transpose(0, 3, 1, 2)), from_numpy(data.labels[first])
    inputs = task.inputs(Batch(images, labels, np.zeros(size, np.int64), size, (0, size)))
    with added_losses() as terms:
        output = model(inputs[0])
    expected = (size, *task.output_shape(data))
    shape = output.shape if isinstance(output, Tensor) else type(output).__name__
    if shape != expected:
        raise UserError(
            f"--model: expected a model whose output for {size} samples is {expected}, got "
            f"{shape}; mend forward, or choose another --task"
        )
    loss = sum(terms, task.loss(output, *inputs, training=False))
    if loss.dtype != dtype:
        raise UserError(
            f"--model: expected an output of {np.dtype(dtype)}, as --dtype says, got {output.dtype}"
        )
    return loss


def tune(name: str, comm: Comm, model: nn.Module, task: Task, data: Data) -> None:
    """Let rank 0 find the fastest tiles for whole micro-batches, and all ranks take these; every
    other shape gets the plans' guesses. The model stays as it is: the run has no numbers."""
    backend = backends.get(name)
    if "tune=" not in name or not isinstance(backend, backends.Tunable):
        return
    choices = b""
    if comm.rank == 0:
        was, dry = model.training, backends.get(f"{name},dry")
        assert isinstance(dry, backends.Tunable)
        for loader, trains in ((data.train, True), (data.validation, False), (data.test, False)):
            if loader is None:
                continue
            model.train(trains)
            for size in loader.sampler.sizes:
                loss = _run_dry(f"{name},dry", model, task, loader, size, Ledger())
                if trains:
                    with context.using(backend=f"{name},dry", ledger=Ledger()):
                        grad(loss, [*model.parameters()], allow_unused=True)
        model.train(was)
        choices = dry.choices()
    backend.adopt(comm.bcast_bytes(choices))


def _run_dry(
    name: str, model: nn.Module, task: Task, loader: Loader, size: int, ledger: Ledger
) -> Tensor:
    """Run forward on shapes alone, on a backend that has no numbers; return the loss."""
    blank = context.using(backend=name, tape=Tape(), ledger=ledger, scope="")
    with _fitting(), blank, replayed(moment()):
        return _blank_loss(model, task, loader.dataset, size, loader.normalise.scale.dtype)


def limit_memory(backend: str, size: int) -> None:
    """Set the limit of a rank's results. UserError where it would not be kept."""
    if size and backend == "numpy":
        raise UserError("--memory-limit: expected --backend llvm, got numpy, which has no limit")
    set_memory_limit(size)


def memory_error(error: OutOfMemory, option: str, batch: int, at_least: int = 0) -> OverLimit:
    """Return what to say where a batch does not fit the limit, and about how much would; `at_least`
    is known to be needed, where the error tells only how far it came."""
    error = OutOfMemory(max(error.needed, at_least), error.limit)
    fitting = int(0.9 * batch * error.limit / error.needed)
    way = f"try {option} {fitting}, or more --micro-batches" if fitting else "give it more"
    return OverLimit(f"--memory-limit: {error}; {way}")


def stashed(model: nn.Module, task: Task, loader: Loader, size: int) -> int:
    """Return the bytes that a micro-batch keeps for its backward sweep, 0 where shapes alone do not
    tell."""
    ledger = Ledger()
    with suppress(UserError):
        _run_dry(backends.SHAPES_ONLY, model, task, loader, size, ledger)
    return sum(row.stashed for row in ledger)


def optimizer_settings(config: TrainConfig) -> dict[str, Any]:
    """Return the options that are settings of the optimizer. UserError for an unknown optimizer,
    and for an option that only other optimizers have."""
    try:
        own = optim.options(config.optimizer)
    except ValueError as error:
        raise UserError(f"--optimizer: {error}") from error
    every = {setting for name in optim.names() for setting in optim.options(name)}
    settings = config.settings()
    for name in settings:
        if name in every.difference(own):
            raise UserError(
                f"{flag(name)}: expected none with --optimizer {config.optimizer}, "
                f"got {getattr(config, name)}"
            )
    return {name: value for name, value in settings.items() if name in own}


def schedule_settings(config: TrainConfig, task: Task, steps: int) -> dict[str, Any]:
    """Return the options that are settings of the schedule over `steps` steps. UserError for one
    that only other schedules have, and for a metric that the task lacks."""
    settings: dict[str, Any] = {}
    for name, owners in OF_SCHEDULES.items():
        value = getattr(config, name)
        if value is None:
            continue
        if config.schedule not in owners:
            raise UserError(
                f"{flag(name)}: expected none with --schedule {config.schedule}, got {value}"
            )
        settings[name.removeprefix("plateau_")] = value
    per_epoch = steps // config.epochs
    if config.schedule == "step" and config.milestones:
        settings["milestones"] = tuple(n * per_epoch for n in parse_milestones(config.milestones))
    elif config.schedule == "step":
        settings["milestones"] = (steps // 2, steps * 3 // 4)
    if config.schedule == "exponential":
        settings["step_size"] = per_epoch
    if config.schedule == "plateau":
        settings["mode"] = _mode(settings.pop("metric", LOSS), task)
    return settings


def _mode(metric: str, task: Task) -> str:
    """Return whether of a metric "min" or "max" is better."""
    higher = {LOSS: False} | {one.name: one.higher_is_better for one in task.metrics}
    if metric not in higher:
        raise UserError(f"--plateau-metric: unknown metric {metric!r}{nearest(metric, higher)}")
    return "max" if higher[metric] else "min"


def create_optimizer(
    config: TrainConfig, task: Task, model: nn.Module, flat: FlatParameters, steps: int
) -> Optimizer:
    """Return the optimizer that the options name, with its schedule over `steps` steps. UserError
    for what does not fit."""
    if config.warmup_steps >= steps:
        raise UserError(
            f"--warmup-steps: expected fewer than the {steps} steps of all epochs, "
            f"got {config.warmup_steps}"
        )
    chosen = optimizer_settings(config)
    if config.optimizer == "sgd" and config.nesterov and not config.momentum:
        raise UserError(f"--nesterov: expected --momentum above 0, got {config.momentum}")
    if not config.decay_norm_bias and not config.weight_decay:
        raise UserError(
            f"--no-decay-norm-bias: expected --weight-decay above 0, got {config.weight_decay}"
        )
    settings = schedule_settings(config, task, steps)
    try:
        schedule = schedules.by_name(
            config.schedule, config.lr, steps, config.warmup_steps, **settings
        )
        names = model.named_parameters()
        made = optim.create(config.optimizer, flat, schedule, named_parameters=names, **chosen)
    except ValueError as error:
        raise UserError(str(error)) from error
    if not config.decay_norm_bias:
        made.exempt_from_decay(p for p in model.parameters() if p.ndim <= 1)
    made.scale_rates(norm_parameters(model), config.norm_lr)
    for average in config.averages(steps):
        made.add(average)
    return made
