"""What several architectures are built of: bounds, activations by name, and layer normalisation in two forms."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from lopbench.initializers import Initial, constant

#: The largest layer, in units, and the most layers that a network may have: a slip of a key is answered at once, not
#: when the machine's memory is full. What is below may still be too large for it.
MOST_UNITS, MOST_LAYERS = 1_000_000, 1_000

#: Elementwise activations by name; each has its gain in `lopbench.initializers.GAINS`.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "leaky_relu": functional.leaky_relu,  # slope 0.01
    "elu": functional.elu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "gelu": functional.gelu,
    "silu": functional.silu,
}


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis: x̂ * weight + bias, or x̂ * (1 + weight) + bias if `reparameterized`.

    x̂ = (x - mean) / sqrt(variance + epsilon), with the variance of the values themselves (divided by their number).
    Reparameterised, the weight starts at 0, so that weight decay pulls the scale towards 1 and not towards 0.
    `epsilon` None: 1e-5, or 1e-6 if reparameterised. Source: Ba et al. 2016; Hernandez-Garcia et al. 2025.
    """

    def __init__(self, size: int, reparameterized: bool = False, epsilon: float | None = None) -> None:
        super().__init__()
        self.reparameterized = reparameterized
        self.epsilon = (1e-6 if reparameterized else 1e-5) if epsilon is None else epsilon
        self.weight = nn.Parameter(torch.full((size,), 0.0 if reparameterized else 1.0))
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(dim=-1, keepdim=True)
        normalised = centred * torch.rsqrt(centred.square().mean(dim=-1, keepdim=True) + self.epsilon)
        return normalised * (1 + self.weight if self.reparameterized else self.weight) + self.bias

    def initial_records(self) -> dict[str, Initial]:
        """Constants: the scale is 1 and the shift 0."""
        return {"weight": constant(0.0 if self.reparameterized else 1.0), "bias": constant(0.0)}

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, reparameterized={self.reparameterized}, epsilon={self.epsilon}"
