"""Optimizers by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from tallygrad.autograd import nn, optim
from tallygrad.autograd.optim import registry


def test_by_name_with_settings_and_names() -> None:
    layer = nn.Linear(2, 3)
    made = optim.create(
        "sgd", layer.parameters(), 0.5, layer.named_parameters(), momentum=0.25, nesterov=True
    )
    assert type(made) is optim.SGD and made.rates == [0.5] and {*made.names} == {"weight", "bias"}
    (group,) = made.groups
    assert (group.momentum, group.nesterov, group.weight_decay) == (0.25, True, 0.0)
    assert optim.options("sgd") == ("momentum", "dampening", "weight_decay", "nesterov")


@pytest.mark.parametrize("name", optim.names())
def test_every_optimizer_takes_its_usual_settings(name: str) -> None:
    settings = optim.usual_settings(name)
    assert {*settings} <= {*optim.options(name)}
    made = optim.create(name, nn.Linear(2, 3).parameters(), 0.1, **settings)
    assert isinstance(made, optim.Optimizer)


def test_usual_settings_are_those_of_the_class(monkeypatch: pytest.MonkeyPatch) -> None:
    class Damped(optim.SGD):
        usual: ClassVar[Mapping[str, Any]] = {"dampening": 0.5}

    monkeypatch.setitem(registry._OPTIMIZERS, "damped", Damped)
    assert optim.usual_settings("damped") == {"dampening": 0.5}
    assert optim.usual_settings("sgd") == {"momentum": 0.9, "weight_decay": 1e-4}


def test_unknown_names_are_told_with_the_nearest() -> None:
    parameters = nn.Linear(2, 3).parameters()
    with pytest.raises(ValueError, match="unknown optimizer 'sdg'; did you mean 'sgd'"):
        optim.create("sdg", parameters, 0.1)
    with pytest.raises(ValueError, match="unknown setting of optimizer sgd 'momentun'; did you"):
        optim.create("sgd", parameters, 0.1, momentun=0.9)
