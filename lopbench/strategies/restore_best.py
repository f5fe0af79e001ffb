"""Best-on-validation restoring: a task ends with the network that did best on held-out examples during it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

import lopbench
from lopbench.checks import check_choice
from lopbench.errors import require
from lopbench.learner import Learner
from lopbench.population import Population, select
from lopbench.probing import require_batch
from lopbench.protocols import Strategy, Tree

SPLIT = "validation"


@lopbench.register("strategies")
@dataclass(frozen=True)
class RestoreBest(Strategy):
    """Early stopping: each task ends with the parameters that were best on the validation split after an epoch of it.

    After an epoch with score s (validation accuracy, or minus the validation loss) and, in this task, best score b:

        where s > b:  b <- s,  best <- (parameters, buffers)       strictly, so of equals the first is kept

    and when the task ends (parameters, buffers) <- best, before the metrics of "task_end", resets and the next task.
    A score that is not finite is never the best; a replica without any in this task stays as it is. State: b, and a
    copy of parameters and buffers (batch norm's statistics), so twice a network's memory.

    The scores are those of metrics.Evaluation: bind its `every` to 'epoch_end' and "validation" in its `probe_split`.

    Rolled back is nothing but parameters and buffers. The optimizer goes on with the momentum of the task's last step,
    as published. So do the other strategies: ages and utilities of continual backpropagation go on, as in the code of
    Dohare et al.; that of Hernandez-Garcia et al. rewound its unit ages and counters with the network, which here would
    part the ages from the numbers of replacements, known before the run.

    criterion: "accuracy"; or "loss", the smallest validation loss.

    Sources: Dohare et al. 2024 (Nature), incremental CIFAR-100, early_stopping; Hernandez-Garcia et al. 2025 (CoLLAs),
    use_best_network, and compare_loss for the loss.
    """

    criterion: str = "accuracy"

    needs_task_boundaries: ClassVar[bool] = True
    needs_evaluations: ClassVar[tuple[str, ...]] = (SPLIT,)

    def __post_init__(self) -> None:
        check_choice(self, "criterion", self.criterion, ("accuracy", "loss"))

    def check(self, population: Population) -> None:
        loss = population.stream.problem.loss
        require(
            self.criterion == "loss" or loss == "cross_entropy",
            f"strategies.RestoreBest.criterion is 'accuracy', but the stream's loss is {loss}: bind 'loss'.",
        )
        require_batch(population, SPLIT, 1, "strategies.RestoreBest")

    def init(self, learner: Learner) -> Tree:
        """`score` float64 and `recorded` bool `[R]`: b, and whether there is one; `parameters`, `buffers`: the best."""
        seeds = learner.seeds
        return {
            "score": torch.zeros_like(seeds, dtype=torch.float64),  # finite, as the state of a living replica is
            "recorded": torch.zeros_like(seeds, dtype=torch.bool),
            "parameters": {name: value.clone() for name, value in learner.parameters.items()},
            "buffers": {name: value.clone() for name, value in learner.buffers.items()},
        }

    def after_evaluation(self, learner: Learner, results: Mapping[str, Tensor]) -> None:
        score, best = self._score(results), learner.state
        better = torch.isfinite(score) & (~best["recorded"] | (score > best["score"]))
        now = {
            "score": score,
            "recorded": torch.ones_like(better),
            "parameters": learner.parameters,
            "buffers": learner.buffers,
        }
        learner.state = select(better, now, best)

    def _score(self, results: Mapping[str, Tensor]) -> Tensor:
        """What is to be largest, `[R]`."""
        score = results[f"evaluation/{self.criterion}.{SPLIT}"].double()
        return score if self.criterion == "accuracy" else -score

    def end_task(self, learner: Learner) -> None:
        best, recorded = learner.state, learner.state["recorded"]
        learner.parameters = select(recorded, best["parameters"], learner.parameters)
        learner.buffers = select(recorded, best["buffers"], learner.buffers)
        learner.state = {**best, "recorded": torch.zeros_like(recorded)}
