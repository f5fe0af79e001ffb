"""ReDo: from time to time the dormant units of every layer are recycled.

Sokar, Agarwal, Castro, Evci 2023: "The dormant neuron phenomenon in deep reinforcement learning" (ICML; arXiv
2302.12902).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

import lopbench
from lopbench.checks import check_bool, check_choice, check_number
from lopbench.errors import require
from lopbench.learner import Learner
from lopbench.periods import Events, due_every
from lopbench.population import Population
from lopbench.protocols import PerReplica, Strategy
from lopbench.strategies.unit_replacement import (
    INITIALIZATIONS,
    REPORTS,
    TIMINGS,
    check_unit_groups,
    fresh_record,
    report_replaced,
)
from lopbench.strategies.unit_utilities import unit_utility
from lopbench.units import UnitGroup, link_mask

UTILITIES = ("activation", "contribution", "gradient", "magnitude", "random")


@lopbench.register("strategies")
@dataclass(frozen=True)
class ReDo(Strategy):
    """ReDo: every `period` updates the units of low utility relative to their layer are replaced.

    With u_i the utility on this step's minibatch (unit_utilities.py), by default <|h_i|>:

        replace unit i where u_i <= threshold * mean_j u_j        over the units j of its layer

    which is Sokar et al.'s score u_i / mean u <= threshold. Replaced: incoming weights anew, incoming bias to its
    record's mean (0), outgoing weights 0, the affine parameters and statistics of a norm between them as at first.
    All layers are scored before any is touched. The output layer has no units.

    threshold: tau >= 0; 0 replaces units that are exactly 0 (on that minibatch); None: off.
    period: in updates, counted through task changes; None: off.
    utility: activation (as published), contribution, gradient, magnitude or random.
    incoming: "resample" draws the new incoming weights; "initial" writes back the values that the unit's weights and
        bias had at first (L2 Init's form of ReDo).
    initialization: "record": what the incoming weights were first drawn from; or a scheme of
        initializers.weight_record, with ReLU's gain (kaiming, xavier) or 1 (lecun, default).
    reset_silent_layers: whether a layer of which every utility is 0 is replaced whole (0 <= 0), as by Sokar et al.
        and Hernandez-Garcia et al.; False: left alone, as in the codes of L2 Init and Nature, whose score is 0/0.
    timing: "after_update"; or "before_update", between gradients and optimizer, which stands in for the layers of
        Hernandez-Garcia et al. that replaced inside the backward pass. The stale gradient of the old unit is then
        applied to the new weights, as theirs was; unlike theirs, lower layers' gradients are those of the
        network that saw the batch, and no layer's utility sees another's replacement.
    clear_optimizer: whether the optimizer's state of replaced entries starts afresh (Sokar et al.: yes, Adam's
        moments; L2 Init, Nature and Hernandez-Garcia et al.: no).
    """

    threshold: PerReplica[float | None] = 0.1
    period: PerReplica[int | None] = 1000
    utility: str = "activation"
    incoming: str = "resample"
    initialization: str = "record"
    reset_silent_layers: bool = True
    timing: str = "after_update"
    clear_optimizer: bool = False

    reports: ClassVar[tuple[str, ...]] = REPORTS

    def __post_init__(self) -> None:
        check_number(self, "threshold", self.threshold, at_least=0, optional=True)
        check_number(self, "period", self.period, at_least=1, integer=True, optional=True)
        check_choice(self, "utility", self.utility, UTILITIES)
        check_choice(self, "incoming", self.incoming, ("resample", "initial"))
        check_choice(self, "initialization", self.initialization, INITIALIZATIONS)
        require(
            self.incoming == "resample" or self.initialization == "record",
            f"strategies.ReDo.initialization is {self.initialization!r}, but incoming is 'initial', which draws "
            "nothing: leave initialization at 'record'.",
        )
        check_bool(self, "reset_silent_layers", self.reset_silent_layers)
        check_choice(self, "timing", self.timing, TIMINGS)
        check_bool(self, "clear_optimizer", self.clear_optimizer)

    def check(self, population: Population) -> None:
        check_unit_groups("ReDo", population)

    def events(self, population: Population, hyper: Mapping[str, np.ndarray]) -> Events:
        return due_every(np.where(np.isnan(hyper["threshold"]), np.nan, hyper["period"]))

    def before_update(self, learner: Learner) -> None:
        if self.timing == "before_update" and learner.event is not None:
            self._recycle(learner, learner.event["due"])

    def after_update(self, learner: Learner) -> None:
        if self.timing == "after_update" and learner.event is not None:
            self._recycle(learner, learner.event["due"])

    def _recycle(self, learner: Learner, due: Tensor) -> None:
        """Replace the dormant units of the replicas chosen by bool `[R]`."""
        replaced = [(group, self._dormant(learner, group) & due[:, None]) for group in learner.groups]
        for group, units in replaced:
            self._replace(learner, group, units)
        report_replaced(learner, replaced)

    def _dormant(self, learner: Learner, group: UnitGroup) -> Tensor:
        """Bool `[R, units]`."""
        utility = unit_utility(self.utility, learner, group)
        mean = utility.mean(dim=1, keepdim=True)
        dormant = utility <= learner.hyper["threshold"][:, None] * mean
        return dormant if self.reset_silent_layers else dormant & (mean > 0)

    def _replace(self, learner: Learner, group: UnitGroup, units: Tensor) -> None:
        if self.incoming == "resample":
            record = fresh_record(self.initialization, learner, group)
            learner.replace_units(group, units, record, clear=self.clear_optimizer)
            return
        weight = group.weight.parameter
        learner.replace_units(group, units, incoming=_first_values(learner, weight), clear=self.clear_optimizer)
        if group.bias is not None:
            bias = group.bias.parameter
            mask = link_mask(group, group.bias, units, learner.parameters[bias])
            learner.assign(bias, _first_values(learner, bias), mask)


def _first_values(learner: Learner, name: str) -> Tensor:
    """A parameter's initial values `[R, *shape]`, drawn again: the same numbers, so that nothing need be stored."""
    random = learner.population.random("initial", torch.zeros_like(learner.clock.step), learner.seeds)
    return learner.records[name].draw(random, name, tuple(learner.parameters[name].shape[1:]))
