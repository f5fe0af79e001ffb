"""L2 regularisation, as a term of the loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import lopbench
from lopbench.checks import check_choice, check_number
from lopbench.learner import Learner
from lopbench.protocols import PerReplica, Strategy
from lopbench.roles import SCOPES, in_scope


@lopbench.register("strategies")
@dataclass(frozen=True)
class L2(Strategy):
    """L2 regularisation: adds (l2_weight / 2) sum theta^2 to the loss.

    The gradient gains l2_weight * theta, before momentum or Adam's moments: what `weight_decay` of torch's SGD
    and Adam does. Decay outside the gradient (SGDW, AdamW) is the optimizer's `weight_decay`.

    l2_weight: lambda >= 0; None: no penalty.
    scope: "all" parameters (Dohare et al. 2024, "Loss of plasticity in deep continual learning", Nature), or
        "without_norms": all weights and biases but those of normalisations (Kumar et al. 2023,
        "Maintaining plasticity via regenerative regularization").
    """

    l2_weight: PerReplica[float | None] = 1e-4
    scope: str = "all"

    def __post_init__(self) -> None:
        check_number(self, "l2_weight", self.l2_weight, at_least=0, optional=True)
        check_choice(self, "scope", self.scope, SCOPES)

    def penalty(self, learner: Learner) -> Tensor:
        names = in_scope(learner.population.module, self.scope)
        squares = sum(learner.parameters[name].square().reshape(learner.replicas, -1).sum(dim=1) for name in names)
        return 0.5 * torch.nan_to_num(learner.hyper["l2_weight"]) * squares
