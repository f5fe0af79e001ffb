"""Probes: evaluation mode, replicas measured as if alone, and nothing of the run touched."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from lopbench import probing
from lopbench.errors import UserError
from lopbench.learner import initial_state
from lopbench.metrics import (
    DeadUnits,
    DistanceFromInitial,
    DormantUnits,
    Evaluation,
    GradientMagnitude,
    InactiveUnits,
    Ranks,
    WeightMagnitude,
)
from lopbench.population import map_tree, slice_replicas
from lopbench.probing import measure, probe
from lopbench.protocols import Metric, Probe
from tests.helpers import tiny_population

EVERYTHING = (
    DeadUnits(probe_size=6),
    DormantUnits(probe_size=6),
    InactiveUnits(probe_size=6),
    Ranks(probe_size=9),
    WeightMagnitude(),
    DistanceFromInitial(),
    GradientMagnitude(probe_size=6),
    Evaluation(probe_size=11),
)


class Normalised(nn.Module):
    """Batch norm and dropout, whose training and evaluation differ; counts its forward passes."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.output = nn.Linear(4, 5), nn.Linear(5, 3)
        self.norm, self.drop = nn.BatchNorm1d(5), nn.Dropout(0.5)
        self.passes = 0

    def forward(self, x):
        self.passes += 1
        h = self.drop(torch.relu(self.norm(self.hidden(x))))
        return self.output(h), {"hidden": h}


def state_of(population):
    state = initial_state(population)
    for name, buffer in state["buffers"].items():
        if buffer.is_floating_point():
            state["buffers"][name] = torch.rand_like(buffer, generator=torch.Generator().manual_seed(1)) + 0.5
    return state


def test_the_network_is_in_evaluation_mode_and_the_run_untouched():
    population = tiny_population(module=Normalised())
    population.module.norm.eval()  # a part that its owner froze stays as it is
    state = state_of(population)
    before = map_tree(torch.clone, state)
    seen = probe(population, state, 6, "train", task=0, gradients=True)

    inputs, _ = population.stream.probe("train", 6, 0)
    for r in range(2):
        alone = Normalised().eval()
        alone.load_state_dict({name: value[r] for name, value in {**state["parameters"], **state["buffers"]}.items()})
        outputs, features = alone(inputs[r])
        torch.testing.assert_close(seen.outputs[r], outputs)
        torch.testing.assert_close(seen.features["hidden"][r], features["hidden"])
    map_tree(lambda a, b: torch.testing.assert_close(a, b, rtol=0, atol=0), state, before)
    assert [name for name, part in population.module.named_children() if not part.training] == ["norm"]


def test_a_failure_leaves_the_network_in_training_mode():
    population = tiny_population(module=Normalised())
    state = state_of(population)
    state["parameters"]["output.weight"] = torch.zeros(2, 3, 4)
    with pytest.raises(RuntimeError):
        probe(population, state, 6, "train", task=0)
    assert all(part.training for part in population.module.modules())


def test_a_replica_measures_the_same_alone():
    seeds = [5, 6, 7]
    together = tiny_population(seeds=seeds, dtype=torch.float64)
    state = initial_state(together)
    values = measure(together, state, EVERYTHING, task=1)
    assert {value.dtype for value in values.values()} == {torch.float64}
    for r, seed in enumerate(seeds):
        alone = tiny_population(seeds=[seed], dtype=torch.float64)
        expected = measure(alone, slice_replicas(state, slice(r, r + 1)), EVERYTHING, task=1)
        assert list(expected) == list(values)
        for tag, value in expected.items():
            torch.testing.assert_close(values[tag][r : r + 1], value, rtol=1e-9, atol=1e-12, msg=tag)


@dataclass(frozen=True)
class StepSize(Metric):
    """The optimizer's step size, which is each replica's own."""

    probe_size: int = 6

    def measure(self, probe: Probe) -> dict[str, torch.Tensor]:
        return {"mine/step_size": torch.from_numpy(probe.population.hyper["optimizer"]["step_size"])}


@pytest.mark.parametrize("bound", [1, 300, 1000])
def test_a_bound_on_memory_changes_nothing(bound, monkeypatch):
    population = tiny_population(replicas=5, dtype=torch.float64)
    population.hyper["optimizer"]["step_size"] = np.arange(5.0)
    state = initial_state(population)
    whole = measure(population, state, [*EVERYTHING, StepSize()], task=0)
    monkeypatch.setattr(probing, "MEMORY_BYTES", bound)
    parts = measure(population, state, [*EVERYTHING, StepSize()], task=0)
    assert list(parts) == list(whole)
    for tag, value in parts.items():
        torch.testing.assert_close(value, whole[tag], rtol=1e-9, atol=1e-12, msg=tag)


def test_metrics_on_the_same_batch_share_one_pass():
    population = tiny_population(module=Normalised())
    state = state_of(population)
    passes = []
    three = [Ranks(probe_size=6), GradientMagnitude(probe_size=6), Evaluation(probe_size=6, probe_split="train")]
    for metrics in (three[:1], three):
        population.module.passes = 0
        measure(population, state, metrics, task=0)
        passes.append(population.module.passes)
    assert passes[0] == passes[1]


def test_no_batch_is_drawn_for_metrics_of_the_parameters():
    population = tiny_population(module=Normalised())
    seen = probe(population, state_of(population), 0, "train", task=0)
    assert (seen.features, seen.gradients, seen.outputs, seen.targets, seen.loss) == ({}, {}, None, None, None)
    measure(population, state_of(population), [WeightMagnitude()], task=0)
    assert population.module.passes == 0


def test_non_finite_parameters_do_not_stop_a_measurement():
    population = tiny_population(replicas=3)
    state = initial_state(population)
    sound = measure(population, state, EVERYTHING, task=0)
    state["parameters"]["hidden.weight"][1] = torch.nan
    values = measure(population, state, EVERYTHING, task=0)
    assert values["ranks/effective"][1].isnan()
    for tag, value in values.items():
        torch.testing.assert_close(value[[0, 2]], sound[tag][[0, 2]], msg=tag)


@dataclass(frozen=True)
class Scalar(Metric):
    """A metric that forgot the replicas."""

    def measure(self, probe: Probe) -> dict[str, torch.Tensor]:
        return {"mine/value": torch.tensor(1.0)}


def test_two_metrics_of_one_tag_and_a_wrong_shape_are_refused():
    population = tiny_population()
    state = initial_state(population)
    with pytest.raises(UserError, match=r"Evaluation measures 'evaluation/loss.test', and so does another"):
        measure(population, state, [Evaluation(probe_size=4), Evaluation(probe_size=5)], task=0)
    with pytest.raises(UserError, match="Scalar must give one value a replica, but mine/value has another shape"):
        measure(population, state, [Scalar()], task=0)
