"""A probe whose features a test writes down itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lopbench.protocols import Probe
from lopbench.units import Link, UnitGroup
from tests.helpers import Tensors, tiny_population


class Declared(Tensors):
    """A module that declares the given unit groups."""

    def __init__(self, *groups: UnitGroup):
        super().__init__({})
        self.declared = groups

    def unit_groups(self) -> tuple[UnitGroup, ...]:
        return self.declared


def group(name: str, units: int, activation: str = "relu", axis: int = 1, **feature: Any) -> UnitGroup:
    """A unit group whose feature has the group's name; its links are of no matter to a metric."""
    link = Link("nothing", 0)
    return UnitGroup(name, units, name, axis, activation, link, None, (link,), **feature)


def probe_of(features: Mapping[str, Tensor], *groups: UnitGroup) -> Probe:
    """Features `[R, examples, ...]` as a metric sees them."""
    replicas = next(iter(features.values())).shape[0]
    population = tiny_population(module=Declared(*groups), replicas=replicas)
    return Probe(population, "train", {}, {}, dict(features), None, None, None)


def columns(*units: list[float]) -> Tensor:
    """One replica's activations `[1, examples, units]`, written unit by unit."""
    return torch.tensor(units).T[None]
