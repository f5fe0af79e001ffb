"""Class-incremental learning: each task adds classes, and shows them together with all earlier ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

import lopbench
from lopbench.checks import check_bool, check_number
from lopbench.errors import require
from lopbench.streams.class_streams import ClassStream, Images


@lopbench.register("streams")
@dataclass(frozen=True, eq=False)
class ClassIncremental(ClassStream):
    """Class-incremental learning: task k shows the first (k + 1) n classes of a random order, all of them jointly.

    A class's label is its place in the order. The network has an output for every class from the start, but only
    those of the classes shown count. Nothing is taken away, so there is nothing to forget: what suffers is
    the ability to learn. With n = all classes there is one task, the whole data set. The defaults are those of
    Hernandez-Garcia et al. 2025 (SWR) on CIFAR-100.

    Fields: those of `EpochStream`, and
        classes_per_task: n, the classes that a task adds; it must divide their number.
        validation_per_class: the first so many training images of each class are held out for validation; 0: none.
        examples_per_class: how many of the following ones are shown; None: as many as the smallest class has.
        augment_test: augment the images of the test split too, others at each evaluation.

    tasks: at most, and by default, as many as it takes to show all classes; task k is k + 1 times as long as the first
    unless `steps_per_task` says otherwise.

    Splits to probe on: "train", "validation" and "test" of the classes shown (of the test split as many images a
    class as the smallest has); "new_classes", training and validation images of the classes that the task adds;
    "old_classes", those of the classes before (none in the first task).

    Published protocols (CIFAR-100, classes_per_task 5, batch_size 90, validation_per_class 50, augmented by
    a flip, a crop and a rotation, in this order, scaling "standard"):
        SWR: epochs_per_task 100, 525,000 updates; on the full data set classes_per_task 100.
        Dohare et al. 2024 (Nature): epochs_per_task 200, 1,050,000 updates; its code augments the test images too
            (augment_test True), its text does not.
    """

    batch_size: int = 90
    epochs_per_task: int = 100
    classes_per_task: int = 5
    validation_per_class: int = 50
    examples_per_class: int | None = None
    augment_test: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            not self.augment_test or bool(self.augmentations),
            f"{self.name}.augment_test is True, but there is nothing to augment with: bind {self.name}.augmentations.",
        )

    def _check(self) -> None:
        super()._check()
        check_number(self, "classes_per_task", self.classes_per_task, at_least=1, integer=True)
        check_number(self, "validation_per_class", self.validation_per_class, at_least=0, integer=True)
        check_number(self, "examples_per_class", self.examples_per_class, at_least=1, integer=True, optional=True)
        check_bool(self, "augment_test", self.augment_test)
        classes, n = self.data.classes, self.classes_per_task
        require(
            classes % n == 0,
            f"{self.name}.classes_per_task is {n}: it must divide the {classes} classes of {self.data.name}.",
        )
        require(
            self.tasks is None or self.tasks <= classes // n,
            f"{self.name}.tasks is {self.tasks}: with {n} classes a task, the {classes} classes of {self.data.name} "
            f"make {classes // n}.",
        )
        held_out, shown = self.validation_per_class, self.examples_per_class
        why = f"{self.name}.validation_per_class is {held_out} and examples_per_class {shown}"
        self.require_images(held_out + (shown or 1), "train", why)
        if "test" in self.data.labels:
            self.require_images(1, "test", f"{self.name} is tested on every class")

    def _settle_lengths(self) -> None:
        if self.tasks is None:
            object.__setattr__(self, "tasks", len(self.sizes))
        super()._settle_lengths()

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        shown = range(self.classes_per_task, self.data.classes + 1, self.classes_per_task)
        return tuple(classes * self.images["train"].number for classes in shown)

    @cached_property
    def images(self) -> Mapping[str, Images]:
        held_out = self.validation_per_class
        shown = self.examples_per_class or self.smallest["train"][1] - held_out
        found = {"train": Images("train", held_out, shown)}
        if held_out:
            found["validation"] = Images("train", 0, held_out)
        if "test" in self.data.labels:
            found["test"] = Images("test", 0, self.smallest["test"][1])
        found["new_classes"] = found["old_classes"] = Images("train", 0, held_out + shown)
        return found

    def span(self, split: str, task: int) -> tuple[int, int]:
        start, stop = task * self.classes_per_task, (task + 1) * self.classes_per_task
        return {"new_classes": (start, stop), "old_classes": (0, start)}.get(split, (0, stop))

    def relabelled(self, labels: Tensor, task: int) -> Tensor:
        return self.places(labels, task)

    def augments(self, split: str) -> bool:
        return split == "test" and self.augment_test

    def added_outputs(self, task: int) -> range:
        return range(*self.span("new_classes", task))

    def readout(self, outputs: Tensor, task: Tensor) -> Tensor:
        place = torch.arange(outputs.shape[-1], device=outputs.device)
        return torch.where(place < (task + 1) * self.classes_per_task, outputs, -torch.inf)
