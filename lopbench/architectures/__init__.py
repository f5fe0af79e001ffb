"""The networks: ordinary modules for one network, which a population stacks."""

from lopbench.architectures.linear import Linear
from lopbench.architectures.mlp import MLP

__all__ = ["MLP", "Linear"]
