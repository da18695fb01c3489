"""Models by name, those of the user's code among them: see `user_code`."""

from __future__ import annotations

from dataclasses import replace
from inspect import signature
from typing import Any

from ..autograd import models, nn
from .config import TrainConfig
from .errors import UserError, warn
from .user_code import SHOWN, UserCode, explained, load, names_code, same

ANY = "any"  # hash of a file
FROM_DATA = ("input_shape", "classes", "num_classes")  # options that follow from the data


class Builder:
    """What makes a model of the user's class or function, and tells its faults."""

    def __init__(self, code: UserCode) -> None:
        if isinstance(code.value, nn.Module) or not callable(code.value):
            raise UserError(
                f"--model: expected {code.name} to be a class or a function that returns a Module, "
                f"got a {type(code.value).__name__}"
            )
        self.code = code
        self.__signature__ = signature(code.value)

    def __call__(self, **options: Any) -> nn.Module:
        """Return a new model."""
        try:
            self.__signature__.bind(**options)
        except TypeError as error:
            raise UserError(f"--model-args: {self.code.name}: {error}") from error
        given = ",".join(f"{k}={v}" for k, v in options.items() if k not in FROM_DATA)
        with explained(f"--model with --model-args {given}" if given else "--model"):
            model: nn.Module = self.code.value(**options)
            return model


def full_name(model: str, model_args: str = "") -> str:
    """Return the name of a model with its options, as reports and checkpoints have it. UserError
    for malformed options."""
    try:
        name, options = models.split_name(model)
        return models.full_name(name, options | models.parse_options(model_args))
    except ValueError as error:
        raise UserError(f"--model-args: {error}") from error


def registered(model: str, model_args: str = "") -> str:
    """Return the same, for a name that the user has given: code that it names is loaded, so that
    `models.create` knows it. UserError where that fails."""
    name = full_name(model, model_args)
    code = name.partition("(")[0]
    if names_code(code):
        models.register(code, listed=False)(Builder(load("--model", code)))
    elif code.endswith(".py"):
        raise UserError(f"--model: expected {code}:NAME, a class or a function in it, got {code}")
    return name


def named_again(recorded: str, given: str, digest: str, where: str, warns: bool = True) -> str:
    """Return the full name of the model of a record, with its code as `given` by the user, never as
    recorded; warn where its SHA-256 is not the recorded `digest`. UserError where code is not
    given, and where another model is."""
    name, options = models.split_name(full_name(recorded))
    if not given and names_code(name):
        raise UserError(
            f"--model: expected {name}, which {where} was trained with, got none; "
            "code runs only where you name it"
        )
    # `fit` records the name of a class or a function without a file.
    is_known = names_code(name) or name in models.names() or not same(given, f"script:{name}")
    if given and is_known and not same(given, name):
        raise UserError(f"--model: expected {name} as in {where}, got {given}")
    full = registered(models.full_name(given or name, options))
    if warns and names_code(given) and (found := load("--model", given).sha256) != digest:
        warn(
            f"--model: {where} was trained with SHA-256 {digest[:SHOWN]}, got {found[:SHOWN]} of "
            f"{given}"
        )
    return full


def pinned(config: TrainConfig) -> TrainConfig:
    """Return the options of a training with the hash of its model's code, which is loaded.
    UserError where that is not the expected one."""
    expected = config.model_sha256
    if not names_code(config.model):
        if expected:
            raise UserError(f"--model-sha256: expected none with --model {config.model}, got one")
        return config
    code = load("--model", config.model)
    if expected != ANY and not code.sha256.startswith(expected):
        raise UserError(
            f"--model: expected {config.model} with SHA-256 {expected[:SHOWN]}, got "
            f"{code.sha256[:SHOWN]}; to take this code, add --model-sha256 {code.sha256[:SHOWN]}"
        )
    return replace(config, model_sha256=code.sha256)


def usual_task(name: str, shape: models.registry.Shape | None = None) -> str:
    """Return the task that the model of a full name is usually trained for, on images of `shape`
    (C, H, W)."""
    try:
        classifies = models.takes_classes(name) or models.classes(name, shape)
    except ValueError:  # it does not say for which images it was made
        classifies = True
    return "classification" if classifies else "reconstruction"
