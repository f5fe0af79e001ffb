"""Dropout with keyed masks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lopbench.keyed_random import uniforms


class Dropout(nn.Module):
    """Inverted dropout: y = x m / (1 - p), with each entry of the mask m drawn anew, 0 with probability p and else 1.

    The mask is a function of the buffer `key` (int64 `[2]`: the replica's seed and the step), of `name` and of the
    element's place in x, so that a replica drops the same units alone and among others. In evaluation mode, or with
    probability 0, y = x and nothing is drawn. Whoever trains the module sets `key` before every step.

    Arguments:
        probability: p, at least 0 and below 1.
        name: distinguishes the masks of the layers of one network; each has its own.

    Source: Srivastava et al. 2014.
    """

    key: Tensor

    def __init__(self, probability: float, name: str) -> None:
        super().__init__()
        self.probability, self.name = probability, name
        self.register_buffer("key", torch.zeros(2, dtype=torch.int64), persistent=False)

    @property
    def draws(self) -> bool:
        """Whether the layer drops anything now."""
        return self.training and self.probability > 0

    def forward(self, x: Tensor) -> Tensor:
        if not self.draws:
            return x
        u = uniforms(self.key[:1], f"dropout/{self.name}", self.key[1], x.numel()).reshape(x.shape)
        return torch.where(u < self.probability, 0.0, x / (1 - self.probability))

    def extra_repr(self) -> str:
        return f"{self.probability}, name={self.name!r}"
