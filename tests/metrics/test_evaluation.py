"""Accuracy and loss of each replica on held-out examples."""

from dataclasses import dataclass, replace

import torch

from lopbench.learner import initial_state
from lopbench.metrics import Evaluation
from lopbench.probing import measure
from lopbench.protocols import Problem
from tests.helpers import TinyStream, tiny_population


def test_accuracy_and_loss_by_hand():
    population = tiny_population(replicas=3)
    state = initial_state(population)
    metrics = [Evaluation(probe_size=20), Evaluation(probe_size=8, probe_split="train")]
    values = measure(population, state, metrics, task=1)
    assert values.keys() == {f"evaluation/{what}.{of}" for what in ("accuracy", "loss") for of in ("test", "train")}
    for split, size in (("test", 20), ("train", 8)):
        inputs, targets = population.stream.probe(split, size, 1)
        for r in range(3):
            population.module.load_state_dict({name: p[r] for name, p in state["parameters"].items()})
            outputs = population.module(inputs[r])[0]
            accuracy = (outputs.argmax(dim=1) == targets[r]).double().mean()
            torch.testing.assert_close(values[f"evaluation/accuracy.{split}"][r], accuracy)
            loss = torch.nn.functional.cross_entropy(outputs, targets[r]).double()
            torch.testing.assert_close(values[f"evaluation/loss.{split}"][r], loss, rtol=1e-6, atol=0)


@dataclass(frozen=True)
class Regression(TinyStream):
    """Targets are three numbers, the first three of the inputs."""

    @property
    def problem(self) -> Problem:
        return Problem((self.inputs,), self.classes, "squared_error")

    def probe(self, split, size, task):
        x, _ = super().probe(split, size, task)
        return x, x[..., :3]


def test_regression_has_a_loss_and_no_accuracy():
    population = tiny_population()
    population = replace(population, stream=Regression(population.seeds))
    state = initial_state(population)
    state["parameters"] = {name: torch.zeros_like(p) for name, p in state["parameters"].items()}
    values = measure(population, state, [Evaluation(probe_size=20)], task=0)
    x, _ = population.stream.probe("test", 20, 0)
    assert values.keys() == {"evaluation/loss.test"}
    expected = x[..., :3].double().square().mean(dim=(1, 2))
    torch.testing.assert_close(values["evaluation/loss.test"], expected, rtol=1e-6, atol=0)
