"""Multi-head self-attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from lopbench.architectures.dropout import Dropout
from lopbench.architectures.fused_attention import FUSED_DEVICES
from lopbench.initializers import Initial, constant, weight_record


class SelfAttention(nn.Module):
    """Every token's mean of all tokens' values, weighted by how well its query fits their keys; for each head

        head = dropout(softmax(Q K^T / sqrt(d))) V,   d = width / heads,

    with Q, K and V `[B, heads, T, d]` from one linear layer, `in_projection` (its rows are those of Q, K and V in this
    order, head by head), and the heads side by side through another, `out_projection`. `width` must be a multiple
    of `heads`.

    `dropout` is on the weights, by its module `dropout`. While that draws nothing, torch's fused kernel is used where
    it can be stacked (see fused_attention.py); its own dropout can't be keyed by replica.

    Source: Vaswani et al. 2017.
    """

    def __init__(self, width: int, heads: int, dropout: float, name: str) -> None:
        super().__init__()
        self.heads = heads
        self.in_projection = nn.Linear(width, 3 * width)
        self.out_projection = nn.Linear(width, width)
        self.dropout = Dropout(dropout, f"{name}.weights")

    def forward(self, x: Tensor) -> Tensor:
        """`[B, T, width]` for tokens `[B, T, width]`."""
        projected = self.in_projection(x).unflatten(-1, (3, self.heads, -1))
        q, k, v = projected.permute(2, 0, 3, 1, 4).unbind()  # [B, heads, T, d] each
        if self.dropout.draws or x.device.type not in FUSED_DEVICES:
            weights = torch.softmax((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2), dim=-1)
            heads = self.dropout(weights) @ v
        else:
            heads = functional.scaled_dot_product_attention(q, k, v)
        return self.out_projection(heads.transpose(1, 2).flatten(2))

    def initial_records(self) -> dict[str, Initial]:
        """In-projection: Xavier uniform of the stacked matrix; out-projection: U(+-1/sqrt(width)); biases 0."""
        width = self.out_projection.in_features
        return {
            "in_projection.weight": weight_record("xavier_uniform", width, 3 * width),
            "in_projection.bias": constant(0.0),
            "out_projection.weight": weight_record("default", width, width),
            "out_projection.bias": constant(0.0),
        }

    def extra_repr(self) -> str:
        return f"heads={self.heads}"
