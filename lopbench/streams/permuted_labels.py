"""Permuted labels: each task renames the classes, while the images stay what they are."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

import lopbench
from lopbench.checks import check_bool
from lopbench.streams.subsets import SubsetStream


@lopbench.register("streams")
@dataclass(frozen=True, eq=False)
class PermutedLabels(SubsetStream):
    """Permuted labels: in task k, the examples of class c have label p_k(c), p_k a random permutation of the classes.

    What was learnt about the images stays useful, only the last layer has to change. Labels of the test split are
    permuted alike. The defaults are those of Elsayed and Mahmood 2024, "Addressing loss of plasticity and
    catastrophic forgetting in continual learning" (UPGD; ICLR): single examples, 2,500 of them a task, drawn anew
    from the whole training split, the first task permuted too.

    Fields: those of `SubsetStream`, and
        permute_first_task: otherwise the first task has the true labels.

    Published protocol: label-permuted EMNIST (balanced, 47 classes), 400 tasks, scaling "centred".
    """

    batch_size: int = 1
    steps_per_task: int = 2500
    permute_first_task: bool = True

    def __post_init__(self) -> None:
        check_bool(self, "permute_first_task", self.permute_first_task)
        super().__post_init__()

    def relabelled(self, labels: Tensor, task: int) -> Tensor:
        if task == 0 and not self.permute_first_task:
            return labels
        return self.random_order("classes", task, self.data.classes).gather(1, labels)
