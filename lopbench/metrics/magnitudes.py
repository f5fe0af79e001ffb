"""Magnitudes of weights and gradients, and how far the weights are from where they began."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

import lopbench
from lopbench.checks import check_choice, check_probe
from lopbench.errors import require
from lopbench.protocols import Metric, Probe
from lopbench.roles import kinds


@lopbench.register("metrics")
@dataclass(frozen=True)
class WeightMagnitude(Metric):
    """Mean absolute value of the parameters: of all, of each, of each kind of layer; median and least on demand.

        weights/magnitude                 sum |theta| / count, over all parameters, biases and norms included
        weights/magnitude.NAME            the same of one parameter
        weights/magnitude_matrices        over the weights of linear and convolution layers only
        weights/magnitude_attention       over the weights of attention layers
        weights/magnitude_in_projections  of these, over the queries', keys' and values' (parameters "in_proj...")
        weights/magnitude_mlp             over the weights of a transformer's MLP blocks
        weights/magnitude_convolutions    over the weights of convolutions and patch embeddings
        weights/norm_magnitude            over the weights gamma of normalisations (stored as scale - 1 where these
                                          are re-parameterised)

    The kinds are those of roles.py; what the network lacks has no tag. Range: at least 0. At initialisation what the
    initial distributions give, e.g. sqrt(2 / pi) of the standard deviation of normal weights (three ReLU layers of 100,
    Kaiming normal, on MNIST: magnitude 0.056). Needs no batch.

    statistics: any of "mean", "median", "min", of the absolute values; the tags of the latter are as above with
        `median_` and `min_` before "magnitude" or "norm": weights/median_magnitude.NAME. A median is the lower of two
        middle values. It sorts the weights, which takes longer than all else here.

    Sources: all parameters: Dohare et al. 2024 (incremental CIFAR-100), Hernandez-Garcia et al. 2025 (with the norms
    apart; of the vision transformer also median and least, by kind of layer); matrices: Dohare et al. 2024 (permuted
    MNIST).
    """

    every: str | int = "task_start"
    statistics: Sequence[str] = ("mean",)

    def __post_init__(self) -> None:
        check_probe(self)
        listed = isinstance(self.statistics, list | tuple) and len(set(self.statistics)) == len(self.statistics) > 0
        require(
            listed,
            f"metrics.WeightMagnitude.statistics is {self.statistics!r}: it must be a list of different ones of "
            f"{', '.join(STATISTICS)}.",
        )
        for statistic in self.statistics:
            check_choice(self, "statistics", statistic, STATISTICS)

    def measure(self, probe: Probe) -> dict[str, Tensor]:
        layers = _by_kind(probe)
        results: dict[str, Tensor] = {}
        for statistic in self.statistics:
            of, prefix = STATISTICS[statistic], "" if statistic == "mean" else f"{statistic}_"
            results |= _of_each(of, f"weights/{prefix}magnitude", probe.parameters)
            results |= {f"weights/{prefix}{kind}": of(weights) for kind, weights in layers.items() if weights}
        return results


def _by_kind(probe: Probe) -> dict[str, list[Tensor]]:
    """The weights `[R, *shape]` of each kind of layer, under the names that follow a tag's statistic."""
    weights = {name: p for name, p in probe.parameters.items() if name.endswith("weight")}
    known = kinds(probe.population.module)

    def of(kind: str) -> list[Tensor]:
        return [weights[name] for name in known.get(kind, ()) if name in weights]

    norms, attention = known.get("norms", ()), known.get("attention", ())
    return {
        "magnitude_matrices": [p for name, p in weights.items() if name not in norms and p.dim() > 2],
        "magnitude_attention": of("attention"),
        "magnitude_in_projections": [weights[name] for name in attention if name in weights and "in_proj" in name],
        "magnitude_mlp": of("mlp"),
        "magnitude_convolutions": of("convolutions"),
        "norm_magnitude": of("norms"),
    }


@lopbench.register("metrics")
@dataclass(frozen=True)
class DistanceFromInitial(Metric):
    """Euclidean distance of the parameters from the values they were initialised with.

        weights/l2_from_initial  |theta - theta_0|_2 over all parameters;  .NAME: of one parameter

    Range: at least 0; 0 at initialisation. Needs no batch; draws all initial values anew at each measurement, so it is
    meant for once a task rather than for short periods.
    Source: the codes of Lee et al. 2024 (Hare and Tortoise) and of Plasticine, which divide it by the number of
    parameters.
    """

    every: str | int = "task_start"

    def __post_init__(self) -> None:
        check_probe(self)

    def measure(self, probe: Probe) -> dict[str, Tensor]:
        initial = probe.population.initial_parameters()
        moved = {name: _norm(p - initial[name], 2) for name, p in probe.parameters.items()}
        total = torch.stack(list(moved.values())).square().sum(dim=0).sqrt()
        return {"weights/l2_from_initial": total, **{f"weights/l2_from_initial.{name}": d for name, d in moved.items()}}


@lopbench.register("metrics")
@dataclass(frozen=True)
class GradientMagnitude(Metric):
    """Mean absolute value of the gradient of the mean loss on the probe batch.

        gradients/magnitude       sum |g| / count, over all parameters;  .NAME: of one parameter

    g is of the loss alone, without penalties, clipping or weight decay, of the network in evaluation mode.
    Range: at least 0; at initialisation what the architecture gives (three ReLU layers of 100, Kaiming normal, 1,000
    images of MNIST: 0.0018). Falls with the size of the probe until the noise of single examples is averaged out.
    Source: Hernandez-Garcia et al. 2025, who take it of training batches of 30, averaged over a window of steps.
    """

    every: str | int = "task_start"
    probe_size: int | None = 1000
    probe_split: str | Sequence[str] = "train"
    needs_gradients: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_probe(self)

    def measure(self, probe: Probe) -> dict[str, Tensor]:
        return _of_each(mean_magnitude, "gradients/magnitude", probe.gradients)


def mean_magnitude(tensors: Sequence[Tensor]) -> Tensor:
    """Sum of absolute values over the count of the entries of stacked tensors, float64 `[R]`."""
    total = torch.stack([_norm(tensor, 1) for tensor in tensors]).sum(dim=0)
    return total / sum(tensor[0].numel() for tensor in tensors)


def median_magnitude(tensors: Sequence[Tensor]) -> Tensor:
    """The lower median of the absolute values of the entries of stacked tensors, float64 `[R]`."""
    return torch.cat([tensor.flatten(1) for tensor in tensors], dim=1).abs().median(dim=1).values.double()


def least_magnitude(tensors: Sequence[Tensor]) -> Tensor:
    """The smallest absolute value of the entries of stacked tensors, float64 `[R]`."""
    return torch.stack([tensor.flatten(1).abs().amin(dim=1) for tensor in tensors]).amin(dim=0).double()


Statistic = Callable[[Sequence[Tensor]], Tensor]

STATISTICS: dict[str, Statistic] = {"mean": mean_magnitude, "median": median_magnitude, "min": least_magnitude}


def _of_each(statistic: Statistic, tag: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A statistic `[R]` of all entries, and of each tensor."""
    each = {f"{tag}.{name}": statistic([tensor]) for name, tensor in tensors.items()}
    return {tag: statistic(list(tensors.values())), **each}


def _norm(tensor: Tensor, order: int) -> Tensor:
    """The norm over all but the replicas, float64 `[R]`."""
    norm: Tensor = torch.linalg.vector_norm(tensor.flatten(1), order, dim=1, dtype=torch.float64)
    return norm
