"""What the strategies that replace units share: their checks, the record of new weights, their reports."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from lopbench.errors import require
from lopbench.initializers import GAINS, SCHEMES, Initial, weight_record
from lopbench.learner import Learner
from lopbench.population import Population
from lopbench.units import UnitGroup

#: "record": the incoming weights' own initial record; else a scheme, with ReLU's gain where it takes one
INITIALIZATIONS = ("record", *SCHEMES)
TIMINGS = ("after_update", "before_update")
#: units replaced; their incoming and outgoing weights (biases not counted); units replaced / all units
REPORTS = ("reinitialized_units", "reinitialized_weights", "reinitialized_fraction")


def check_unit_groups(name: str, population: Population) -> None:
    """Refuse an architecture that declares no unit groups."""
    module = type(population.module).__name__
    require(
        bool(population.groups),
        f"strategies.{name} replaces units, so it must know which parameters feed and read them, but {module} declares "
        "no unit groups: give it unit_groups() (see lopbench/units.py), or use a strategy that acts on weights.",
    )


def fresh_record(initialization: str, learner: Learner, group: UnitGroup) -> Initial | None:
    """The record of a group's new incoming weights; None: their own initial record."""
    if initialization == "record":
        return None
    shape = learner.parameters[group.weight.parameter].shape[1:]
    fan_in = shape.numel() // (group.units * group.weight.tile * group.weight.block)
    fan_out = shape[group.weight.axis] * math.prod(shape[2:])
    return weight_record(initialization, fan_in, fan_out, GAINS["relu"])


def report_replaced(learner: Learner, replaced: Sequence[tuple[UnitGroup, Tensor]]) -> None:
    """Report what was replaced in this step: each group with bool `[R, units]`."""
    for group, units in replaced:
        count = units.sum(dim=1)
        weights = sum(learner.parameters[link.parameter][0].numel() for link in (group.weight, *group.readers))
        learner.report("reinitialized_units", count)
        learner.report("reinitialized_weights", count * (weights // group.units))
        learner.report("reinitialized_fraction", count / sum(other.units for other, _ in replaced))
