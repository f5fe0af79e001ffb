"""Multilayer perceptrons: any width and depth, with layer normalisation, CReLU or skip connections."""

from __future__ import annotations

import math

from torch import Tensor, nn

import lopbench
from lopbench.architectures.crelu import check_crelu, concatenated_relu, units_of
from lopbench.architectures.layers import ACTIVATIONS, MOST_LAYERS, MOST_UNITS, LayerNorm
from lopbench.checks import check_bool, check_choice, check_count, check_number
from lopbench.errors import require
from lopbench.initializers import GAINS, SCHEMES, Initial, constant, uniform, weight_record
from lopbench.protocols import Problem
from lopbench.units import Link, UnitGroup


@lopbench.register("architectures")
class MLP(nn.Module):
    """A multilayer perceptron: `depth` hidden layers of `width` units and a linear output layer.

    A hidden layer is, in this order,

        linear -> [norm] -> [+ r] -> activation -> feature "hidden.k" -> [+ r] -> [norm]

    with `layer_norm` and `skip` either None or the side of the activation on which they act, "pre" or
    "post". r is the output of the layer before (taken before its "post" norm), from the second layer on:
    a running sum of the activations for skip="post". Features are taken before a "post" addition and norm.

    Arguments:
        width: entries of each hidden layer's output.
        activation: relu, leaky_relu (slope 0.01), elu, tanh, sigmoid, gelu, silu.
        initialization: the scheme of `weight_record`: "default" is torch's own (weights and biases
            U(+-1/sqrt(fan_in))); with all others biases start at 0.
        gain, output_gain: kaiming and xavier only: the activation whose gain the hidden layers and the
            output layer take ("linear": 1). None: that of `activation`, and that of the hidden layers.
        layer_norm_reparameterized: the norm's scale is 1 + weight, with the weight starting at 0.
        layer_norm_epsilon: None: 1e-5, or 1e-6 if reparameterised.
        crelu: the activation is [relu(z), relu(-z)], so that a unit shows twice in its layer's output.
        crelu_fraction_removed: with CReLU a layer has int((1 - this) * width) units and an output twice
            that wide. None: half of an even width, so that the output is as wide as without CReLU.

    The published networks:
        SWR: kaiming_normal with the activation's gain in every layer; gelu and silu: xavier_normal.
        Nature (both MLPs): kaiming_uniform, output_gain="linear"; its slowly-changing regression takes
            gain="relu" for leaky_relu and silu too.
        L2 Init: default, CReLU with 0.09 removed; kaiming_* with gain="relu"; xavier_* with gain="relu"
            and output_gain="linear".

    A unit group's readers are the weights of the next layer. With skip connections a unit also feeds the
    sums of all later layers, past those weights, and under a norm it also moves the statistics by which
    its neighbours are scaled: outgoing weights of 0 silence a unit fully only without either.

    Sources: Hernandez-Garcia et al. 2025 (SWR); Dohare et al. 2024 (Nature); Kumar et al. 2023 (L2 Init);
    Shang et al. 2016 (CReLU).
    """

    def __init__(
        self,
        problem: Problem,
        width: int = 100,
        depth: int = 3,
        activation: str = "relu",
        initialization: str = "kaiming_normal",
        gain: str | None = None,
        output_gain: str | None = None,
        layer_norm: str | None = None,
        layer_norm_reparameterized: bool = False,
        layer_norm_epsilon: float | None = None,
        crelu: bool = False,
        crelu_fraction_removed: float | None = None,
        skip: str | None = None,
    ) -> None:
        super().__init__()
        self.activation, self.crelu, self.crelu_fraction_removed = activation, crelu, crelu_fraction_removed
        self.initialization, self.gain, self.output_gain = initialization, gain, output_gain
        self.layer_norm, self.skip = layer_norm, skip
        check_count(self, "width", width, most=MOST_UNITS)
        check_count(self, "depth", depth, most=MOST_LAYERS)
        self._check_activation(width)
        self._check_initialization()
        self._check_additions(layer_norm_reparameterized, layer_norm_epsilon)

        self.width, self.depth = width, depth
        self.units = units_of(width, crelu, crelu_fraction_removed)
        self.tile = 2 if crelu else 1
        sizes = [math.prod(problem.input_shape), *[self.tile * self.units] * depth]
        self.hidden = nn.ModuleList(nn.Linear(size, self.units) for size in sizes[:-1])
        normed = {None: [], "pre": [self.units] * depth, "post": sizes[1:]}[layer_norm]
        self.norm = nn.ModuleList(LayerNorm(size, layer_norm_reparameterized, layer_norm_epsilon) for size in normed)
        self.output = nn.Linear(sizes[-1], problem.outputs)

    def _check_activation(self, width: int) -> None:
        check_choice(self, "activation", self.activation, ACTIVATIONS)
        check_crelu(self, self.crelu, self.crelu_fraction_removed, {"width": width})
        require(
            not self.crelu or self.activation == "relu",
            f"architectures.MLP.crelu is True with activation {self.activation!r}: CReLU is [relu(z), relu(-z)], "
            "so activation must be 'relu'.",
        )

    def _check_initialization(self) -> None:
        check_choice(self, "initialization", self.initialization, SCHEMES)
        for field, value in (("gain", self.gain), ("output_gain", self.output_gain)):
            if value is not None:
                check_choice(self, field, value, GAINS)
                require(
                    self.initialization.startswith(("kaiming", "xavier")),
                    f"architectures.MLP.{field} is {value!r} but initialization {self.initialization!r} has no gain: "
                    "leave it None.",
                )

    def _check_additions(self, reparameterized: bool, epsilon: float | None) -> None:
        for field, value in (("layer_norm", self.layer_norm), ("skip", self.skip)):
            if value is not None:
                check_choice(self, field, value, ("pre", "post"))
        check_bool(self, "layer_norm_reparameterized", reparameterized)
        if epsilon is not None:
            check_number(self, "layer_norm_epsilon", epsilon, above=0)
        require(
            self.layer_norm is not None or (not reparameterized and epsilon is None),
            "architectures.MLP.layer_norm is None but layer_norm_reparameterized or layer_norm_epsilon is set: "
            "bind layer_norm = 'post' or 'pre', or leave both alone.",
        )
        require(
            not (self.crelu and self.skip == "pre"),
            "architectures.MLP.skip is 'pre' with crelu: a layer's output is twice as wide as the sum it would join; "
            "use 'post'.",
        )

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Outputs `[B, outputs]` and the hidden activations `[B, F]` by name, for inputs `[B, *input_shape]`."""
        h, residual, features = x.flatten(1), None, {}
        for k, linear in enumerate(self.hidden):
            h = linear(h)
            if self.layer_norm == "pre":
                h = self.norm[k](h)
            if self.skip == "pre" and residual is not None:
                h = h + residual
            h = self._activate(h)
            features[f"hidden.{k}"] = h
            if self.skip == "post" and residual is not None:
                h = h + residual
            residual = h
            if self.layer_norm == "post":
                h = self.norm[k](h)
        return self.output(h), features

    def _activate(self, z: Tensor) -> Tensor:
        return concatenated_relu(z) if self.crelu else ACTIVATIONS[self.activation](z)

    def initial_records(self) -> dict[str, Initial]:
        """The record of every parameter, by name."""
        gain = GAINS[self.gain or self.activation]
        output_gain = GAINS[self.output_gain] if self.output_gain else gain
        records: dict[str, Initial] = {}
        for name, layer in self.named_modules():
            if isinstance(layer, LayerNorm):
                records.update({f"{name}.{part}": record for part, record in layer.initial_records().items()})
            elif isinstance(layer, nn.Linear):
                fan_out, fan_in = layer.weight.shape
                own_gain = output_gain if name == "output" else gain
                records[f"{name}.weight"] = weight_record(self.initialization, fan_in, fan_out, own_gain)
                default = self.initialization == "default"
                records[f"{name}.bias"] = uniform(1 / math.sqrt(fan_in)) if default else constant(0.0)
        return records

    def unit_groups(self) -> tuple[UnitGroup, ...]:
        """One group a hidden layer; the norm of a layer, on either side of its activation, is reset with the unit."""
        return tuple(self._unit_group(k) for k in range(self.depth))

    def _unit_group(self, k: int) -> UnitGroup:
        name, reader = f"hidden.{k}", f"hidden.{k + 1}" if k + 1 < self.depth else "output"
        norm_tile = self.tile if self.layer_norm == "post" else 1
        return UnitGroup(
            name=name,
            units=self.units,
            feature=name,
            feature_axis=1,
            feature_tile=self.tile,
            activation=self.activation,
            weight=Link(f"{name}.weight", axis=0),
            bias=Link(f"{name}.bias", axis=0),
            readers=(Link(f"{reader}.weight", axis=1, tile=self.tile),),
            norm_weight=Link(f"norm.{k}.weight", axis=0, tile=norm_tile) if self.layer_norm else None,
            norm_bias=Link(f"norm.{k}.bias", axis=0, tile=norm_tile) if self.layer_norm else None,
        )

    def extra_repr(self) -> str:
        """The configuration; the sizes and the norm's form show in the modules below."""
        shown = ("width", "depth", "activation", "initialization", "gain", "output_gain", "layer_norm", "crelu", "skip")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in shown)
