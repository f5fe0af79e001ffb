"""Streams whose tasks are made of classes, which each replica takes in a random order of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from lopbench.errors import require
from lopbench.streams.epochs import EpochStream


class Images(NamedTuple):
    """Which images of each class make up a split: `number` of them from the `first` on, in data set order."""

    origin: str  #: the data set's split that holds them
    first: int
    number: int


@dataclass(frozen=True, eq=False)
class ClassStream(EpochStream):
    """Tasks that show some classes each, all with the same number of images, so that replicas have equal shapes.

    Concrete streams say which images of a class make up a split (`images`), and which classes a task shows (`span`).

    Fields: those of `EpochStream`. Drawn from the replica's seed: the order of the classes, anew in each pass over
    them (keyed by the pass).
    """

    @cached_property
    def images(self) -> Mapping[str, Images]:
        """The images of each class that a split consists of, for each split that can be probed."""
        raise NotImplementedError

    def span(self, split: str, task: int) -> tuple[int, int]:
        """The classes of a split in `task`: from which place of the class order up to which (exclusive)."""
        raise NotImplementedError

    def class_order(self, task: int) -> Tensor:
        """The order of all classes that is in force in `task`, `[R, classes]`."""
        return self.random_order("class_order", 0, self.data.classes)

    def places(self, labels: Tensor, task: int) -> Tensor:
        """The places of the classes `labels` `[R, N]` in the order."""
        return self.class_order(task).argsort(dim=1).gather(1, labels)

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.images)

    def examples(self, split: str, task: int) -> tuple[str, Tensor]:
        origin, first, number = self.images[split]
        start, stop = self.span(split, task)
        classes = self.class_order(task)[:, start:stop]
        return origin, self._by_class[origin][classes, first : first + number].flatten(1)

    @cached_property
    def _by_class(self) -> dict[str, Tensor]:
        """Indices `[classes, M]` of each class's first images in data set order, M those of the smallest class."""
        tables = {}
        for origin, labels in self.data.labels.items():
            counts = torch.bincount(labels, minlength=self.data.classes)
            starts = counts.cumsum(0) - counts
            ahead = torch.arange(self.smallest[origin][1], device=labels.device)
            tables[origin] = labels.argsort(stable=True)[starts[:, None] + ahead]
        return tables

    @cached_property
    def smallest(self) -> dict[str, tuple[int, int]]:
        """The smallest class of each split of the data set, and how many images it has."""
        found = {}
        for origin, labels in self.data.labels.items():
            counts = torch.bincount(labels, minlength=self.data.classes)
            found[origin] = int(counts.argmin()), int(counts.min())
        return found

    def require_images(self, wanted: int, origin: str, why: str) -> None:
        """Refuse data of which some class has fewer than `wanted` images in the split `origin`."""
        which, have = self.smallest[origin]
        require(
            wanted <= have,
            f"{why}: that takes at least {wanted} {origin} images of each class, but class {which} of "
            f"{self.data.name} has {have}.",
        )
