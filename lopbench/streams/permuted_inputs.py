"""Permuted inputs (permuted MNIST): each task rearranges the entries of every example in its own way."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

import lopbench
from lopbench.checks import check_bool
from lopbench.protocols import Tree
from lopbench.streams.subsets import SubsetStream


@lopbench.register("streams")
@dataclass(frozen=True, eq=False)
class PermutedInputs(SubsetStream):
    """Permuted inputs: in task k, entry i of every example is its entry p_k(i), p_k a random permutation.

    The permutations of two tasks, and of two replicas, are independent; they run over all entries of an example,
    channels included, and the shape stays. An example of the test split is permuted alike. The defaults are those of
    Hernandez-Garcia et al. 2025 (SWR): batches of 30, one epoch a task, the first task permuted too.

    Fields: those of `SubsetStream`, and
        permute_first_task: otherwise the first task shows the examples as they are.

    Published protocols:
        SWR: as by default; 1,000 tasks.
        Dohare et al. 2024 (Nature): batch_size 1, reshuffle_each_epoch False; 800 tasks. `steps_per_task` is its
            change_after.
        Kumar et al. 2023 (L2 Init): batch_size 16, examples_per_task 10,000, resample_examples True (its code; the
            paper has one fixed set), drop_tail_early True, steps_per_task 625, permute_first_task False, scaling
            "centred"; 500 tasks.
    """

    permute_first_task: bool = True

    def __post_init__(self) -> None:
        check_bool(self, "permute_first_task", self.permute_first_task)
        super().__post_init__()

    def task_tables(self, task: int) -> Tree:
        """`permutation`, `[R, entries]`."""
        size = math.prod(self.data.shape)
        if task == 0 and not self.permute_first_task:
            return {"permutation": torch.arange(size, device=self.seeds.device).repeat(len(self.seeds), 1)}
        return {"permutation": self.random_order("permutation", task, size)}

    def arrangement(self, tables: Tree) -> Tensor:
        return tables["permutation"]
