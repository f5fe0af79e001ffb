"""Stochastic gradient descent with momentum; weight decay coupled (SGD) or decoupled (SGDW)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

import lopbench
from lopbench.checks import check_bool, check_number
from lopbench.errors import require
from lopbench.optimizers.common import Decaying, zeros_like
from lopbench.population import along
from lopbench.protocols import PerReplica, Tree


@lopbench.register("optimizers")
@dataclass(frozen=True)
class SGD(Decaying):
    """Gradient descent with momentum and coupled weight decay, as torch.optim.SGD.

        g <- g + weight_decay * theta
        b <- momentum * b + (1 - dampening) * g        (b <- g at the first step)
        theta <- theta - learning_rate * b             (nesterov: g + momentum * b)

    Without momentum there is no buffer, and no dampening. State: `momentum` (b) and, where dampening makes
    the first step differ, `started`, whether an entry has had its first step. Entries that were cleared
    start afresh: their next step is a first step again.

    Fields: see `Decaying` for what weight decay does under a schedule and to vectors; nesterov wants
    momentum above 0 and no dampening. Source: Sutskever et al. 2013, in torch's form.
    """

    decoupled: ClassVar[bool] = False

    learning_rate: PerReplica[float] = 0.01
    momentum: PerReplica[float] = 0.0
    dampening: PerReplica[float] = 0.0
    weight_decay: PerReplica[float] = 0.0
    nesterov: bool = False
    decay_tied_to_learning_rate: bool = True
    decay_vectors: bool = True

    def __post_init__(self) -> None:
        self.check_decay()
        check_number(self, "momentum", self.momentum, at_least=0, at_most=1)
        check_number(self, "dampening", self.dampening, at_least=0, at_most=1)
        check_bool(self, "nesterov", self.nesterov)
        require(
            not self.nesterov or (self.momentum > 0 and self.dampening == 0),
            f"optimizers.{type(self).__name__}.nesterov is True with momentum {self.momentum} and dampening "
            f"{self.dampening}: it needs momentum above 0 and dampening 0.",
        )

    def init(self, parameters: Mapping[str, Tensor], values: Mapping[str, Tensor] | None = None) -> Tree:
        """The state before the first step.

        `values` are the hyperparameters in force at that step (`[R]` each, on the host's time): slots that
        no replica needs are left out, for plain gradient descent all of them. None: nothing is left out.
        """
        state: Tree = {}
        if values is None or bool((values["momentum"] != 0).any()):
            state["momentum"] = zeros_like(parameters)
            if values is None or bool((values["dampening"] != 0).any()):
                state["started"] = zeros_like(parameters, torch.bool)
        return state

    def update(
        self,
        parameters: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor],
        state: Tree,
        values: Mapping[str, Tensor],
    ) -> tuple[dict[str, Tensor], Tree]:
        """One step (see the class)."""
        updated: dict[str, Tensor] = {}
        slots: Tree = {slot: {} for slot in state}
        for name, old in parameters.items():
            parameter, direction = self.decay(old, gradients[name], values)
            if "momentum" in state:
                direction = self._with_momentum(name, direction, state, slots, values)
            updated[name] = parameter - along(values["learning_rate"], parameter) * direction
        return updated, slots

    def _with_momentum(
        self, name: str, gradient: Tensor, state: Tree, slots: Tree, values: Mapping[str, Tensor]
    ) -> Tensor:
        """The direction of the step; writes this parameter's entries of the new slots."""
        momentum, share = along(values["momentum"], gradient), gradient
        if "started" in state:
            dampening = torch.where(momentum == 0, 0.0, along(values["dampening"], gradient))
            share = torch.where(state["started"][name], (1 - dampening) * gradient, gradient)
            slots["started"][name] = torch.ones_like(state["started"][name])
        buffer: Tensor = momentum * state["momentum"][name] + share
        slots["momentum"][name] = buffer
        return gradient + momentum * buffer if self.nesterov else buffer


@lopbench.register("optimizers")
@dataclass(frozen=True)
class SGDW(SGD):
    """Gradient descent with momentum and decoupled weight decay.

    First theta <- theta * (1 - learning_rate * weight_decay); the decay stays out of the momentum buffer, and
    everything else is as in `SGD`. Source: Loshchilov and Hutter 2019, in the form of Hernandez-Garcia et al.
    2025, whose L2 factor is `weight_decay` with `decay_tied_to_learning_rate=False`: every step multiplies all
    parameters by 1 - weight_decay.
    """

    decoupled: ClassVar[bool] = True
