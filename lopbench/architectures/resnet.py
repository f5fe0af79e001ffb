"""The residual network of incremental CIFAR-100: ResNet-18 for images of 32 x 32."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

import lopbench
from lopbench.architectures.images import image_shape
from lopbench.architectures.layers import MOST_UNITS
from lopbench.checks import check_count
from lopbench.initializers import Initial, constant, normal
from lopbench.protocols import Problem
from lopbench.units import Link, UnitGroup


@lopbench.register("architectures")
class ResNet18(nn.Module):
    """ResNet-18 with a stem that keeps the size of small images: 11,224,932 parameters at 100 outputs.

        stem: convolution 3 x 3, stride 1 -> norm -> ReLU        (no max-pooling)
        8 blocks: h -> ReLU(norm(conv2(ReLU(norm(conv1(h))))) + shortcut(h))
        mean over the places -> linear

    The blocks have 1, 1, 2, 2, 4, 4, 8, 8 times `width` channels. Where that doubles, conv1 has stride 2 and the
    shortcut is a 1 x 1 convolution of stride 2 and a norm; elsewhere the shortcut is the identity. It is torchvision's
    network but for the stem and for biases in every convolution. Norms are batch normalisation (epsilon 1e-5, momentum
    0.1, running statistics in evaluation mode).

    Initially: convolutions N(0, 2 / fan_in), the head N(0, 1 / fan_in), all biases 0, norms 1 and 0.

    The 17 features, with 61 `width` channels in all, are named after the convolutions: "stem" and "blocks.k.conv1",
    each after norm and ReLU, and "blocks.k.conv2", the output of the block after the addition and ReLU; of the last
    block its mean over the places `[B, F]`, which the head reads.

    A unit group's reader is the next layer in this order, and its norm is reset with the unit. Shortcuts belong to no
    group: a replaced channel of the stem or of a block's output (but the last's) still feeds the sums and the 1 x 1
    convolutions that bypass its reader, so that outgoing weights of 0 do not silence it. That is as published.

    width: channels of the stem; 64 as published (16 makes a network for tests without a GPU: 1/16 of the size).

    Sources: Dohare et al. 2024 (Nature); He et al. 2016.
    """

    def __init__(self, problem: Problem, width: int = 64) -> None:
        super().__init__()
        channels, _, _ = image_shape(self, problem)
        check_count(self, "width", width, most=MOST_UNITS)
        self.width = width
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        self.stem_norm = nn.BatchNorm2d(width)
        sizes = [width * factor for factor in (1, 1, 1, 2, 2, 4, 4, 8, 8)]
        self.blocks = nn.ModuleList(Block(inputs, outputs) for inputs, outputs in itertools.pairwise(sizes))
        self.head = nn.Linear(sizes[-1], problem.outputs)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Outputs `[B, outputs]` and the features by name, for images `[B, C, H, W]`."""
        h = torch.relu(self.stem_norm(self.stem(x)))
        features = {"stem": h}
        for k, block in enumerate(self.blocks):
            inner, h = block(h)
            features |= {f"blocks.{k}.conv1": inner, f"blocks.{k}.conv2": h}
        features["blocks.7.conv2"] = h.mean(dim=(2, 3))
        return self.head(features["blocks.7.conv2"]), features

    def initial_records(self) -> dict[str, Initial]:
        """The record of every parameter, by name."""
        records: dict[str, Initial] = {}
        for name, layer in self.named_modules():
            if isinstance(layer, nn.BatchNorm2d):
                records |= {f"{name}.weight": constant(1.0), f"{name}.bias": constant(0.0)}
            elif isinstance(layer, nn.Conv2d | nn.Linear):
                fan_in = layer.weight[0].numel()
                squared_gain = 2 if isinstance(layer, nn.Conv2d) else 1
                records |= {f"{name}.weight": normal(math.sqrt(squared_gain / fan_in)), f"{name}.bias": constant(0.0)}
        return records

    def unit_groups(self) -> tuple[UnitGroup, ...]:
        """One group for each convolution but the shortcuts'."""
        blocks = [f"blocks.{k}.conv{i}" for k in range(len(self.blocks)) for i in (1, 2)]
        return tuple(self._unit_group(name, reader) for name, reader in itertools.pairwise(["stem", *blocks, "head"]))

    def _unit_group(self, name: str, reader: str) -> UnitGroup:
        norm = "stem_norm" if name == "stem" else name.replace("conv", "norm")
        return UnitGroup(
            name=name,
            units=self.get_parameter(f"{name}.weight").shape[0],
            feature=name,
            feature_axis=1,
            activation="relu",
            weight=Link(f"{name}.weight", axis=0),
            bias=Link(f"{name}.bias", axis=0),
            readers=(Link(f"{reader}.weight", axis=1),),
            norm_weight=Link(f"{norm}.weight", axis=0),
            norm_bias=Link(f"{norm}.bias", axis=0),
            norm_mean=Link(f"{norm}.running_mean", axis=0),
            norm_variance=Link(f"{norm}.running_var", axis=0),
        )


class Block(nn.Module):
    """A residual block of two 3 x 3 convolutions; where the number of channels changes, both sides halve the size."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        stride = 1 if inputs == outputs else 2
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride == 2:
            self.shortcut.add_module("conv", nn.Conv2d(inputs, outputs, 1, stride))
            self.shortcut.add_module("norm", nn.BatchNorm2d(outputs))

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """The inner activation and the block's output."""
        inner = torch.relu(self.norm1(self.conv1(h)))
        return inner, torch.relu(self.norm2(self.conv2(inner)) + self.shortcut(h))
