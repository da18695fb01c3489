"""Scopes of modules in containers: the names of `named_modules`, however they are called."""

from __future__ import annotations

import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import context, nn


class Doubled(nn.Sequential):
    def forward(self, x: ag.Tensor) -> ag.Tensor:
        return self[1](self[0](x)) * 2.0


class Nest(nn.Module):
    """Containers in containers, called as a whole and in parts."""

    def __init__(self) -> None:
        def linear() -> nn.Linear:
            return nn.Linear(2, 2)

        self.lists = nn.ModuleList([nn.ModuleList([linear(), nn.Sequential(linear())])])
        self.chain = nn.Sequential(linear(), nn.Sequential({"fc": linear()}), Doubled(linear()))
        setattr(self.chain[2], "1", linear())
        self.lists.append(nn.ModuleList())
        self.lists[1].append(nn.Sequential(nn.ModuleList([linear()]), nn.ReLU()))

    def forward(self, x: ag.Tensor, whole: bool) -> ag.Tensor:
        x = self.lists[0][1](self.lists[0][0](x)) + self.lists[1][0][0][0](x)
        if whole:
            return self.chain(x)
        for module in self.chain:
            x = module(x)
        return self.chain[0](self.lists[0][1][0](self.chain[1][0](x)))


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("held", [False, True])
def test_scopes_of_nested_containers(whole: bool, held: bool) -> None:
    nest = Nest()
    top = nn.ModuleList([nn.ModuleList([nest])]) if held else nest
    names = {name for name, _ in top.named_modules()}
    with context.using(ledger=ag.Ledger()) as state:
        nest(ag.ones(1, 2), whole)
    scopes = {row.key.scope for row in state.ledger}
    assert scopes <= names
    front = "0.0." if held else ""
    parts = "lists.0.0", "lists.0.1.0", "lists.1.0.0.0", "chain.0", "chain.1.fc", "chain.2.0"
    assert {front + part for part in (*parts, "chain.2", "chain.2.1")} <= scopes
