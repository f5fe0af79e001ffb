"""Accuracy and loss of each replica on held-out examples, of all of them and class by class."""

from dataclasses import dataclass, replace

import pytest
import torch

from lopbench.errors import UserError
from lopbench.learner import initial_state
from lopbench.metrics import AccuracyByClass, Evaluation
from lopbench.probing import measure
from lopbench.protocols import Probe, Problem
from tests.helpers import TinyStream, tiny_population


def test_accuracy_and_loss_by_hand():
    population = tiny_population(replicas=3)
    state = initial_state(population)
    metrics = [
        Evaluation(probe_size=20, probe_split=["test", "validation"]),
        Evaluation(probe_size=8, probe_split="train"),
    ]
    values = measure(population, state, metrics, task=1)
    sizes = {"test": 20, "validation": 20, "train": 8}
    assert values.keys() == {f"evaluation/{what}.{split}" for what in ("accuracy", "loss") for split in sizes}
    for split, size in sizes.items():
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

    def probe(self, split, size, task, step=0):
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


def test_accuracy_by_class_by_hand():
    """Two replicas, five examples, four classes of which the last is not shown yet; -inf is what does not count."""
    targets = torch.tensor([[0, 0, 0, 2, 2], [1, 1, 2, 2, 2]])
    predicted = torch.tensor([[0, 2, 1, 2, 1], [1, 1, 0, 1, 2]])
    outputs = torch.nn.functional.one_hot(predicted, 12).float()
    outputs[..., 3:] = -torch.inf
    population = tiny_population()
    population = replace(population, stream=TinyStream(population.seeds, classes=12))
    seen = Probe(population, "validation", {}, {}, {}, outputs, targets, None)
    values = AccuracyByClass(probe_split="validation").measure(seen)
    tag = "evaluation/accuracy_by_class.validation"
    assert list(values) == [f"{tag}.000", f"{tag}.001", f"{tag}.002"]
    nan = torch.nan  # a replica without an example of the class
    expected = torch.tensor([[1 / 3, nan], [nan, 1], [1 / 2, 1 / 3]], dtype=torch.float64)
    torch.testing.assert_close(torch.stack(list(values.values())), expected, equal_nan=True)


def test_accuracies_by_class_average_to_the_accuracy():
    population = tiny_population(dtype=torch.float64)
    state, metrics = initial_state(population), [AccuracyByClass(probe_size=200), Evaluation(probe_size=200)]
    values = measure(population, state, metrics, task=0)
    _, targets = population.stream.probe("test", 200, 0)
    shares = torch.stack([(targets == c).double().mean(dim=1) for c in range(3)])
    by_class = torch.stack([values[f"evaluation/accuracy_by_class.test.{c:03d}"] for c in range(3)])
    torch.testing.assert_close((shares * by_class).sum(dim=0), values["evaluation/accuracy.test"])


def test_regression_has_no_classes():
    population = tiny_population()
    with pytest.raises(UserError, match=r"metrics.AccuracyByClass needs classes, but the stream's loss is squared_err"):
        AccuracyByClass().check(replace(population, stream=Regression(population.seeds)))
