"""Magnitudes of weights and gradients, and how far the weights are from where they began."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

import lopbench
from lopbench.checks import check_probe
from lopbench.protocols import Metric, Probe
from lopbench.roles import norm_parameters


@lopbench.register("metrics")
@dataclass(frozen=True)
class WeightMagnitude(Metric):
    """Mean absolute value of the parameters: of all, of each, of the weight matrices, of the norms' scales.

        weights/magnitude           sum |theta| / count, over all parameters, biases and norms included
        weights/magnitude.NAME      the same of one parameter
        weights/magnitude_matrices  over the weights of linear and convolution layers only
        weights/norm_magnitude      over the weights gamma of normalisations (stored as scale - 1 where these are
                                    re-parameterised); absent without any

    Range: at least 0. At initialisation what the initial distributions give, e.g. sqrt(2 / pi) of the standard
    deviation of normal weights (three ReLU layers of 100, Kaiming normal, on MNIST: magnitude 0.056). Needs no batch.
    Sources: all parameters: Dohare et al. 2024 (incremental CIFAR-100), Hernandez-Garcia et al. 2025 (with the norms
    apart); matrices: Dohare et al. 2024 (permuted MNIST).
    """

    every: str | int = "task_start"

    def __post_init__(self) -> None:
        check_probe(self)

    def measure(self, probe: Probe) -> dict[str, Tensor]:
        weights = {name: p for name, p in probe.parameters.items() if name.endswith("weight")}
        norms = set(norm_parameters(probe.population.module))
        parts = {
            "weights/magnitude_matrices": [p for name, p in weights.items() if name not in norms and p.dim() > 2],
            "weights/norm_magnitude": [p for name, p in weights.items() if name in norms],
        }
        return {
            **_magnitudes("weights/magnitude", probe.parameters),
            **{tag: mean_magnitude(parameters) for tag, parameters in parts.items() if parameters},
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
    probe_size: int = 1000
    probe_split: str = "train"
    needs_gradients: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_probe(self)

    def measure(self, probe: Probe) -> dict[str, Tensor]:
        return _magnitudes("gradients/magnitude", probe.gradients)


def _magnitudes(tag: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Mean absolute values `[R]`: of all entries, and of each tensor."""
    each = {f"{tag}.{name}": mean_magnitude([tensor]) for name, tensor in tensors.items()}
    return {tag: mean_magnitude(list(tensors.values())), **each}


def mean_magnitude(tensors: list[Tensor]) -> Tensor:
    """Sum of absolute values over the count of the entries of stacked tensors, float64 `[R]`."""
    total = torch.stack([_norm(tensor, 1) for tensor in tensors]).sum(dim=0)
    return total / sum(tensor[0].numel() for tensor in tensors)


def _norm(tensor: Tensor, order: int) -> Tensor:
    """The norm over all but the replicas, float64 `[R]`."""
    norm: Tensor = torch.linalg.vector_norm(tensor.flatten(1), order, dim=1, dtype=torch.float64)
    return norm
