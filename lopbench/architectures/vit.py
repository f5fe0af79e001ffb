"""The vision transformer of class-incremental CIFAR-100."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

import lopbench
from lopbench.architectures.attention import SelfAttention
from lopbench.architectures.dropout import Dropout
from lopbench.architectures.images import image_shape
from lopbench.architectures.layers import MOST_LAYERS, MOST_UNITS, LayerNorm
from lopbench.checks import check_bool, check_choice, check_count, check_number
from lopbench.errors import require
from lopbench.initializers import Initial, constant, normal, uniform, weight_record
from lopbench.protocols import Problem
from lopbench.units import Link, UnitGroup

MLP_INITIALIZATIONS = ("default", "torchvision")


@lopbench.register("architectures")
class VisionTransformer(nn.Module):
    """A vision transformer: 14,279,140 parameters as it stands, on images of 32 x 32 with 100 outputs.

        h = dropout([class token, patches of the image, each through one linear map] + positions)
        h = h + dropout(attention(norm_1(h)));  h = h + mlp(norm_2(h))    in each of `depth` blocks
        outputs = head(norm(h)), read from the class token

    with mlp(x) = dropout(linear(dropout(GELU(linear(x))))). Positions are learned.

    Arguments:
        patch_size: side of the square patches; it must divide the images' sides.
        depth, heads, width, mlp_width: blocks, heads of the attention (they must divide the width), entries of a token,
            units of an MLP block.
        dropout: its probability; 0 for none.
        attention_dropout: that of the attention's weights; None: as `dropout`.
        layer_norm_reparameterized: the norms' scale is 1 + weight, with the weight starting at 0.
        layer_norm_epsilon: None: 1e-5, or 1e-6 if reparameterised.
        mlp_initialization: of the MLP blocks. "default": torch's own for linear layers, weights and biases
            U(+-1/sqrt(fan_in)), as published; "torchvision": weights Xavier uniform, biases N(0, (1e-6)^2).

    Initially also: the patches' map N(0, 1 / fan_in), positions N(0, 0.02^2), the attention as its class says; class
    token, head and all other biases 0. The published code draws the first patches' map from a normal that is truncated
    at +-2; with a standard deviation of 1/sqrt(48) that is 13.9 of them, so no draw ever meets it, and the published
    reinitialisation draws from the plain normal. One record serves both.

    Features, in order: "blocks.k.attention", what the attention adds before dropout `[B, T, width]`, and
    "blocks.k.mlp", the units of the MLP block after GELU `[B, T, mlp_width]`; token 0 is the class token. There is
    a unit group "blocks.k.mlp" for each block, with no norm between its units and their readers.

    Sources: Hernandez-Garcia et al. 2025 (CoLLAs); Dosovitskiy et al. 2021.
    """

    def __init__(
        self,
        problem: Problem,
        patch_size: int = 4,
        depth: int = 8,
        heads: int = 12,
        width: int = 384,
        mlp_width: int = 1536,
        dropout: float = 0.1,
        attention_dropout: float | None = None,
        layer_norm_reparameterized: bool = False,
        layer_norm_epsilon: float | None = None,
        mlp_initialization: str = "default",
    ) -> None:
        super().__init__()
        self.input_shape = image_shape(self, problem)
        sizes = {"patch_size": patch_size, "depth": depth, "heads": heads, "width": width, "mlp_width": mlp_width}
        for field, value in sizes.items():
            check_count(self, field, value, most=MOST_LAYERS if field == "depth" else MOST_UNITS)
        self._check_divisors(patch_size, heads, width)
        check_number(self, "dropout", dropout, at_least=0, below=1)
        if attention_dropout is not None:
            check_number(self, "attention_dropout", attention_dropout, at_least=0, below=1)
        check_bool(self, "layer_norm_reparameterized", layer_norm_reparameterized)
        if layer_norm_epsilon is not None:
            check_number(self, "layer_norm_epsilon", layer_norm_epsilon, above=0)
        check_choice(self, "mlp_initialization", mlp_initialization, MLP_INITIALIZATIONS)

        channels, height, image_width = self.input_shape
        tokens = 1 + (height // patch_size) * (image_width // patch_size)
        weights_dropout = dropout if attention_dropout is None else attention_dropout
        norm = (width, layer_norm_reparameterized, layer_norm_epsilon)
        self.patch_embedding = PatchEmbedding(channels, patch_size, width)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, tokens, width))
        self.dropout = Dropout(dropout, "embedding")
        self.blocks = nn.ModuleList(
            Block(
                LayerNorm(*norm),
                SelfAttention(width, heads, weights_dropout, f"blocks.{k}.attention"),
                LayerNorm(*norm),
                FeedForward(width, mlp_width, dropout, mlp_initialization, f"blocks.{k}.mlp"),
                Dropout(dropout, f"blocks.{k}.attention"),
            )
            for k in range(depth)
        )
        self.norm = LayerNorm(*norm)
        self.head = nn.Linear(width, problem.outputs)

    def _check_divisors(self, patch_size: int, heads: int, width: int) -> None:
        _, height, image_width = self.input_shape
        require(
            height % patch_size == 0 and image_width % patch_size == 0,
            f"architectures.VisionTransformer.patch_size is {patch_size}: it must divide both sides of the images "
            f"of {height} x {image_width}.",
        )
        require(
            width % heads == 0,
            f"architectures.VisionTransformer.width is {width} and heads is {heads}: each head takes an equal part of "
            "the width, so heads must divide it.",
        )

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Outputs `[B, outputs]` and the features by name, for images `[B, C, H, W]`."""
        patches = self.patch_embedding(x)
        class_token = self.class_token.expand(patches.shape[0], -1, -1)
        h = self.dropout(torch.cat((class_token, patches), dim=1) + self.positions)
        features: dict[str, Tensor] = {}
        for k, block in enumerate(self.blocks):
            h, attended, hidden = block(h)
            features |= {f"blocks.{k}.attention": attended, f"blocks.{k}.mlp": hidden}
        return self.head(self.norm(h[:, 0])), features

    def initial_records(self) -> dict[str, Initial]:
        """The record of every parameter, by name."""
        records = {
            "class_token": constant(0.0),
            "positions": normal(0.02),
            "head.weight": constant(0.0),
            "head.bias": constant(0.0),
        }
        for name, layer in self.named_modules():
            if isinstance(layer, PatchEmbedding | SelfAttention | FeedForward | LayerNorm):
                records |= {f"{name}.{part}": record for part, record in layer.initial_records().items()}
        return records

    def unit_groups(self) -> tuple[UnitGroup, ...]:
        """One group an MLP block; attention, patches and head have none."""
        return tuple(self._unit_group(f"blocks.{k}.mlp") for k in range(len(self.blocks)))

    def _unit_group(self, name: str) -> UnitGroup:
        return UnitGroup(
            name=name,
            units=self.get_parameter(f"{name}.hidden.bias").shape[0],
            feature=name,
            feature_axis=-1,
            activation="gelu",
            weight=Link(f"{name}.hidden.weight", axis=0),
            bias=Link(f"{name}.hidden.bias", axis=0),
            readers=(Link(f"{name}.output.weight", axis=1),),
        )

    def extra_repr(self) -> str:
        """What the layers below do not show."""
        return f"input_shape={self.input_shape}"


class PatchEmbedding(nn.Module):
    """Cuts images into patches of p x p and maps each to a token: a convolution of stride p, as one matrix product.

    `weight` has the shape of that convolution's, `[width, C, p, p]`. (Convolutions stack badly: a population would
    run one of as many groups as it has replicas.)
    """

    def __init__(self, channels: int, patch_size: int, width: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.weight = nn.Parameter(torch.zeros(width, channels, patch_size, patch_size))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens `[B, patches, width]` for images `[B, C, H, W]`, row by row."""
        p = self.patch_size
        cut = x.unflatten(3, (-1, p)).unflatten(2, (-1, p))  # [B, C, rows, p, columns, p]
        patches = cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # [B, rows * columns, C * p * p]
        return functional.linear(patches, self.weight.flatten(1), self.bias)

    def initial_records(self) -> dict[str, Initial]:
        """Weight N(0, 1 / fan_in), fan_in = C p p; bias 0."""
        return {"weight": normal(1 / math.sqrt(self.weight[0].numel())), "bias": constant(0.0)}

    def extra_repr(self) -> str:
        return ", ".join(str(size) for size in self.weight.shape)


class Block(nn.Module):
    """A block of an encoder with the norms before attention and MLP, and a sum around each."""

    def __init__(
        self, norm_1: LayerNorm, attention: SelfAttention, norm_2: LayerNorm, mlp: FeedForward, dropout: Dropout
    ) -> None:
        super().__init__()
        self.norm_1, self.attention, self.norm_2, self.mlp, self.dropout = norm_1, attention, norm_2, mlp, dropout

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The tokens, what the attention added before dropout, and the MLP's hidden units."""
        attended = self.attention(self.norm_1(h))
        h = h + self.dropout(attended)
        added, hidden = self.mlp(self.norm_2(h))
        return h + added, attended, hidden


class FeedForward(nn.Module):
    """dropout(output(dropout(GELU(hidden(x))))), applied to each token alike."""

    def __init__(self, width: int, units: int, dropout: float, initialization: str, name: str) -> None:
        super().__init__()
        self.initialization = initialization
        self.hidden = nn.Linear(width, units)
        self.hidden_dropout = Dropout(dropout, f"{name}.hidden")
        self.output = nn.Linear(units, width)
        self.output_dropout = Dropout(dropout, f"{name}.output")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The output `[B, T, width]` and the hidden units after GELU `[B, T, units]`."""
        hidden = functional.gelu(self.hidden(x))
        return self.output_dropout(self.output(self.hidden_dropout(hidden))), hidden

    def initial_records(self) -> dict[str, Initial]:
        """As VisionTransformer's `mlp_initialization` says."""
        records: dict[str, Initial] = {}
        for name, layer in (("hidden", self.hidden), ("output", self.output)):
            fan_in, fan_out = layer.in_features, layer.out_features
            default = self.initialization == "default"
            records[f"{name}.weight"] = weight_record("default" if default else "xavier_uniform", fan_in, fan_out)
            records[f"{name}.bias"] = uniform(1 / math.sqrt(fan_in)) if default else normal(1e-6)
        return records

    def extra_repr(self) -> str:
        return f"initialization={self.initialization!r}"
