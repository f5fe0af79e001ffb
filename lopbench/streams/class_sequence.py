"""A sequence of classes: each task shows a few classes that were not shown before, and none of the earlier ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, cycle

from torch import Tensor

import lopbench
from lopbench.checks import check_bool, check_number, is_integer
from lopbench.errors import require
from lopbench.protocols import Problem
from lopbench.streams.class_streams import ClassStream, Images


@lopbench.register("streams")
@dataclass(frozen=True, eq=False)
class ClassSequence(ClassStream):
    """A sequence of classes: task k shows the next few of a random order, without the earlier ones.

    The order is used up in groups, whose sizes come in turn; classes that are too few for the next group are left
    out. That is one pass; tasks beyond it begin another, with a new order and the first group's size again. So a
    class recurs once a pass, the same group practically never. The defaults are those of Continual ImageNet
    (Dohare et al. 2024, Nature): binary tasks, whose two classes are the labels 0 and 1.

    Fields: those of `EpochStream`, and
        classes_per_task: the group sizes that come in turn: (2,) pairs, (5, 1) five classes, one, five, ...
        relabel: the labels of a task are 0, 1, ... in the class order, and the network has the largest group's
            number of outputs. Otherwise classes keep their labels, and there is an output for each of them.
        train_per_class: how many training images of each class are shown; None: as many as the smallest class has.
        test_per_class: how many are held out; None: as many as the smallest class has.

    Splits to probe on: "train" and "test" of the task's classes; "previous_test", "test" of the task before (with the
    labels that its classes had then; none in the first task).

    Published protocols:
        Nature, Continual ImageNet: as by default (12 updates an epoch), scaling "centred"; 5,000 tasks, 2,000 for the
            baseline. Its head is reset at each task.
        Kumar et al. 2023 (L2 Init), Continual ImageNet: steps_per_task 120, drop_tail_early True; 500 tasks.
        L2 Init, "5+1" CIFAR-100: classes_per_task (5, 1), relabel False, batch_size 32, steps_per_task 780,
            drop_tail_early True, all images (train_per_class and test_per_class None), scaling "standard"; 30 tasks,
            31 in its code. Those of five classes, the even ones, are the hard ones that count.
    """

    batch_size: int = 100
    epochs_per_task: int = 250
    classes_per_task: Sequence[int] = (2,)
    relabel: bool = True
    train_per_class: int | None = 600
    test_per_class: int | None = 100

    def _check(self) -> None:
        super()._check()
        check_bool(self, "relabel", self.relabel)
        for each in ("train_per_class", "test_per_class"):
            check_number(self, each, getattr(self, each), at_least=1, integer=True, optional=True)
        self._check_groups()
        for origin in self.data.labels:
            field = f"{origin}_per_class"
            value = getattr(self, field)
            self.require_images(value or 1, origin, f"{self.name}.{field} is {value}")

    def _check_groups(self) -> None:
        groups, where = self.classes_per_task, f"{self.name}.classes_per_task is {self.classes_per_task!r}"
        listed = isinstance(groups, (list, tuple)) and len(groups) > 0 and all(is_integer(size, 1) for size in groups)
        require(listed, f"{where}: it must be a list of integers at least 1, as (2,) or (5, 1).")
        require(
            sum(groups) <= self.data.classes,
            f"{where}, {sum(groups)} classes in all: {self.data.name} has only {self.data.classes}.",
        )
        require(
            not self.relabel or max(groups) > 1,
            f"{where}: with {self.name}.relabel True all labels would be 0.",
        )

    @property
    def problem(self) -> Problem:
        outputs = max(self.classes_per_task) if self.relabel else self.data.classes
        return Problem(self.data.shape, outputs, "cross_entropy")

    @cached_property
    def groups(self) -> tuple[int, ...]:
        """How many classes each task of a pass shows."""
        found: list[int] = []
        for size in cycle(self.classes_per_task):
            if sum(found) + size > self.data.classes:
                break
            found.append(size)
        return tuple(found)

    @cached_property
    def _starts(self) -> tuple[int, ...]:
        """The place in the class order at which each task of a pass starts."""
        return tuple(accumulate(self.groups, initial=0))

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        return tuple(classes * self.images["train"].number for classes in self.groups)

    @cached_property
    def images(self) -> Mapping[str, Images]:
        bounds = {"train": self.train_per_class, "test": self.test_per_class}
        return {origin: Images(origin, 0, bounds[origin] or self.smallest[origin][1]) for origin in self.data.labels}

    def class_order(self, task: int) -> Tensor:
        return self.random_order("class_order", task // len(self.groups), self.data.classes)

    def span(self, split: str, task: int) -> tuple[int, int]:
        in_pass = task % len(self.groups)
        return self._starts[in_pass], self._starts[in_pass + 1]

    def relabelled(self, labels: Tensor, task: int) -> Tensor:
        return self.places(labels, task) - self.span("train", task)[0] if self.relabel else labels

    # The task before

    @property
    def splits(self) -> tuple[str, ...]:
        return (*self.images, "previous_test") if "test" in self.images else tuple(self.images)

    def probe_count(self, split: str, task: int) -> int:
        if split == "previous_test" and split in self.splits:
            return super().probe_count("test", task - 1) if task else 0
        return super().probe_count(split, task)

    def probe(self, split: str, size: int, task: int, step: int = 0) -> tuple[Tensor, Tensor]:
        if split == "previous_test" and self.probe_count(split, task) > 0:
            return super().probe("test", size, task - 1, step)
        return super().probe(split, size, task, step)
