"""Adam, with weight decay coupled (Adam) or decoupled (AdamW), and step counts for a replica or for every weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

import lopbench
from lopbench.checks import check_bool, check_choice, check_number
from lopbench.optimizers.common import Decaying, zeros_like
from lopbench.population import along
from lopbench.protocols import PerReplica, Tree


@lopbench.register("optimizers")
@dataclass(frozen=True)
class Adam(Decaying):
    """Adam with coupled weight decay, as torch.optim.Adam, or with a step count for every weight.

        g <- g + weight_decay * theta
        m <- beta1 * m + (1 - beta1) * g,  v <- beta2 * v + (1 - beta2) * g^2
        theta <- theta - learning_rate * m / c1 / (sqrt(v / c2) + epsilon),  c1 = 1 - beta1^t, c2 = 1 - beta2^t

    `epsilon_placement="uncorrected"` adds epsilon to sqrt(v) before the correction, (sqrt(v) + epsilon) /
    sqrt(c2), as published with the per-weight counts.

    State: `m`, `v`, and t, the number of steps: `steps`, one count a replica, or one an entry with
    `per_weight_steps`. Clearing zeroes m and v, and an entry's own count, so that the correction starts
    anew. A replica's common count goes on: the first step of a cleared entry is then about
    (1 - beta1) / sqrt(1 - beta2) learning rates long (3.2 at the defaults) and not one.

    Fields: see `Decaying` for what weight decay does under a schedule and to vectors. Sources: Kingma and
    Ba 2015; per-weight counts: Dohare et al. 2024 (with the bias corrections that its code meant to make).
    """

    decoupled: ClassVar[bool] = False

    learning_rate: PerReplica[float] = 0.001
    beta1: PerReplica[float] = 0.9
    beta2: PerReplica[float] = 0.999
    epsilon: PerReplica[float] = 1e-8
    weight_decay: PerReplica[float] = 0.0
    per_weight_steps: bool = False
    epsilon_placement: str = "corrected"
    decay_tied_to_learning_rate: bool = True
    decay_vectors: bool = True

    def __post_init__(self) -> None:
        self.check_decay()
        check_number(self, "beta1", self.beta1, at_least=0, below=1)
        check_number(self, "beta2", self.beta2, at_least=0, below=1)
        check_number(self, "epsilon", self.epsilon, at_least=0)
        check_bool(self, "per_weight_steps", self.per_weight_steps)
        check_choice(self, "epsilon_placement", self.epsilon_placement, ("corrected", "uncorrected"))

    def init(self, parameters: Mapping[str, Tensor], values: Mapping[str, Tensor] | None = None) -> Tree:
        """The state before the first step; `values` make no difference to it."""
        first = next(iter(parameters.values()))
        common = torch.zeros(first.shape[0], dtype=torch.int64, device=first.device)
        steps = zeros_like(parameters, torch.int32) if self.per_weight_steps else common
        return {"m": zeros_like(parameters), "v": zeros_like(parameters), "steps": steps}

    def update(
        self,
        parameters: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor],
        state: Tree,
        values: Mapping[str, Tensor],
    ) -> tuple[dict[str, Tensor], Tree]:
        """One step (see the class)."""
        updated: dict[str, Tensor] = {}
        slots: Tree = {"m": {}, "v": {}, "steps": {} if self.per_weight_steps else state["steps"] + 1}
        for name, old in parameters.items():
            parameter, gradient = self.decay(old, gradients[name], values)
            rate, beta1, beta2, epsilon = (
                along(values[field], parameter) for field in ("learning_rate", "beta1", "beta2", "epsilon")
            )
            m = slots["m"][name] = beta1 * state["m"][name] + (1 - beta1) * gradient
            v = slots["v"][name] = beta2 * state["v"][name] + (1 - beta2) * gradient.square()
            if self.per_weight_steps:
                steps = slots["steps"][name] = state["steps"][name] + 1
            else:
                steps = along(slots["steps"], parameter)
            c1, root2 = _correction(beta1, steps), _correction(beta2, steps).sqrt()
            if self.epsilon_placement == "corrected":
                scale = v.sqrt() / root2 + epsilon
            else:
                scale = (v.sqrt() + epsilon) / root2
            updated[name] = parameter - rate * m / c1 / scale
        return updated, slots


def _correction(beta: Tensor, steps: Tensor) -> Tensor:
    """1 - beta^steps, without the digits that the difference would lose in float32."""
    return -torch.expm1(steps.to(beta.dtype) * torch.log(beta))


@lopbench.register("optimizers")
@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay, as torch.optim.AdamW.

    First theta <- theta * (1 - learning_rate * weight_decay); the decay stays out of the moments, and
    everything else is as in `Adam`. `weight_decay` is torch's 0.01 unless bound. Source: Loshchilov and Hutter 2019.
    """

    decoupled: ClassVar[bool] = True

    weight_decay: PerReplica[float] = 0.01
