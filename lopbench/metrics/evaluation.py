"""Accuracy and loss on held-out examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

import lopbench
from lopbench.checks import check_probe
from lopbench.protocols import Metric, Probe


@lopbench.register("metrics")
@dataclass(frozen=True)
class Evaluation(Metric):
    """Accuracy and mean loss on examples of the task, by default of its test split when the task ends.

        evaluation/accuracy.SPLIT  fraction of examples whose largest output is their class; absent in regression
        evaluation/loss.SPLIT      the problem's mean loss

    The network is in evaluation mode. Range of the accuracy: [0, 1]; at initialisation 1 / classes, and a
    cross-entropy of about ln(classes) or more. The standard error of an accuracy a is sqrt(a (1 - a) / probe_size).
    """

    every: str | int = "task_end"
    probe_size: int = 1000
    probe_split: str = "test"
    needs_features: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_probe(self)

    def measure(self, probe: Probe) -> dict[str, Tensor]:
        assert probe.outputs is not None and probe.targets is not None and probe.loss is not None
        results = {f"evaluation/loss.{self.probe_split}": probe.loss.double()}
        if probe.population.stream.problem.loss == "cross_entropy":
            correct = probe.outputs.argmax(dim=-1) == probe.targets
            results[f"evaluation/accuracy.{self.probe_split}"] = correct.double().mean(dim=-1)
        return results
