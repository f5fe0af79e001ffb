"""The networks: ordinary modules for one network, which a population stacks."""

from lopbench.architectures.convnet import ConvNet
from lopbench.architectures.linear import Linear
from lopbench.architectures.mlp import MLP
from lopbench.architectures.resnet import ResNet18
from lopbench.architectures.vit import VisionTransformer

__all__ = ["MLP", "ConvNet", "Linear", "ResNet18", "VisionTransformer"]
