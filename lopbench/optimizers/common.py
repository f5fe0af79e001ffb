"""What the optimizers share: weight decay in its two forms, and starting entries afresh."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from lopbench.checks import check_bool, check_number
from lopbench.population import along
from lopbench.protocols import Optimizer, Tree


class Decaying(Optimizer):
    """An optimizer with weight decay; a subclass has the fields below and says by `decoupled` where the decay acts.

    Coupled (`decoupled` False), the decay is a part of the gradient, g + weight_decay * theta, and passes
    through momentum and moments with it. Decoupled, the parameter shrinks first, theta * (1 - learning_rate
    * weight_decay), and the gradient stays as it is.

    `decay_tied_to_learning_rate=False` frees the decay: it acts as if weight_decay were weight_decay /
    learning_rate(t), so that learning_rate * decay = weight_decay at every step whatever the schedule does
    (Hernandez-Garcia et al. 2025). Decoupled, theta shrinks by exactly 1 - weight_decay, even while the
    learning rate is 0; coupled, there is no decay while it is 0, where a gradient can't express one.

    `decay_vectors=False` leaves parameters of one dimension (biases, norms) undecayed.
    """

    decoupled: ClassVar[bool]
    learning_rate: Any
    weight_decay: Any
    decay_tied_to_learning_rate: bool
    decay_vectors: bool

    def check_decay(self) -> None:
        """Refuse wrong values of the fields that all optimizers have."""
        check_number(self, "learning_rate", self.learning_rate, at_least=0)
        check_number(self, "weight_decay", self.weight_decay, at_least=0)
        check_bool(self, "decay_tied_to_learning_rate", self.decay_tied_to_learning_rate)
        check_bool(self, "decay_vectors", self.decay_vectors)

    def decay(self, parameter: Tensor, gradient: Tensor, values: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """A parameter `[R, *shape]` and its gradient with the decay in them."""
        if parameter.dim() <= 2 and not self.decay_vectors:
            return parameter, gradient
        rate, decay = values["learning_rate"], values["weight_decay"]
        if self.decoupled:
            shrink = rate * decay if self.decay_tied_to_learning_rate else decay
            return parameter * (1 - along(shrink, parameter)), gradient
        if not self.decay_tied_to_learning_rate:
            decay = torch.where(rate > 0, decay / rate, 0.0)
        return parameter, gradient + along(decay, parameter) * parameter

    def clear(self, state: Tree, name: str, mask: Tensor) -> Tree:
        """Zero every slot of parameter `name` under `mask`; slots that a replica has once (`[R]`) stay."""
        return {
            slot: {**entries, name: entries[name].masked_fill(mask, 0)} if isinstance(entries, dict) else entries
            for slot, entries in state.items()
        }


def zeros_like(parameters: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """A slot of zeros for every parameter."""
    return {name: torch.zeros_like(parameter, dtype=dtype) for name, parameter in parameters.items()}
