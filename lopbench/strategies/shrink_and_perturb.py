"""Shrink and perturb, in the two forms that continual-learning studies run under this name.

Ash and Adams 2020: "On warm-starting neural network training" (NeurIPS), where it acts when new data arrive:
theta <- 0.4 theta + 0.1 phi, phi a fresh initialisation. Both forms here act after the optimizer's update
and leave its state alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

import lopbench
from lopbench.checks import check_number
from lopbench.learner import Learner
from lopbench.periods import Events, check_when, due_every
from lopbench.population import Population, along
from lopbench.protocols import PerReplica, Strategy, Tree


@lopbench.register("strategies")
@dataclass(frozen=True)
class ShrinkAndPerturb(Strategy):
    """Shrink and perturb, noise form: adds N(0, perturb_std^2) to every parameter after every update.

    Shrinking is the optimizer's weight decay (set it there): theta <- (1 - decay) theta - step + noise.
    The noise is independent for every entry of every parameter, norms and biases included, and not scaled by layer.

    perturb_std: the standard deviation; None: no noise. Studies that state a variance: std = sqrt(variance).

    Sources: Dohare et al. 2024, "Loss of plasticity in deep continual learning" (Nature; states the standard
    deviation); Hernandez-Garcia et al. 2025, "Reinitializing weights vs units" (CoLLAs; states the variance).
    """

    perturb_std: PerReplica[float | None] = 1e-5

    def __post_init__(self) -> None:
        check_number(self, "perturb_std", self.perturb_std, at_least=0, optional=True)

    def draws(self, learner: Learner, n: int) -> Tree:
        """The noise of all parameters in one draw, in the module's order: compiled, far cheaper than one each."""
        sizes = [parameter[0].numel() for parameter in learner.parameters.values()]
        pieces = learner.random.normals("noise", (sum(sizes),), n).split(sizes, dim=-1)
        shapes = [parameter.shape[1:] for parameter in learner.parameters.values()]
        return {
            name: piece.unflatten(-1, shape)
            for name, piece, shape in zip(learner.parameters, pieces, shapes, strict=True)
        }

    def after_update(self, learner: Learner) -> None:
        std = torch.nan_to_num(learner.hyper["perturb_std"])
        for name, noise in learner.draw.items():
            learner.parameters[name] = learner.parameters[name] + along(std, noise) * noise


@lopbench.register("strategies")
@dataclass(frozen=True)
class ShrinkAndPerturbInit(Strategy):
    """Shrink and perturb towards fresh initialisations: theta <- (1 - shrink) theta + perturb_scale phi.

    phi is a fresh draw of the whole initialisation, of every parameter and at every application. What is drawn from
    a constant is that constant: a norm's weight of 1 tends to perturb_scale / shrink.

    shrink: s in [0, 1]; None: 0.
    perturb_scale: sigma >= 0; None: no perturbation.
    when: "update": after every update (Kumar et al. 2023, "Maintaining plasticity via regenerative
        regularization", who write p = 1 - s); "task": before the first step of every task but the first;
        "period": after every `period`-th update.
    period: in updates, with when="period" only; None: never.
    """

    shrink: PerReplica[float | None] = 1e-4
    perturb_scale: PerReplica[float | None] = 1e-2
    when: str = "update"
    period: PerReplica[int | None] = None

    def __post_init__(self) -> None:
        check_number(self, "shrink", self.shrink, at_least=0, at_most=1, optional=True)
        check_number(self, "perturb_scale", self.perturb_scale, at_least=0, optional=True)
        check_when(self, ("update", "task", "period"))

    @property
    def needs_task_boundaries(self) -> bool:  # type: ignore[override]
        return self.when == "task"

    def events(self, population: Population, hyper: Mapping[str, np.ndarray]) -> Events:
        return due_every(hyper["period"]) if self.when == "period" else iter(())

    def draws(self, learner: Learner, n: int) -> Tree:
        return self._fresh(learner, n) if self.when == "update" else {}

    def after_update(self, learner: Learner) -> None:
        if self.when == "update":
            self._mix(learner, learner.draw)
        elif learner.event is not None:
            self._mix(learner, self._fresh(learner), learner.event["due"])

    def begin_task(self, learner: Learner) -> None:
        if self.when == "task":
            self._mix(learner, self._fresh(learner))

    def _fresh(self, learner: Learner, steps: int | None = None) -> Tree:
        """phi, `[R, *shape]` or `[n, R, *shape]` for every parameter."""
        records, random = learner.records, learner.random
        return {
            name: records[name].draw(random, f"perturb/{name}", tuple(parameter.shape[1:]), steps)
            for name, parameter in learner.parameters.items()
        }

    def _mix(self, learner: Learner, fresh: Tree, due: Tensor | None = None) -> None:
        keep = 1 - torch.nan_to_num(learner.hyper["shrink"])
        scale = torch.nan_to_num(learner.hyper["perturb_scale"])
        for name, phi in fresh.items():
            mixed = along(keep, phi) * learner.parameters[name] + along(scale, phi) * phi
            if due is None:
                learner.parameters[name] = mixed
            else:
                learner.assign(name, mixed, along(due, phi))
