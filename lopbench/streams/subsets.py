"""Streams of tasks that show a whole training split, or some random examples of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from lopbench.checks import check_bool, check_number
from lopbench.errors import require
from lopbench.streams.epochs import EpochStream


@dataclass(frozen=True, eq=False)
class SubsetStream(EpochStream):
    """All or N random examples of the training split, in epochs; to be probed also on the test split.

    Fields: those of `EpochStream`, and
        examples_per_task: N, how many of the training examples a replica is shown; None: all of them.
        resample_examples: draw those N anew for each task; otherwise a replica keeps them.

    Drawn from the replica's seed: the N examples (keyed by the task, or by 0 if they are kept).
    """

    examples_per_task: int | None = None
    resample_examples: bool = False

    #: whether there are held-out examples whose labels mean something
    has_test_split: ClassVar[bool] = True

    def _check(self) -> None:
        super()._check()
        check_number(self, "examples_per_task", self.examples_per_task, at_least=1, integer=True, optional=True)
        check_bool(self, "resample_examples", self.resample_examples)
        have, what = len(self.data.labels["train"]), self.data.name
        require(
            self.examples_per_task is None or self.examples_per_task <= have,
            f"{self.name}.examples_per_task is {self.examples_per_task}: {what} has {have} training examples.",
        )
        require(
            not self.resample_examples or self.examples_per_task is not None,
            f"{self.name}.resample_examples is True, but a task shows all examples: "
            f"bind {self.name}.examples_per_task too.",
        )

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        return (self.examples_per_task or len(self.data.labels["train"]),)

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(each for each in self.data.labels if each == "train" or self.has_test_split)

    def examples(self, split: str, task: int) -> tuple[str, Tensor]:
        have = len(self.data.labels[split])
        if split == "train" and self.examples_per_task is not None:
            order = self.random_order("examples", task if self.resample_examples else 0, have)
            return split, order[:, : self.examples_per_task]
        return split, torch.arange(have, device=self.seeds.device).expand(len(self.seeds), -1)
