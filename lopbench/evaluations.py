"""What the evaluations at the epochs' ends amount to when their task ends."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lopbench.loggers.records import Record


class TaskEvaluations:
    """What a task's evaluations at its epochs' ends amount to.

        task/best_NAME      the best over the task's epochs: of accuracies the largest, of losses the smallest
        task/selected_NAME  at the epoch of best accuracy on the validation split (the first of equals)

    for every `evaluation/NAME` that is an accuracy or a loss. Papers' curves over tasks are `best_accuracy.test`,
    which looks at the test split to choose; `selected_accuracy.test` does not.
    """

    VALIDATION = "evaluation/accuracy.validation"

    def __init__(self) -> None:
        self._best: dict[str, np.ndarray] = {}
        self._selected: dict[str, np.ndarray] = {}

    def add(self, records: Sequence[Record]) -> None:
        """The evaluations after one epoch."""
        values = {r.tag: r.values for r in records if r.tag.startswith(("evaluation/accuracy.", "evaluation/loss."))}
        if self.VALIDATION in values:
            before = self._best.get(self.VALIDATION)
            better = before is None or (values[self.VALIDATION] > before)
            for tag, value in values.items():
                self._selected[tag] = np.where(better, value, self._selected.get(tag, value))
        for tag, value in values.items():
            choose = np.fmax if "accuracy" in tag else np.fmin
            self._best[tag] = choose(self._best.get(tag, value), value)

    def records(self, step: int, task: int) -> list[Record]:
        """The task's records; none if nothing was evaluated."""
        named = (("best", self._best), ("selected", self._selected))
        return [
            Record(step, task, f"task/{what}_{tag.removeprefix('evaluation/')}", value)
            for what, values in named
            for tag, value in values.items()
        ]
