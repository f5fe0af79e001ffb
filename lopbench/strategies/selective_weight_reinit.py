"""Selective weight reinitialisation (SWR): the least useful weights of every tensor start afresh.

Hernandez-Garcia, Dohare, Luo, Sutton 2025: "Reinitializing weights vs units for maintaining plasticity in
neural networks" (CoLLAs; arXiv 2508.00212).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

import lopbench
from lopbench.checks import check_bool, check_choice, check_number
from lopbench.initializers import Initial, normal
from lopbench.learner import Learner
from lopbench.periods import Events, due_every
from lopbench.population import Population, along
from lopbench.protocols import PerReplica, Strategy, Tree
from lopbench.units import lowest


@lopbench.register("strategies")
@dataclass(frozen=True)
class SelectiveWeightReinit(Strategy):
    """SWR: every `period` updates the weights of lowest utility in each tensor are reinitialised.

    For an entry w of a parameter with gradient g (of the mean loss; w after the update, g before it):

        u = |g w|  ("gradient"),  |w|  ("magnitude"),  or uniform on (0, 1)  ("random")
        a <- utility_decay a + (1 - utility_decay) u        every step; not corrected for its start at 0
        "threshold":     reinitialise where a <= reinit_factor mean(a)
        "proportional":  reinitialise the k entries of lowest a among n,
                         k = floor(n reinit_factor) + Bernoulli(frac(n reinit_factor))

    Each tensor (weights, biases, norms, embeddings, head) is ranked by itself, and its whole a is set to 0 when
    any of its entries was reinitialised. Because of "<=", entries of utility exactly 0 always go, and a tensor
    whose utilities are all 0 goes entirely: that is the method as published.

    utility, pruning: as above.
    reinitialization: "resample" from the initial distribution, or its "mean".
    period: tau in updates, counted through task changes; None: never.
    reinit_factor: rho >= 0, at most 1 if proportional; None: never.
    utility_decay: in [0, 1); 0 (published) uses the utility of the step itself.
    initialization: "record": what the parameter was first drawn from; "relu": tensors of two or more axes
        from N(0, 2 / fan_in) whatever the activation, as the published code does on networks that are not ReLU.
    clear_optimizer: whether the optimizer's state of reinitialised entries starts afresh (published: no).
    """

    utility: str = "gradient"
    pruning: str = "threshold"
    reinitialization: str = "resample"
    period: PerReplica[int | None] = 2048
    reinit_factor: PerReplica[float | None] = 1e-5
    utility_decay: PerReplica[float] = 0.0
    initialization: str = "record"
    clear_optimizer: bool = False

    reports: ClassVar[tuple[str, ...]] = ("reinitialized_weights", "reinitialized_fraction")

    def __post_init__(self) -> None:
        check_choice(self, "utility", self.utility, ("gradient", "magnitude", "random"))
        check_choice(self, "pruning", self.pruning, ("threshold", "proportional"))
        check_choice(self, "reinitialization", self.reinitialization, ("resample", "mean"))
        check_number(self, "period", self.period, at_least=1, integer=True, optional=True)
        most = 1 if self.pruning == "proportional" else None
        check_number(self, "reinit_factor", self.reinit_factor, at_least=0, at_most=most, optional=True)
        check_number(self, "utility_decay", self.utility_decay, at_least=0, below=1)
        check_choice(self, "initialization", self.initialization, ("record", "relu"))
        check_bool(self, "clear_optimizer", self.clear_optimizer)

    def init(self, learner: Learner) -> Tree:
        """The average utilities, kept only if some replica has a decay."""
        if not (learner.population.hyper[learner.owner]["utility_decay"] > 0).any():
            return {}
        return {name: torch.zeros_like(parameter) for name, parameter in learner.parameters.items()}

    def events(self, population: Population, hyper: Mapping[str, np.ndarray]) -> Events:
        return due_every(np.where(np.isnan(hyper["reinit_factor"]), np.nan, hyper["period"]))

    def after_update(self, learner: Learner) -> None:
        averaging = bool(learner.state)
        if not averaging and learner.event is None:
            return
        utilities = {name: self._utility(learner, name) for name in learner.parameters}
        if averaging:
            for name, utility in utilities.items():
                decay = along(learner.hyper["utility_decay"], utility)
                utilities[name] = decay * learner.state[name] + (1 - decay) * utility
            learner.state = dict(utilities)
        if learner.event is not None:
            self._reinitialize(learner, utilities, learner.event["due"])

    def _reinitialize(self, learner: Learner, utilities: Tree, due: Tensor) -> None:
        records, replaced = learner.records, torch.zeros_like(learner.seeds)
        for name, utility in utilities.items():
            mask = self._least_useful(learner, name, utility) & along(due, utility)
            learner.reinitialize(name, mask, self._record(records[name], utility.shape[1:]))
            if self.clear_optimizer:
                learner.clear_optimizer(name, mask)
            count = mask.reshape(learner.replicas, -1).sum(dim=1)
            if name in learner.state:
                learner.state[name] = torch.where(along(count > 0, utility), 0.0, utility)
            replaced = replaced + count
        entries = sum(utility[0].numel() for utility in utilities.values())
        learner.report("reinitialized_weights", replaced)
        learner.report("reinitialized_fraction", replaced / entries)

    def _utility(self, learner: Learner, name: str) -> Tensor:
        parameter = learner.parameters[name]
        if self.utility == "random":
            return learner.random.uniforms(f"utility/{name}", tuple(parameter.shape[1:]))
        return (learner.gradients[name] * parameter if self.utility == "gradient" else parameter).abs()

    def _least_useful(self, learner: Learner, name: str, utility: Tensor) -> Tensor:
        """Bool `[R, *shape]`: what pruning chooses."""
        flat, factor = utility.reshape(learner.replicas, -1), learner.hyper["reinit_factor"]
        if self.pruning == "threshold":
            chosen = flat <= factor[:, None] * flat.mean(dim=1, keepdim=True)
        else:  # floor(x + uniform) is floor(x) + Bernoulli(frac(x)); in float64, where an x of 5 can't become 6
            draw = learner.random.uniforms(f"count/{name}", ())
            count = torch.floor(factor.double() * flat.shape[1] + draw.double())
            chosen = lowest(flat, torch.ones_like(flat, dtype=torch.bool), count)
        return chosen.reshape(utility.shape)

    def _record(self, record: Initial, shape: tuple[int, ...]) -> Initial:
        if self.initialization == "relu" and len(shape) > 1 and (record.scale or record.fixed is not None):
            record = normal(math.sqrt(2 / math.prod(shape[1:])))
        return record.at_its_mean() if self.reinitialization == "mean" else record
