"""Units that no longer work, by the four definitions in use: dead, frozen, dormant, inactive.

All are fractions of the hidden units in [0, 1], of each unit group and of all of them together; a convolution's
unit is its channel, over examples and places, a transformer's is a unit of a block's MLP, over examples and tokens.
CReLU's two halves count as two units, as they are two columns of the layer's output; for `DormantUnits` alone
they are one, as for the strategy whose score it shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

import lopbench
from lopbench.checks import check_bool, check_number, check_probe
from lopbench.errors import require
from lopbench.population import Population
from lopbench.protocols import Metric, Probe
from lopbench.units import UnitGroup, feature_mean

#: The bounds towards which an activation saturates; gelu and silu are flat on their negative side only.
BOUNDS = {"sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0), "gelu": (0.0, torch.inf), "silu": (0.0, torch.inf)}


class _OfUnits(Metric):
    """A metric that needs the architecture's unit groups."""

    def check(self, population: Population) -> None:
        module = population.module
        require(
            hasattr(module, "unit_groups"),
            f"metrics.{type(self).__name__} needs the hidden units, which {type(module).__name__} does not declare: "
            "leave this metric out, or give the architecture a method unit_groups.",
        )


@lopbench.register("metrics")
@dataclass(frozen=True)
class DeadUnits(_OfUnits):
    """Fraction of units that are dead (ReLU: 0 on the whole probe) or frozen (saturated on the whole probe).

    h are a unit's activations on the probe batch. By the group's activation:

        relu           units/dead            h = 0 for all examples
        sigmoid, tanh  units/frozen_0.01     all h <= lower + epsilon, or all h >= upper - epsilon
        gelu, silu     units/frozen_0.01     all h <= epsilon
        others         units/dead            0: no unit of leaky_relu, elu or a linear layer dies by this definition

    Tags: `units/dead.LAYER` and `units/dead` of all layers where they apply, likewise `units/frozen_EPSILON`.
    A larger probe finds fewer, since one example that wakes a unit is enough: compare only values of the same
    `probe_size`. At initialisation near 0 (three ReLU layers of 100, Kaiming normal, MNIST: 0.016 on 100 images, 0.003
    on 1,000).
    Sources: Dohare et al. 2024 (2,000 examples); Hernandez-Garcia et al. 2025 (1,500 examples; of vision transformers
    1,000, where its code counted pairs of a unit and a token, with attention's outputs among them, and here a unit of
    an MLP block is stuck if it is at all tokens).

    epsilon: how near its bound a saturated activation is.
    upstream_upper_bound: ask for h >= upper + epsilon, which never happens, as the released code of
        Hernandez-Garcia et al. did.
    """

    every: str | int = "task_start"
    probe_size: int | None = 1000
    probe_split: str | Sequence[str] = "train"
    epsilon: float = 0.01
    upstream_upper_bound: bool = False

    def __post_init__(self) -> None:
        check_probe(self)
        check_number(self, "epsilon", self.epsilon, at_least=0, below=0.5)
        check_bool(self, "upstream_upper_bound", self.upstream_upper_bound)

    def measure(self, probe: Probe) -> dict[str, Tensor]:
        dead, frozen = {}, {}
        for group, h in _layers(probe):
            group = _outputs_of(group)
            if group.activation in BOUNDS:
                frozen[group.name] = self._frozen(group, h)
            elif group.activation == "relu":
                dead[group.name] = _never(group, h != 0)
            else:
                dead[group.name] = torch.zeros(h.shape[0], group.units, dtype=torch.bool, device=h.device)
        return _fractions("dead", dead) | _fractions(f"frozen_{self.epsilon:g}", frozen)

    def _frozen(self, group: UnitGroup, h: Tensor) -> Tensor:
        lower, upper = BOUNDS[group.activation]
        margin = self.epsilon if self.upstream_upper_bound else -self.epsilon
        return _never(group, h > lower + self.epsilon) | _never(group, h < upper + margin)


@lopbench.register("metrics")
@dataclass(frozen=True)
class DormantUnits(_OfUnits):
    """Fraction of tau-dormant units: mean |h| at most `threshold` times the layer's mean (ReDo's score).

        score_i = mean|h_i| / mean_j mean|h_j|,    dormant where score_i <= threshold

    with means over examples and places. In a layer that is silent altogether every unit is dormant (its scores are
    taken as 0). Tags: `units/dormant_0.025.LAYER`, `units/dormant_0.025` of all layers; the number is the threshold.
    With threshold 0 these are the units that are exactly 0. Little sensitive to the size of the probe. Not 0 at
    initialisation (three ReLU layers of 100, Kaiming normal, MNIST: 0.05 with threshold 0.025, 0.14 with 0.1).
    Source: Sokar et al. 2023, Definition 3.1 (0.025 to show dormancy, 0.1 for recycling).
    """

    every: str | int = "task_start"
    probe_size: int | None = 1000
    probe_split: str | Sequence[str] = "train"
    threshold: float = 0.025

    def __post_init__(self) -> None:
        check_probe(self)
        check_number(self, "threshold", self.threshold, at_least=0)

    def measure(self, probe: Probe) -> dict[str, Tensor]:
        dormant = {}
        for group, h in _layers(probe):
            score = feature_mean(group, h.abs().double())
            dormant[group.name] = score <= self.threshold * score.mean(dim=1, keepdim=True)
        return _fractions(f"dormant_{self.threshold:g}", dormant)


@lopbench.register("metrics")
@dataclass(frozen=True)
class InactiveUnits(_OfUnits):
    """Fraction of units that are active (not 0) on less than a hundredth of the probe: Nature's "dormant".

        inactive where mean over examples and places of [h_i != 0] < fraction

    Meant for ReLU (a smooth activation is hardly ever 0). Tags: `units/inactive_0.01.LAYER`, `units/inactive_0.01` of
    all layers; the number is `fraction`. At least `units/dead`, and equal to it on a probe of no more than 1 / fraction
    examples; beyond that little sensitive to its size. At initialisation near 0 (three ReLU layers of 100, Kaiming
    normal, MNIST: 0.015).
    Source: Dohare et al. 2024, incremental CIFAR-100 (1,000 examples of the next task's classes, and of all classes
    before). Its reinforcement learning counts units that are active on at most a hundredth.

    batch_statistics: batch norms normalise with the statistics of the probe rather than with their running ones, as
        that study did in its analysis.
    """

    every: str | int = "task_start"
    probe_size: int | None = 1000
    probe_split: str | Sequence[str] = "train"
    fraction: float = 0.01
    batch_statistics: bool = False

    def __post_init__(self) -> None:
        check_probe(self)
        check_number(self, "fraction", self.fraction, above=0, at_most=1)

    def measure(self, probe: Probe) -> dict[str, Tensor]:
        inactive = {
            group.name: feature_mean(_outputs_of(group), (h != 0).double()) < self.fraction
            for group, h in _layers(probe)
        }
        return _fractions(f"inactive_{self.fraction:g}", inactive)


def _layers(probe: Probe) -> list[tuple[UnitGroup, Tensor]]:
    """The unit groups of the network, each with its activations on the probe batch."""
    return [(group, probe.features[group.feature]) for group in probe.population.groups]


def _outputs_of(group: UnitGroup) -> UnitGroup:
    """The group with each half of CReLU as units of their own."""
    return replace(group, units=group.units * group.feature_tile, feature_tile=1)


def _never(group: UnitGroup, happens: Tensor) -> Tensor:
    """Bool `[R, units]`: for no example and place of the unit does it happen."""
    return feature_mean(group, happens.float()) == 0


def _fractions(name: str, chosen: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tags of bools `[R, units]` by layer: their fraction in each layer and among all units; nothing of no layer."""
    if not chosen:
        return {}
    total = torch.cat(list(chosen.values()), dim=1)
    layers = {f"units/{name}.{layer}": units.double().mean(dim=1) for layer, units in chosen.items()}
    return {f"units/{name}": total.double().mean(dim=1), **layers}
