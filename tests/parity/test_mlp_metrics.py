"""Metrics of the published network: on its recorded activations, and measured through our own network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lopbench.metrics import DeadUnits, Ranks, WeightMagnitude
from lopbench.population import Population
from lopbench.probing import measure
from lopbench.protocols import Metric, Probe
from tests.helpers import TinyStream, tiny_population
from tests.parity.networks import network_of
from tests.parity.reference import cases

CASES = [pytest.param(*case, id=case[0]) for case in cases("mlp_forward_and_metrics")]


def metrics(arrays: dict[str, np.ndarray]) -> list[Metric]:
    size = arrays["x"].shape[0]
    return [
        DeadUnits(probe_size=size, upstream_upper_bound=True),
        Ranks(probe_size=size, layers="last"),
        WeightMagnitude(),
    ]


def check(name: str, values: dict[str, Tensor], arrays: dict[str, np.ndarray]) -> None:
    """Their proportions and magnitudes to 1e-5; what has no tag here (a network without norms) is 0 there."""
    [stuck] = [values[tag] for tag in ("units/dead", "units/frozen_0.01") if tag in values]
    norms = values.get("weights/norm_magnitude", torch.zeros(1))
    ours = {
        "dead_units": stuck,
        "stable_rank_last": values["ranks/srank_0.01"],
        "weight_magnitude": values["weights/magnitude"],
        "ln_weight_magnitude": norms,
    }
    for theirs, value in ours.items():
        assert value.item() == pytest.approx(arrays[theirs].item(), rel=1e-5), f"{name}: {theirs}"


@pytest.mark.parametrize(("name", "config", "arrays"), CASES)
def test_on_recorded_activations(name: str, config: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    module, parameters = network_of(config, arrays)
    features = {f"hidden.{k}": torch.from_numpy(arrays[f"act{k}"])[None] for k in range(module.depth)}
    seen = Probe(tiny_population(module=module, replicas=1), "train", parameters, {}, features, None, None, None)
    check(name, {tag: value for metric in metrics(arrays) for tag, value in metric.measure(seen).items()}, arrays)


@dataclass(frozen=True)
class Stored(TinyStream):
    """One replica's probe: the stored images, scaled to [0, 1]."""

    images: Tensor | None = None

    def probe(self, split: str, size: int, task: int, step: int = 0) -> tuple[Tensor, Tensor]:
        assert self.images is not None and size == len(self.images)
        return self.images[None] / 255, torch.zeros(1, size, dtype=torch.int64)


@pytest.mark.parametrize(("name", "config", "arrays"), CASES)
def test_through_our_network(name: str, config: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    module, parameters = network_of(config, arrays)
    population: Population = tiny_population(module=module, replicas=1, dtype=torch.float64)
    population = replace(
        population,
        stream=Stored(population.seeds, inputs=arrays["x"].shape[1], images=torch.from_numpy(arrays["x"]).double()),
    )
    state = {"parameters": parameters, "buffers": {}}
    check(name, measure(population, state, metrics(arrays), task=0), arrays)
