"""What streams that show a labelled data set in epochs share: the cursor, the orders, the scaling.

A task shows its examples epoch after epoch, each in a fresh order, for `steps_per_task` steps; the last epoch is cut
where the task ends, and each task begins with a new epoch. Concrete streams say what a task changes: the labels
(`relabelled`), or the inputs (`task_tables` and `transformed`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from lopbench.checks import check_bool, check_choice, check_number
from lopbench.errors import require
from lopbench.keyed_random import permutations
from lopbench.protocols import Clock, Dataset, Problem, Stream, Tree

SCALINGS = ("unit", "centred", "standard")


@dataclass(frozen=True, eq=False)
class EpochStream(Stream):
    """Examples of a data set in epochs; the fields that all such streams have.

    Fields:
        tasks: how many; None: as many as asked for.
        batch_size: B.
        epochs_per_task: length of a task, where `steps_per_task` leaves it open.
        steps_per_task: length of a task in steps; None: `epochs_per_task` full epochs.
        examples_per_task: N, how many of the training examples a replica is shown; None: all of them.
        resample_examples: draw those N anew for each task; otherwise a replica keeps them.
        reshuffle_each_epoch: a new order for each epoch; otherwise one order a task, again and again.
        drop_tail_early: end an epoch when the next batch would end at or past the last example, as the published
            code of L2 Init does: ceil(N / B) - 1 batches. Otherwise an epoch has floor(N / B), and a remainder of
            fewer than B examples (others in each epoch) is left out.
        scaling: of uint8 images x: "unit" x/255; "centred" (x/255 - 1/2) / (1/2); "standard" (x/255 - mean) / std with
            the data set's constants of each channel. Floats are used as they are, and want "unit".

    Drawn from the replica's seed: the N examples (keyed by the task, or by 0 if they are kept), and an epoch's
    order (keyed by the step at which the epoch begins, or the task if orders are kept).
    """

    data: Dataset
    seeds: Tensor
    dtype: torch.dtype
    tasks: int | None = None
    batch_size: int = 30
    epochs_per_task: int = 1
    steps_per_task: int = None  # type: ignore[assignment]  # an int once constructed
    examples_per_task: int | None = None
    resample_examples: bool = False
    reshuffle_each_epoch: bool = True
    drop_tail_early: bool = False
    scaling: str = "unit"

    #: whether there are held-out examples whose labels mean something
    has_test_split: ClassVar[bool] = True

    steps_per_epoch: int = field(init=False, repr=False)
    _constants: tuple[Tensor, Tensor] | None = field(init=False, repr=False)
    _orders: dict[str, tuple[int, Tensor]] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        name = f"streams.{type(self).__name__}"
        require(
            isinstance(self.data, Dataset),
            f"{name} shows a data set: bind run.source, for example run.source = @sources.MNIST.",
        )
        for each in ("tasks", "steps_per_task", "examples_per_task"):
            check_number(self, each, getattr(self, each), at_least=1, integer=True, optional=True)
        for each in ("batch_size", "epochs_per_task"):
            check_number(self, each, getattr(self, each), at_least=1, integer=True)
        for each in ("resample_examples", "reshuffle_each_epoch", "drop_tail_early"):
            check_bool(self, each, getattr(self, each))
        check_choice(self, "scaling", self.scaling, SCALINGS)
        self._check_data(name)

        batches = self.examples // self.batch_size
        if self.drop_tail_early:
            batches = max(1, -(-self.examples // self.batch_size) - 1)
        steps = batches * self.epochs_per_task if self.steps_per_task is None else self.steps_per_task
        object.__setattr__(self, "steps_per_task", steps)
        object.__setattr__(self, "steps_per_epoch", min(batches, steps))
        object.__setattr__(self, "_constants", self._scaling_constants())

    def _check_data(self, name: str) -> None:
        have, what = len(self.data.labels["train"]), self.data.name
        require(
            self.examples_per_task is None or self.examples_per_task <= have,
            f"{name}.examples_per_task is {self.examples_per_task}: {what} has {have} training examples.",
        )
        require(
            not self.resample_examples or self.examples_per_task is not None,
            f"{name}.resample_examples is True, but a task shows all examples: bind {name}.examples_per_task too.",
        )
        require(
            self.batch_size <= self.examples,
            f"{name}.batch_size is {self.batch_size}: a task has only {self.examples} examples of {what}.",
        )
        require(
            self.scaling == "unit" or self.data.inputs["train"].dtype == torch.uint8,
            f"{name}.scaling is {self.scaling!r}: {what} holds floats, which are used as they are; leave it 'unit'.",
        )

    @property
    def problem(self) -> Problem:
        return Problem(self.data.shape, self.data.classes, "cross_entropy")

    @property
    def examples(self) -> int:
        """N, the examples that a task shows a replica."""
        return self.examples_per_task or len(self.data.labels["train"])

    # What a task changes

    def relabelled(self, labels: Tensor, task: int) -> Tensor:
        """The labels in `task`, from the true ones `[R, N]`."""
        return labels

    def task_tables(self, task: int) -> Tree:
        """Further tables of `task`; leaves `[R, ...]`."""
        return {}

    def transformed(self, inputs: Tensor, tables: Tree) -> Tensor:
        """The inputs in a task, from the scaled ones `[n, R, B, *shape]`."""
        return inputs

    # The cursor

    def next_boundary(self, step: int) -> int:
        task, in_task = divmod(step, self.steps_per_task)
        epoch_end = (in_task // self.steps_per_epoch + 1) * self.steps_per_epoch
        return task * self.steps_per_task + min(epoch_end, self.steps_per_task)

    def prepare(self, step: int) -> Tree:
        """The epoch that holds `step`: `examples` (their indices) and `labels`, `[R, steps_per_epoch, B]`, and `start`.

        `start` is the epoch's first step, counted in the task.
        """
        task, in_task = divmod(step, self.steps_per_task)
        start = in_task - in_task % self.steps_per_epoch
        examples, labels = self._epoch(task, start)
        shown, shape = self.steps_per_epoch * self.batch_size, (-1, self.steps_per_epoch, self.batch_size)
        return {
            "start": torch.full_like(self.seeds, start),
            "examples": examples[:, :shown].reshape(shape),
            "labels": labels[:, :shown].reshape(shape),
            **self.task_tables(task),
        }

    def _epoch(self, task: int, start: int) -> tuple[Tensor, Tensor]:
        """Indices and labels, `[R, N]`, of the task's examples, in the order of the epoch from its step `start` on."""
        key = task * self.steps_per_task + (start if self.reshuffle_each_epoch else 0)
        order = self.random_order("order", key, self.examples)
        examples = self._task_examples(task)
        labels = self.relabelled(self.data.labels["train"][examples], task)
        return examples.gather(1, order), labels.gather(1, order)

    def _task_examples(self, task: int) -> Tensor:
        """Indices `[R, N]` of the examples that `task` shows."""
        have = len(self.data.labels["train"])
        if self.examples_per_task is None:
            return torch.arange(have, device=self.seeds.device).expand(len(self.seeds), -1)
        return self.random_order("examples", task if self.resample_examples else 0, have)[:, : self.examples]

    def random_order(self, purpose: str, step: int, size: int) -> Tensor:
        """A permutation of 0..size-1 for each replica, `[R, size]`, keyed by (seed, purpose, step).

        The last one of each purpose is kept, as an epoch and a probe of the same task ask for the same.
        """
        if self._orders.get(purpose, (None, None))[0] != step:
            at = torch.tensor(step, device=self.seeds.device)
            self._orders[purpose] = (step, permutations(self.seeds, f"stream/{purpose}", at, size))
        return self._orders[purpose][1]

    # Batches

    def batches(self, tables: Tree, clock: Clock, n: int) -> tuple[Tensor, Tensor]:
        steps = clock.step_in_task - tables["start"][:, None] + torch.arange(n, device=clock.step.device)
        rows = steps.clamp(max=self.steps_per_epoch - 1)[:, :, None].expand(-1, -1, self.batch_size)
        examples, labels = tables["examples"].gather(1, rows), tables["labels"].gather(1, rows)
        return self.transformed(self._scaled("train", examples.movedim(1, 0)), tables), labels.movedim(1, 0)

    def _scaled(self, split: str, examples: Tensor) -> Tensor:
        """The scaled inputs `[..., *shape]` of the examples at the given indices."""
        chosen = self.data.inputs[split].index_select(0, examples.flatten()).unflatten(0, examples.shape)
        if chosen.dtype != torch.uint8:
            return chosen.to(self.dtype)
        inputs = chosen.to(self.dtype) / 255
        return inputs if self._constants is None else (inputs - self._constants[0]) / self._constants[1]

    def _scaling_constants(self) -> tuple[Tensor, Tensor] | None:
        """What is subtracted, and what divides then; one value, or one a channel that broadcasts over `[C, H, W]`."""
        if self.scaling == "unit":
            return None
        pair = (self.data.mean, self.data.std) if self.scaling == "standard" else ((0.5,), (0.5,))
        shape = (-1, 1, 1) if len(pair[0]) > 1 else ()
        mean, std = (torch.tensor(values, dtype=self.dtype, device=self.seeds.device).reshape(shape) for values in pair)
        return mean, std

    # Probes

    def probe(self, split: str, size: int, task: int) -> tuple[Tensor, Tensor]:
        """The first `size` examples of the task's first epoch, or of the test split in an order that all tasks share.

        Labels of the test split are those of the task.
        """
        name = f"streams.{type(self).__name__}"
        splits = [each for each in self.data.labels if each == "train" or self.has_test_split]
        require(
            split in splits,
            f"{name} has no {split!r} examples to probe on {self.data.name}: it has {', '.join(splits)}.",
        )
        have = self.examples if split == "train" else len(self.data.labels[split])
        require(
            size <= have, f"A probe of {size} examples is more than the {have} {split} examples of a task of {name}."
        )
        if split == "train":
            examples, labels = self._epoch(task, 0)
        else:
            examples = self.random_order("test", 0, have)
            labels = self.relabelled(self.data.labels[split][examples], task)
        inputs = self._scaled(split, examples[:, :size])
        return self.transformed(inputs[None], self.task_tables(task))[0], labels[:, :size]
