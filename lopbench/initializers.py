"""Initial records: the distribution that a parameter's first value is drawn from.

One record a parameter, declared by the architecture, is the one source for initial values, for
reinitialised ones and for the targets of regularisers (law 3 of the population).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lopbench.keyed_random import Random


@dataclass(frozen=True)
class Initial:
    """mean + scale * z, with z standard normal, uniform on (-1, 1), or 0 (scale 0: a constant).

    `fixed` (a tensor of the parameter's shape) stands for the values of a module from elsewhere: every
    replica starts from them, and reinitialisation writes them back.
    """

    kind: str = "constant"  # "normal", "uniform", "constant", "fixed"
    mean: float = 0.0
    scale: float = 0.0
    fixed: Tensor | None = None

    def draw(self, random: Random, purpose: str, shape: tuple[int, ...], steps: int | None = None) -> Tensor:
        """Values `[R, *shape]`, or `[n, R, *shape]` with `steps=n`; keyed by (seed, purpose, step, element)."""
        if self.kind == "normal" and self.scale:
            return self.mean + self.scale * random.normals(purpose, shape, steps)
        if self.kind == "uniform" and self.scale:
            return self.mean + self.scale * (2 * random.uniforms(purpose, shape, steps) - 1)
        lead = (random.seeds.shape[0],) if steps is None else (steps, random.seeds.shape[0])
        if self.fixed is not None:
            return self.fixed.to(random.seeds.device, random.dtype).expand(*lead, *shape).clone()
        return torch.full((*lead, *shape), self.mean, dtype=random.dtype, device=random.seeds.device)

    def at_its_mean(self) -> Initial:
        """The record whose draw is always the mean: what `strategy="mean"` of SWR reinitialises to."""
        return self if self.kind == "fixed" else replace(self, kind="constant", scale=0.0)


def constant(value: float) -> Initial:
    return Initial("constant", mean=value)


def normal(std: float, mean: float = 0.0) -> Initial:
    return Initial("normal", mean, std)


def uniform(bound: float) -> Initial:
    """U(-bound, bound)."""
    return Initial("uniform", 0.0, bound)


#: Gains by activation (torch.nn.init.calculate_gain, where it has them; its 1 for gelu and silu).
GAINS = {
    "linear": 1.0,
    "relu": math.sqrt(2.0),
    "leaky_relu": math.sqrt(2.0 / (1 + 0.01**2)),
    "elu": math.sqrt(2.0),
    "tanh": 5.0 / 3.0,
    "sigmoid": 1.0,
    "gelu": 1.0,
    "silu": 1.0,
}

SCHEMES = (
    "default",
    "kaiming_normal",
    "kaiming_uniform",
    "xavier_normal",
    "xavier_uniform",
    "lecun_uniform",
    "lecun_normal",
)


def weight_record(scheme: str, fan_in: int, fan_out: int, gain: float = 1.0) -> Initial:
    """The record of a weight of given fans.

    kaiming: std gain / sqrt(fan_in); xavier: gain * sqrt(2 / (fan_in + fan_out)); lecun: kaiming with gain 1;
    default: U(+-1/sqrt(fan_in)), as torch's linear and convolution layers. A uniform's bound is sqrt(3) std.
    """
    if scheme == "default":
        return uniform(1 / math.sqrt(fan_in))
    family, _, shape = scheme.partition("_")
    std = {
        "kaiming": gain / math.sqrt(fan_in),
        "xavier": gain * math.sqrt(2 / (fan_in + fan_out)),
        "lecun": 1 / math.sqrt(fan_in),
    }[family]
    return normal(std) if shape == "normal" else uniform(math.sqrt(3) * std)
