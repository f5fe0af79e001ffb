"""Accuracy and loss on held-out examples: of all of them, and class by class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

import lopbench
from lopbench.checks import check_probe
from lopbench.errors import require
from lopbench.population import Population
from lopbench.protocols import Metric, Probe


@dataclass(frozen=True)
class _HeldOut(Metric):
    """What is measured on the outputs for held-out examples."""

    every: str | int = "task_end"
    probe_size: int | None = 1000
    probe_split: str | Sequence[str] = "test"
    names_split: ClassVar[bool] = True
    needs_features: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_probe(self)


@lopbench.register("metrics")
@dataclass(frozen=True)
class Evaluation(_HeldOut):
    """Accuracy and mean loss on examples of the task, by default of its test split when the task ends.

        evaluation/accuracy.SPLIT  fraction of examples whose largest output is their class; absent in regression
        evaluation/loss.SPLIT      the problem's mean loss

    The network is in evaluation mode, and only the outputs that count in the task take part. Range of the accuracy:
    [0, 1]; at initialisation 1 / classes, and a cross-entropy of about ln(classes) or more. The standard error of an
    accuracy a is sqrt(a (1 - a) / probe_size). Measured at every "epoch_end" there are also a task's best values
    over its epochs, `task/best_accuracy.SPLIT` and so on (see evaluations.py).

    probe_size: examples; None: the whole split.
    probe_split: a split, or a list: ["test", "validation"].
    """

    def measure(self, probe: Probe) -> dict[str, Tensor]:
        assert probe.loss is not None
        results = {f"evaluation/loss.{probe.split}": probe.loss.double()}
        if probe.population.stream.problem.loss == "cross_entropy":
            results[f"evaluation/accuracy.{probe.split}"] = _correct(probe).mean(dim=-1)
        return results


@lopbench.register("metrics")
@dataclass(frozen=True)
class AccuracyByClass(_HeldOut):
    """Accuracy on the examples of each class, in class-incremental streams in the order of the classes' introduction.

        evaluation/accuracy_by_class.SPLIT.CCC   correct examples of class c / examples of class c

    CCC is the class, three digits from 000. In class-incremental streams classes are numbered in the order in which
    the replica was shown them, so that averages over replicas are over age and not over particular classes. A class
    without an example in the probe has no tag (NaN for a replica that has none where another has some).
    Range: [0, 1]; 1 / classes on average at initialisation, where some classes have nearly all of it (a head of zeros
    gives everything to class 000). The standard error is sqrt(a (1 - a) / examples of the class).

    Sources: Dohare et al. 2024, Hernandez-Garcia et al. 2025, both of the last network of incremental CIFAR-100, on
    the whole test set (probe_size = None).
    """

    def check(self, population: Population) -> None:
        loss = population.stream.problem.loss
        require(
            loss == "cross_entropy",
            f"metrics.AccuracyByClass needs classes, but the stream's loss is {loss}: leave this metric out.",
        )

    def measure(self, probe: Probe) -> dict[str, Tensor]:
        assert probe.targets is not None
        classes = probe.population.stream.problem.outputs
        none = torch.zeros(len(probe.targets), classes, dtype=torch.float64, device=probe.targets.device)
        correct = _correct(probe)
        right = none.scatter_add(1, probe.targets, correct)
        shown = none.scatter_add(1, probe.targets, torch.ones_like(correct))
        accuracy, occurs = right / shown, (shown > 0).any(dim=0).tolist()
        tag = f"evaluation/accuracy_by_class.{probe.split}"
        return {f"{tag}.{c:03d}": accuracy[:, c] for c in range(classes) if occurs[c]}


def _correct(probe: Probe) -> Tensor:
    """Whether the largest output is the class, as float64 `[R, examples]`."""
    assert probe.outputs is not None and probe.targets is not None
    return (probe.outputs.argmax(dim=-1) == probe.targets).double()
