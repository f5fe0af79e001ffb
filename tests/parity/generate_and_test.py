"""Runs our step with `ContinualBackprop` beside the arrays of the published generate-and-test code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from lopbench.events import Events
from lopbench.initializers import Initial, constant
from lopbench.learner import initial_state, step
from lopbench.optimizers.sgd import SGD
from lopbench.population import Population
from lopbench.protocols import Clock, Tree
from lopbench.strategies.continual_backprop import ContinualBackprop
from lopbench.units import Link, UnitGroup
from tests.helpers import tiny_population

Arrays = dict[str, np.ndarray]


class Stored(nn.Module):
    """The network of a case: convolutions (ReLU, 2 x 2 max-pooling) and linear layers (ReLU), and a linear output.

    A hidden layer's initial record is the stored `fill`, so that a replaced unit takes its row of it.
    """

    def __init__(self, arrays: Arrays) -> None:
        super().__init__()
        self.depth = sum(name.startswith("w") and name.endswith("/0") for name in arrays) - 1
        self.fills = [torch.from_numpy(arrays[f"fill{i}"]) for i in range(self.depth)]
        for i in range(self.depth + 1):
            layer = nn.Module()
            layer.weight = nn.Parameter(torch.from_numpy(arrays[f"w{i}/0"]))
            layer.bias = nn.Parameter(torch.from_numpy(arrays[f"b{i}/0"]))
            self.add_module(f"layer{i}", layer)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        features = {}
        for i in range(self.depth):
            layer = self.get_submodule(f"layer{i}")
            if layer.weight.dim() == 4:
                x = functional.max_pool2d(functional.conv2d(x, layer.weight, layer.bias).relu(), 2)
            else:
                x = functional.linear(x.flatten(1), layer.weight, layer.bias).relu()
            features[f"layer{i}"] = x
        output = self.get_submodule(f"layer{self.depth}")
        return functional.linear(x.flatten(1), output.weight, output.bias), features

    def initial_records(self) -> dict[str, Initial]:
        records = {name: constant(0.0) for name, _ in self.named_parameters()}
        return records | {f"layer{i}.weight": Initial("fixed", fixed=fill) for i, fill in enumerate(self.fills)}

    def unit_groups(self) -> tuple[UnitGroup, ...]:
        return tuple(self._unit_group(f"layer{i}", f"layer{i + 1}") for i in range(self.depth))

    def _unit_group(self, name: str, reader: str) -> UnitGroup:
        units = self.get_submodule(name).bias.numel()
        block = self.get_submodule(reader).weight.shape[1] // units
        return UnitGroup(
            name=name,
            units=units,
            feature=name,
            feature_axis=1,
            activation="relu",
            weight=Link(f"{name}.weight", axis=0),
            bias=Link(f"{name}.bias", axis=0),
            readers=(Link(f"{reader}.weight", axis=1, block=block),),
        )


def population_of(config: dict[str, Any], arrays: Arrays, count: str) -> Population:
    """One replica as the case's config says; what it leaves out takes the published code's defaults."""
    assert config.get("opt", "sgd") == "sgd" and config["loss"] == "nll"
    accumulate = config.get("accumulate", count == "all")  # the convolutional version always does
    strategy = ContinualBackprop(
        replacement_rate=config.get("replacement_rate", 1e-3),
        maturity_threshold=config.get("maturity_threshold", 100),
        utility_decay=config.get("decay_rate", 0.9),
        utility=config.get("util_type", "contribution"),
        rounding="accumulated" if accumulate else "random",
        count=count,
        clear_optimizer=False,
    )
    optimizer = SGD(
        config.get("step_size", 1e-3), config.get("momentum", 0.0), weight_decay=config.get("weight_decay", 0.0)
    )
    return tiny_population([strategy], module=Stored(arrays), replicas=1, dtype=torch.float64, optimizer=optimizer)


class Update(NamedTuple):
    """One update: its number from 1, its loss, and the states before it, when units are chosen, and after it."""

    t: int
    loss: Tensor
    before: Tree
    choosing: Tree
    after: Tree


def follow(population: Population, arrays: Arrays) -> Iterator[Update]:
    """The updates on the case's batches."""
    state = initial_state(population)
    for name in state["parameters"]:
        layer, kind = name.removeprefix("layer").split(".")
        state["parameters"][name] = torch.from_numpy(arrays[f"{kind[0]}{layer}/0"]).double()[None]
    updates = sum(name.startswith("x/") for name in arrays)
    tables = {position + 1: table for position, table in Events(population).until(0, updates)}
    for t in range(1, updates + 1):
        x, y = torch.from_numpy(arrays[f"x/{t}"]).double()[None], torch.from_numpy(arrays[f"y/{t}"])[None]
        clock = Clock(*[torch.tensor(t - 1)] * 3)
        choosing, measured = step(population, state, clock, x, y, {}, {})
        after = step(population, state, clock, x, y, {}, tables[t])[0] if t in tables else choosing
        yield Update(t, measured["loss"][0], state, choosing, after)
        state = after


def outputs(population: Population, state: Tree, x: np.ndarray) -> Tensor:
    """The network's outputs `[B, outputs]`."""
    parameters = {name: value[0] for name, value in state["parameters"].items()}
    return functional_call(population.module, parameters, (torch.from_numpy(x).double(),))[0]


def replaced_units(state: Tree, layer: int) -> list[int]:
    """The units of a layer that the update before this state replaced: they alone have age 0."""
    return torch.nonzero(state["strategies"]["0"][f"layer{layer}"]["ages"][0] == 0).flatten().tolist()


def assert_parameters(state: Tree, arrays: Arrays, t: int) -> None:
    for name, value in state["parameters"].items():
        layer, kind = name.removeprefix("layer").split(".")
        assert_close(value[0], arrays[f"{kind[0]}{layer}/{t}"], f"{name} after update {t}")


def assert_close(ours: Tensor, theirs: np.ndarray, what: str) -> None:
    """Relative to the largest entry, since theirs are float32 and some entries cancel."""
    scale = float(np.abs(theirs).max())
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6 * scale, err_msg=what)
