"""Random labels: each task shuffles the labels of a small fixed set of examples, to be learnt by heart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

import lopbench
from lopbench.streams.subsets import SubsetStream


@lopbench.register("streams")
@dataclass(frozen=True, eq=False)
class RandomLabels(SubsetStream):
    """Random labels: each task, the first too, shuffles the labels among the same examples.

    A task's labels are a random permutation of the vector of true labels, so that each class keeps its count.
    Images stay. Nothing generalises, so there is no test split; accuracy is that on the training examples. The
    defaults are those of Kumar et al. 2023 (L2 Init): 1,200 examples, batches of 16, 400 epochs a task.

    Fields: those of `SubsetStream`.

    Published protocol (L2 Init): drop_tail_early True with steps_per_task 30,000 (its code's 405.4 epochs of 74
    batches; the paper's 400 of 75); 50 tasks; scaling "centred" on MNIST, "standard" on CIFAR-10.
    """

    batch_size: int = 16
    epochs_per_task: int = 400
    examples_per_task: int | None = 1200

    has_test_split: ClassVar[bool] = False

    def relabelled(self, labels: Tensor, task: int) -> Tensor:
        return labels.gather(1, self.random_order("labels", task, labels.shape[1]))
