"""Convolutional networks: a few convolutions with max-pooling, then linear layers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

import lopbench
from lopbench.architectures.crelu import check_crelu, concatenated_relu, units_of
from lopbench.architectures.images import image_shape
from lopbench.architectures.layers import MOST_UNITS
from lopbench.checks import check_bool, check_choice, is_integer
from lopbench.errors import require
from lopbench.initializers import GAINS, SCHEMES, Initial, constant, uniform, weight_record
from lopbench.protocols import Problem
from lopbench.units import Link, UnitGroup


@lopbench.register("architectures")
class ConvNet(nn.Module):
    """Convolutions, each followed by max-pooling, then linear layers; ReLU throughout, and a linear output layer.

        convolution (stride 1, no padding) -> [norm] -> ReLU -> max-pool 2 x 2    for each of `channels`
        flatten, channel by channel
        linear -> [norm] -> ReLU                                                  for each of `hidden`
        linear

    A kernel of k x k and the pooling take a map of side s to one of floor((s - k + 1) / 2). The features are
    "conv.k", the pooled maps `[B, C, H, W]`, of which the last is flattened to `[B, C * H * W]` as the linear
    layers read it, and "hidden.k", `[B, F]`.

    Arguments:
        channels, kernels: of each convolution: how many units it has, and the side of its square kernel.
        hidden: entries of each linear layer's output.
        initialization: the scheme of `weight_record`, with ReLU's gain where it takes one; fans count the kernel's
            area. "default" is torch's own (weights and biases U(+-1/sqrt(fan_in))); with all others biases start at 0.
        output_gain: kaiming and xavier only: the activation whose gain the output layer takes ("linear": 1).
            None: ReLU's.
        layer_norm: layer normalisation before each activation, over all entries of an example: channels, height and
            width of a map (each entry with a scale and a shift of its own), or units; epsilon 1e-5.
        crelu: the activation is [relu(z), relu(-z)] along the channels or units, so that a unit shows twice.
        crelu_fraction_removed: with CReLU a layer has int((1 - this) * width) units and an output twice that wide.
            None: half of an even width, so that the output is as wide as without CReLU.
        zero_head: the output layer starts at 0, weights and bias, and is reset to that.
        features_before_pooling: the features "conv.k" are the activations `[B, C, H, W]` before max-pooling.

    The published networks:
        Nature, continual ImageNet: the defaults, with zero_head.
        L2 Init, CNN: channels (16, 16), kernels (5, 5), hidden (100, 100); deep CNN: channels (16, 16, 16), kernels
            (5, 3, 3), hidden (100, 100, 100). Its kaiming_* as here; xavier_* with output_gain="linear". CReLU with
            0.27 removed (0.31 at 100 outputs; deep CNN 0.28). Its ReDo looks at features before pooling.

    A unit group's readers are the weights of the next layer: of the first linear layer (height x width) columns for
    each channel. Under a norm a unit also moves the statistics by which its neighbours are scaled: outgoing weights
    of 0 silence it fully only without.

    Sources: Dohare et al. 2024 (Nature); Kumar et al. 2023 (L2 Init); Shang et al. 2016 (CReLU).
    """

    def __init__(
        self,
        problem: Problem,
        channels: Sequence[int] = (32, 64, 128),
        kernels: Sequence[int] = (5, 3, 3),
        hidden: Sequence[int] = (128, 128),
        initialization: str = "default",
        output_gain: str | None = None,
        layer_norm: bool = False,
        crelu: bool = False,
        crelu_fraction_removed: float | None = None,
        zero_head: bool = False,
        features_before_pooling: bool = False,
    ) -> None:
        super().__init__()
        self.initialization, self.output_gain, self.layer_norm = initialization, output_gain, layer_norm
        self.crelu, self.zero_head, self.features_before_pooling = crelu, zero_head, features_before_pooling
        image_channels, *image_size = image_shape(self, problem)
        _check_sizes(channels, kernels, hidden)
        self._check_options(output_gain)
        widths = {f"channels[{k}]": width for k, width in enumerate(channels)}
        widths |= {f"hidden[{k}]": width for k, width in enumerate(hidden)}
        check_crelu(self, crelu, crelu_fraction_removed, widths)

        self.tile = 2 if crelu else 1
        maps = _map_sizes(kernels, image_size)
        units = [units_of(width, crelu, crelu_fraction_removed) for width in channels]
        inputs = [image_channels, *(self.tile * size for size in units)]
        self.conv = nn.ModuleList(map(nn.Conv2d, inputs, units, kernels))
        self.conv_norm = nn.ModuleList(self._norm(size, *places) for size, places in zip(units, maps, strict=True))

        places = math.prod(side // 2 for side in maps[-1])
        units = [units_of(width, crelu, crelu_fraction_removed) for width in hidden]
        inputs = [inputs[-1] * places, *(self.tile * size for size in units)]
        self.hidden = nn.ModuleList(map(nn.Linear, inputs, units))
        self.hidden_norm = nn.ModuleList(self._norm(size) for size in units)
        self.output = nn.Linear(inputs[-1], problem.outputs)

    def _check_options(self, output_gain: str | None) -> None:
        check_choice(self, "initialization", self.initialization, SCHEMES)
        if output_gain is not None:
            check_choice(self, "output_gain", output_gain, GAINS)
            require(
                self.initialization.startswith(("kaiming", "xavier")),
                f"architectures.ConvNet.output_gain is {output_gain!r} but initialization {self.initialization!r} has "
                "no gain: leave it None.",
            )
        for field in ("layer_norm", "zero_head", "features_before_pooling"):
            check_bool(self, field, getattr(self, field))
        require(
            output_gain is None or not self.zero_head,
            f"architectures.ConvNet.output_gain is {output_gain!r} but zero_head is True, and the output layer starts "
            "at 0: leave one of them out.",
        )

    def _norm(self, *shape: int) -> nn.Module:
        return nn.LayerNorm(shape) if self.layer_norm else nn.Identity()

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Outputs `[B, outputs]` and the features by name, for images `[B, C, H, W]`."""
        h, features = x, {}
        for k, (conv, norm) in enumerate(zip(self.conv, self.conv_norm, strict=True)):
            activation = self._activate(norm(conv(h)))
            h = functional.max_pool2d(activation, 2)
            if k + 1 == len(self.conv):
                h = h.flatten(1)
            features[f"conv.{k}"] = activation if self.features_before_pooling else h
        for k, (linear, norm) in enumerate(zip(self.hidden, self.hidden_norm, strict=True)):
            h = features[f"hidden.{k}"] = self._activate(norm(linear(h)))
        return self.output(h), features

    def _activate(self, z: Tensor) -> Tensor:
        return concatenated_relu(z) if self.crelu else torch.relu(z)

    def initial_records(self) -> dict[str, Initial]:
        """The record of every parameter, by name."""
        records: dict[str, Initial] = {}
        for name, layer in self.named_modules():
            if isinstance(layer, nn.LayerNorm):
                records |= {f"{name}.weight": constant(1.0), f"{name}.bias": constant(0.0)}
            elif isinstance(layer, nn.Linear | nn.Conv2d):
                weight, bias = self._layer_records(name, layer.weight.shape)
                records |= {f"{name}.weight": weight, f"{name}.bias": bias}
        return records

    def _layer_records(self, name: str, shape: torch.Size) -> tuple[Initial, Initial]:
        """The records of a layer's weight `[units, inputs, *kernel]` and bias."""
        if self.zero_head and name == "output":
            return constant(0.0), constant(0.0)
        area = math.prod(shape[2:])
        fan_in, fan_out = shape[1] * area, shape[0] * area
        gain = GAINS[self.output_gain] if self.output_gain and name == "output" else GAINS["relu"]
        bias = uniform(1 / math.sqrt(fan_in)) if self.initialization == "default" else constant(0.0)
        return weight_record(self.initialization, fan_in, fan_out, gain), bias

    def unit_groups(self) -> tuple[UnitGroup, ...]:
        """One group a hidden layer; the norm before its activation is reset with the unit."""
        layers = [f"conv.{k}" for k in range(len(self.conv))] + [f"hidden.{k}" for k in range(len(self.hidden))]
        return tuple(self._unit_group(name, reader) for name, reader in itertools.pairwise([*layers, "output"]))

    def _unit_group(self, name: str, reader: str) -> UnitGroup:
        units = self.get_parameter(f"{name}.weight").shape[0]
        columns = self.get_parameter(f"{reader}.weight").shape[1]
        block = columns // (self.tile * units)  # a channel's places where its map is flattened, else 1
        norm = name.replace(".", "_norm.")
        return UnitGroup(
            name=name,
            units=units,
            feature=name,
            feature_axis=1,
            feature_tile=self.tile,
            feature_block=1 if self.features_before_pooling else block,
            activation="relu",
            weight=Link(f"{name}.weight", axis=0),
            bias=Link(f"{name}.bias", axis=0),
            readers=(Link(f"{reader}.weight", axis=1, tile=self.tile, block=block),),
            norm_weight=Link(f"{norm}.weight", axis=0) if self.layer_norm else None,
            norm_bias=Link(f"{norm}.bias", axis=0) if self.layer_norm else None,
        )

    def extra_repr(self) -> str:
        """What the layers below do not show."""
        shown = ("initialization", "output_gain", "crelu", "zero_head", "features_before_pooling")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in shown)


def _check_sizes(channels: Sequence[int], kernels: Sequence[int], hidden: Sequence[int]) -> None:
    """Refuse what are no lists of sizes, or no convolutions."""
    for field, sizes in (("channels", channels), ("kernels", kernels), ("hidden", hidden)):
        listed = isinstance(sizes, list | tuple) and all(is_integer(size, 1) for size in sizes)
        require(listed, f"architectures.ConvNet.{field} is {sizes!r}: it must be a list of integers, each at least 1.")
        require(
            max(sizes, default=1) <= MOST_UNITS,
            f"architectures.ConvNet.{field} is {sizes!r}: each must be at most {MOST_UNITS:,}.",
        )
    require(
        len(channels) == len(kernels) > 0,
        f"architectures.ConvNet.kernels is {kernels!r} and channels is {channels!r}: each convolution has one entry in "
        "both, and there must be at least one.",
    )


def _map_sizes(kernels: Sequence[int], image_size: Sequence[int]) -> list[tuple[int, int]]:
    """Height and width of each convolution's maps before pooling; `UserError` where pooling leaves nothing."""
    (height, width), sizes = image_size, []
    for k, kernel in enumerate(kernels):
        require(
            min(height, width) > kernel,
            f"architectures.ConvNet.kernels is {kernels!r}: nothing is left of images of "
            f"{image_size[0]} x {image_size[1]} after convolution {k} ({kernel} x {kernel} on maps of {height} x "
            f"{width}, then pooling by 2): take fewer or smaller kernels, or larger images.",
        )
        sizes.append((height - kernel + 1, width - kernel + 1))
        height, width = sizes[-1][0] // 2, sizes[-1][1] // 2
    return sizes
