"""What streams that show a labelled data set in epochs share: the cursor, the orders, the batches, the probes.

A task shows its examples epoch after epoch, each in a fresh order, for `steps_per_task` steps; the last epoch is cut
where the task ends, and each task begins with a new epoch. Tasks may differ in length and in how many examples they
show: tables have the shape of the longest epoch in all of them.

Concrete streams say which examples a task shows (`sizes`, `splits`, `examples`; see subsets.py and class_streams.py)
and what it changes: the labels (`relabelled`), or where the entries of inputs come from (`task_tables`, `arrangement`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lopbench.checks import check_bool, check_choice, check_number
from lopbench.errors import require
from lopbench.keyed_random import permutations
from lopbench.protocols import Clock, Dataset, Problem, Stream, Tree
from lopbench.streams.augmentations import built, rearranged, source_pixels
from lopbench.streams.scaling import SCALINGS, Scaling

#: The most tasks whose lengths are kept in a list, which is gone through at every boundary.
MOST_LENGTHS = 100_000


@dataclass(frozen=True, eq=False)
class EpochStream(Stream):
    """Examples of a data set in epochs; the fields that all such streams have.

    Fields:
        tasks: how many; None: as many as asked for.
        batch_size: B.
        epochs_per_task: length of a task, where `steps_per_task` leaves it open.
        steps_per_task: length of a task in steps, or a list with that of each; None: `epochs_per_task` full epochs.
        reshuffle_each_epoch: a new order for each epoch; otherwise one order a task, again and again.
        drop_tail_early: end an epoch when the next batch would end at or past the last example, as the published
            code of L2 Init does: ceil(N / B) - 1 batches. Otherwise an epoch has floor(N / B), and a remainder of
            fewer than B examples (others in each epoch) is left out.
        scaling: of uint8 images x: "unit" x/255; "centred" (x/255 - 1/2) / (1/2); "standard" (x/255 - mean) / std with
            the data set's constants of each channel. Floats are used as they are, and want "unit".
        augmentations: of the images in training batches, in this order, for example [@augmentations.HorizontalFlip].
            What they show of a place outside the image is 0, after scaling. Probes show images as they are.

    Drawn from the replica's seed: an epoch's order (keyed by the step at which the epoch begins, or the task if
    orders are kept), and what the augmentations draw (keyed by the step).
    """

    data: Dataset
    seeds: Tensor
    dtype: torch.dtype
    tasks: int | None = None
    batch_size: int = 30
    epochs_per_task: int = 1
    steps_per_task: int | tuple[int, ...] = None  # type: ignore[assignment]  # never None once constructed
    reshuffle_each_epoch: bool = True
    drop_tail_early: bool = False
    scaling: str = "unit"
    augmentations: Sequence[Any] = ()  # classes; instances once constructed

    _longest_epoch: int = field(init=False, repr=False)
    _scaled: Scaling = field(init=False, repr=False)
    #: the inputs of each split as rows `[N, entries]`: what a batch is gathered from
    _rows: dict[str, Tensor] = field(init=False, repr=False)
    _orders: dict[str, tuple[tuple[int, int], Tensor]] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._check()
        self._settle_lengths()
        object.__setattr__(self, "augmentations", built(self, self.augmentations, self.data.shape))
        object.__setattr__(self, "_scaled", Scaling(self.scaling, self.data, self.dtype))
        object.__setattr__(self, "_rows", {split: inputs.flatten(1) for split, inputs in self.data.inputs.items()})

    @property
    def name(self) -> str:
        """What messages call the stream."""
        return f"streams.{type(self).__name__}"

    def _check(self) -> None:
        """Refuse fields that can't work, by themselves or with these data."""
        require(
            isinstance(self.data, Dataset),
            f"{self.name} shows a data set: bind run.source, for example run.source = @sources.MNIST.",
        )
        check_number(self, "tasks", self.tasks, at_least=1, integer=True, optional=True)
        for each in ("batch_size", "epochs_per_task"):
            check_number(self, each, getattr(self, each), at_least=1, integer=True)
        for each in ("reshuffle_each_epoch", "drop_tail_early"):
            check_bool(self, each, getattr(self, each))
        check_choice(self, "scaling", self.scaling, SCALINGS)
        require(
            self.scaling == "unit" or self.data.inputs["train"].dtype == torch.uint8,
            f"{self.name}.scaling is {self.scaling!r}: {self.data.name} holds floats, which are used as they are; "
            "leave it 'unit'.",
        )

    def _settle_lengths(self) -> None:
        """Fix the lengths of tasks, and that of the longest epoch, which shapes the tables."""
        require(
            self.batch_size <= min(self.sizes),
            f"{self.name}.batch_size is {self.batch_size}: a task has only {min(self.sizes)} examples of "
            f"{self.data.name}.",
        )
        object.__setattr__(self, "steps_per_task", self._lengths())
        lengths = self.steps_per_task
        different = len(lengths) if isinstance(lengths, tuple) else self._different_tasks
        longest = max(self.epoch_length(task) for task in range(different))
        object.__setattr__(self, "_longest_epoch", longest)

    @property
    def _different_tasks(self) -> int:
        """The first so many tasks stand for all, as far as their sizes go."""
        return min(self.tasks or len(self.sizes), len(self.sizes))

    def _lengths(self) -> int | tuple[int, ...]:
        """The steps of a task, or of each if they differ."""
        steps = self.steps_per_task
        if steps is None:
            each = [self._batches_of(self.size(task)) * self.epochs_per_task for task in range(self._different_tasks)]
            if len(set(each)) == 1:
                return each[0]
            tasks = self.tasks or 0
            require(
                0 < tasks <= MOST_LENGTHS,
                f"{self.name}.tasks is {self.tasks}, but its tasks differ in length: bind how many there are, at most "
                f"{MOST_LENGTHS:,}.",
            )
            return tuple(each[task % len(each)] for task in range(tasks))
        for length in steps if isinstance(steps, (list, tuple)) else (steps,):
            check_number(self, "steps_per_task", length, at_least=1, integer=True)
        if isinstance(steps, int):
            return steps
        require(
            len(steps) == self.tasks,
            f"{self.name}.steps_per_task is {steps!r}, but {self.name}.tasks is {self.tasks}: bind one length a task.",
        )
        return tuple(steps)

    @property
    def problem(self) -> Problem:
        return Problem(self.data.shape, self.data.classes, "cross_entropy")

    # What a task shows

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """N, the training examples of each task; if there are more tasks, these repeat in turn."""
        raise NotImplementedError

    def size(self, task: int) -> int:
        """N, the training examples of `task`."""
        return self.sizes[task % len(self.sizes)]

    @property
    def splits(self) -> tuple[str, ...]:
        """What can be probed; "train" is one of them."""
        raise NotImplementedError

    def examples(self, split: str, task: int) -> tuple[str, Tensor]:
        """The examples of one of the `splits` in `task`: the data set's split they are from, and indices `[R, N]`.

        In an order of the stream's own: whoever shows them puts them in a random one.
        """
        raise NotImplementedError

    def relabelled(self, labels: Tensor, task: int) -> Tensor:
        """The labels in `task` of `examples`, from the true ones `[R, N]`."""
        return labels

    def task_tables(self, task: int) -> Tree:
        """Further tables of `task`; leaves `[R, ...]`, of the same shape in all tasks."""
        return {}

    def arrangement(self, tables: Tree) -> Tensor | None:
        """Which entry of an example each entry of the inputs shows in a task, int64 `[R, entries]`; None: its own."""
        return None

    def augments(self, split: str) -> bool:
        """Whether a probe on `split` shows augmented images, others in each step."""
        return False

    # The cursor

    def epoch_length(self, task: int) -> int:
        return min(self._batches_of(self.size(task)), self.task_length(task))

    def _batches_of(self, size: int) -> int:
        """The batches of a full epoch of so many examples."""
        return max(1, -(-size // self.batch_size) - 1) if self.drop_tail_early else size // self.batch_size

    def next_boundary(self, step: int) -> int:
        task, in_task = self.locate(step)
        epoch = self.epoch_length(task)
        epoch_end = (in_task // epoch + 1) * epoch
        return self.task_start(task) + min(epoch_end, self.task_length(task))

    def prepare(self, step: int) -> Tree:
        """The epoch that holds `step`: `examples` (their indices) and `labels`, `[R, longest epoch, B]`, and `start`.

        `start` is the epoch's first step, counted in the task. The last batch of a shorter epoch is repeated.
        With augmentations also `seeds`.
        """
        task, in_task = self.locate(step)
        length = self.epoch_length(task)
        start = in_task - in_task % length
        order = self._epoch_order(task, start)[:, : length * self.batch_size]
        rows = torch.arange(self._longest_epoch, device=order.device).clamp(max=length - 1)
        order = order.unflatten(1, (length, self.batch_size))[:, rows].flatten(1)
        _, examples, labels = self._labelled("train", task)
        shape = (self._longest_epoch, self.batch_size)
        return {
            "start": torch.full_like(self.seeds, start),
            "examples": examples.gather(1, order).unflatten(1, shape),
            "labels": labels.gather(1, order).unflatten(1, shape),
            **({"seeds": self.seeds} if self.augmentations else {}),
            **self.task_tables(task),
        }

    def _labelled(self, split: str, task: int) -> tuple[str, Tensor, Tensor]:
        """`examples`, and their labels `[R, N]` in the task."""
        origin, examples = self.examples(split, task)
        return origin, examples, self.relabelled(self.data.labels[origin][examples], task)

    def _epoch_order(self, task: int, start: int) -> Tensor:
        """The order `[R, N]` of the task's examples in the epoch from its step `start` on."""
        key = self.task_start(task) + (start if self.reshuffle_each_epoch else 0)
        return self.random_order("order", key, self.size(task))

    def random_order(self, purpose: str, step: int, size: int) -> Tensor:
        """A permutation of 0..size-1 for each replica, `[R, size]`, keyed by (seed, purpose, step).

        The last one of each purpose is kept, as an epoch and a probe of the same task ask for the same.
        """
        if self._orders.get(purpose, (None, None))[0] != (step, size):
            at = torch.tensor(step, device=self.seeds.device)
            self._orders[purpose] = ((step, size), permutations(self.seeds, f"stream/{purpose}", at, size))
        return self._orders[purpose][1]

    # Batches

    def batches(self, tables: Tree, clock: Clock, n: int) -> tuple[Tensor, Tensor]:
        ahead = torch.arange(n, device=clock.step.device)
        steps = clock.step_in_task - tables["start"][:, None] + ahead
        rows = steps.clamp(max=self._longest_epoch - 1)[:, :, None].expand(-1, -1, self.batch_size)
        examples, labels = (tables[name].gather(1, rows).movedim(1, 0) for name in ("examples", "labels"))
        if not self.augmentations:
            return self._inputs("train", examples, self.arrangement(tables)), labels
        images = self._augmented(self._inputs("train", examples), tables["seeds"], clock.step + ahead, "augmentation")
        return self._rearranged(images, tables), labels

    def _inputs(self, origin: str, examples: Tensor, places: Tensor | None = None) -> Tensor:
        """The scaled inputs `[n, R, B, *shape]` of the examples `[n, R, B]` of a split of the data set.

        With `places` they are rearranged by the same gather, that of single bytes.
        """
        rows = self._rows[origin]
        if places is None:
            chosen = rows.index_select(0, examples.flatten()).unflatten(0, examples.shape)
        else:
            chosen = rows[examples[..., None], places[:, None]]
        return self._scaled(chosen, places).unflatten(-1, self.data.shape)

    def _rearranged(self, inputs: Tensor, tables: Tree) -> Tensor:
        """Inputs `[n, R, B, *shape]` with their entries from where the task shows them."""
        places = self.arrangement(tables)
        if places is None:
            return inputs
        flat = inputs.flatten(3)
        return flat.gather(3, places[None, :, None].expand_as(flat)).view_as(inputs)

    def _augmented(self, inputs: Tensor, seeds: Tensor, steps: Tensor, purpose: str) -> Tensor:
        """Augmented images `[n, R, B, *shape]`."""
        size, (height, width) = inputs.shape[2], self.data.shape[-2:]
        return rearranged(inputs, *source_pixels(self.augmentations, seeds, steps, size, height, width, purpose))

    # Probes

    def probe_count(self, split: str, task: int) -> int:
        require(
            split in self.splits,
            f"{self.name} has no {split!r} examples to probe on {self.data.name}: it has {', '.join(self.splits)}.",
        )
        return self.examples(split, task)[1].shape[1]

    def probe(self, split: str, size: int, task: int, step: int = 0) -> tuple[Tensor, Tensor]:
        """The first `size` examples of the task's first epoch; of other splits, in a random order that tasks share.

        Labels are those of the task. So all of a split is a probe of `probe_count` examples, fewer are a sample.
        """
        have = self.probe_count(split, task)
        require(
            size <= have,
            f"A probe of {size} examples is more than the {have} {split} examples of a task of {self.name}.",
        )
        origin, examples, labels = self._labelled(split, task)
        order = self._epoch_order(task, 0) if split == "train" else self.random_order(split, 0, have)
        chosen = order[:, :size]
        inputs = self._inputs(origin, examples.gather(1, chosen)[None])
        if self.augments(split):
            at = torch.tensor([step], device=self.seeds.device)
            inputs = self._augmented(inputs, self.seeds, at, f"{split}_augmentation")
        return self._rearranged(inputs, self.task_tables(task))[0], labels.gather(1, chosen)
