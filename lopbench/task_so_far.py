"""What a task's windows and evaluations amount to when it ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lopbench.loggers.records import Record

Values = dict[str, np.ndarray]  # float64 [R] on the host, by tag


@dataclass
class TaskSoFar:
    """What is known of the running task: sums over its windows, and its evaluations at epochs' ends.

        task/online_NAME    the mean over the task's steps, for loss and accuracy
        task/best_NAME      the best over the task's epochs: of accuracies the largest, of losses the smallest
        task/selected_NAME  at the epoch of best accuracy on the validation split (the first of equals)

    the latter two for every `evaluation/NAME` that is an accuracy or a loss. Papers' curves over tasks are
    `best_accuracy.test`, which looks at the test split to choose; `selected_accuracy.test` does not.
    """

    sums: Values = field(default_factory=dict)
    best: Values = field(default_factory=dict)
    selected: Values = field(default_factory=dict)

    VALIDATION = "evaluation/accuracy.validation"

    def add_window(self, sums: Mapping[str, np.ndarray]) -> None:
        """A window's sums."""
        self.sums = {tag: self.sums.get(tag, 0) + value for tag, value in sums.items()}

    def add_evaluations(self, records: Sequence[Record]) -> None:
        """The evaluations after one epoch."""
        values = {r.tag: r.values for r in records if r.tag.startswith(("evaluation/accuracy.", "evaluation/loss."))}
        if self.VALIDATION in values:
            before = self.best.get(self.VALIDATION)
            better = before is None or (values[self.VALIDATION] > before)
            for tag, value in values.items():
                self.selected[tag] = np.where(better, value, self.selected.get(tag, value))
        for tag, value in values.items():
            choose = np.fmax if "accuracy" in tag else np.fmin
            self.best[tag] = choose(self.best.get(tag, value), value)

    def records(self, length: int, step: int, task: int) -> list[Record]:
        """The records of the task, of `length` steps, at its end. A replica frozen within it has no online mean."""
        counted = np.where(self.sums["steps"] == length, length, 0)
        online: Values = {tag: mean(self.sums[tag], counted) for tag in ("loss", "accuracy") if tag in self.sums}
        named = (("online", online), ("best", self.best), ("selected", self.selected))
        return [
            Record(step, task, f"task/{what}_{tag.removeprefix('evaluation/')}", value)
            for what, values in named
            for tag, value in values.items()
        ]


def mean(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """total / count, NaN where nothing was counted (a frozen replica)."""
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
