"""Regularisers towards the initial parameters: L2, L1, Huber and hybrid.

Kumar, Marklund, Van Roy 2023: "Maintaining plasticity in continual learning via regenerative
regularization" (arXiv 2308.11958). With x = theta - theta_0, entry by entry:

    L2Init      (l2_weight / 2) sum x^2     (the paper writes it without 1/2; its updates and values have it)
    L1Init      l1_weight sum |x|
    HuberInit   huber_weight sum h(x),      h(x) = x^2 / 2 where |x| <= 1, else |x| - 1/2
    HybridInit  (l2_weight / 2) sum x^2 + l1_weight sum |x|

The gradient of the term is that of the loss's (coupled): it passes through momentum and Adam's moments.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import huber_loss

import lopbench
from lopbench.checks import check_bool, check_choice, check_number
from lopbench.learner import Learner
from lopbench.protocols import PerReplica, Strategy, Tree
from lopbench.roles import SCOPES, in_scope


@dataclass(frozen=True, kw_only=True)
class _InitRegularizer(Strategy):
    """The targets theta_0, and the sum of a function of the distances to them.

    sample_init_values: False: theta_0 are the parameters at the start; True: a fresh draw of the whole
        initialisation at every step (the paper's ablation).
    scope: "without_norms" (published) or "all" parameters.
    """

    sample_init_values: bool = False
    scope: str = "without_norms"

    def __post_init__(self) -> None:
        check_bool(self, "sample_init_values", self.sample_init_values)
        check_choice(self, "scope", self.scope, SCOPES)
        for weight in ("l2_weight", "l1_weight", "huber_weight"):
            if hasattr(self, weight):
                check_number(self, weight, getattr(self, weight), at_least=0, optional=True)

    def init(self, learner: Learner) -> Tree:
        if self.sample_init_values:
            return {}
        return {name: learner.parameters[name].clone() for name in in_scope(learner.population.module, self.scope)}

    def draws(self, learner: Learner, n: int) -> Tree:
        if not self.sample_init_values:
            return {}
        records = learner.records
        return {
            name: records[name].draw(learner.random, f"target/{name}", tuple(learner.parameters[name].shape[1:]), n)
            for name in in_scope(learner.population.module, self.scope)
        }

    def weighted(self, learner: Learner, weight: str, function: Callable[[Tensor], Tensor]) -> Tensor:
        """weight * sum over the entries of function(theta - theta_0), `[R]`."""
        targets = learner.draw if self.sample_init_values else learner.state
        terms = (function(learner.parameters[name] - target) for name, target in targets.items())
        total = sum(term.reshape(learner.replicas, -1).sum(dim=1) for term in terms)
        return torch.nan_to_num(learner.hyper[weight]) * total


def half_square(x: Tensor) -> Tensor:
    """x^2 / 2."""
    return 0.5 * x.square()


def huber(x: Tensor) -> Tensor:
    """x^2 / 2 where |x| <= 1, |x| - 1/2 beyond."""
    return huber_loss(x, torch.zeros_like(x), reduction="none")


@lopbench.register("strategies")
@dataclass(frozen=True)
class L2Init(_InitRegularizer):
    """L2 Init (regenerative regularisation): adds (l2_weight / 2) sum (theta - theta_0)^2 to the loss.

    l2_weight: lambda >= 0; None: no penalty. Published: 1e-2 (1e-3 on continual ImageNet). With SGD a step
    is theta <- (1 - a lambda) theta + a lambda theta_0 - a gradient. Other fields: see this file's head.
    """

    l2_weight: PerReplica[float | None] = 1e-2

    def penalty(self, learner: Learner) -> Tensor:
        return self.weighted(learner, "l2_weight", half_square)


@lopbench.register("strategies")
@dataclass(frozen=True)
class L1Init(_InitRegularizer):
    """L1 Init: adds l1_weight sum |theta - theta_0| to the loss.

    l1_weight: lambda >= 0; None: no penalty. At theta = theta_0 its gradient is taken as 0.
    """

    l1_weight: PerReplica[float | None] = 1e-3

    def penalty(self, learner: Learner) -> Tensor:
        return self.weighted(learner, "l1_weight", torch.abs)


@lopbench.register("strategies")
@dataclass(frozen=True)
class HuberInit(_InitRegularizer):
    """Huber Init: adds huber_weight sum h(theta - theta_0) to the loss, quadratic near theta_0, linear beyond 1.

    huber_weight: lambda >= 0; None: no penalty.
    """

    huber_weight: PerReplica[float | None] = 1e-2

    def penalty(self, learner: Learner) -> Tensor:
        return self.weighted(learner, "huber_weight", huber)


@lopbench.register("strategies")
@dataclass(frozen=True)
class HybridInit(_InitRegularizer):
    """L2 Init and L1 Init together: (l2_weight / 2) sum (theta - theta_0)^2 + l1_weight sum |theta - theta_0|.

    l2_weight, l1_weight: >= 0; None: without that term.
    """

    l2_weight: PerReplica[float | None] = 1e-2
    l1_weight: PerReplica[float | None] = 1e-3

    def penalty(self, learner: Learner) -> Tensor:
        return self.weighted(learner, "l2_weight", half_square) + self.weighted(learner, "l1_weight", torch.abs)
