"""A linear learner, the baseline that can't lose plasticity."""

from __future__ import annotations

import math

from torch import Tensor, nn

import lopbench
from lopbench.initializers import Initial, constant, weight_record
from lopbench.protocols import Problem
from lopbench.units import UnitGroup


@lopbench.register("architectures")
class Linear(nn.Module):
    """One linear layer from the inputs to the outputs, with no hidden units.

    Weights start at U(+-sqrt(3 / fan_in)), the bias at 0. Source: Dohare et al. 2024 (slowly-changing regression).
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.output = nn.Linear(math.prod(problem.input_shape), problem.outputs)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Outputs `[B, outputs]` for inputs `[B, *input_shape]`; there are no features."""
        return self.output(x.flatten(1)), {}

    def initial_records(self) -> dict[str, Initial]:
        """The record of every parameter, by name."""
        weight = weight_record("lecun_uniform", self.output.in_features, self.output.out_features)
        return {"output.weight": weight, "output.bias": constant(0.0)}

    def unit_groups(self) -> tuple[UnitGroup, ...]:
        """None: there is no hidden layer."""
        return ()
