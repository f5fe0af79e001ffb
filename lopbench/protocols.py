"""The contracts: what each kind of part promises, and the small records that parts exchange.

Shapes are written with these letters: R replicas, B examples in a batch, n steps in a block.
Every tensor that a replica owns leads with R. A part is a frozen dataclass (an architecture: an
`nn.Module`) whose fields are its configuration; whatever changes lives in the state tree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple, TypeVar

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from lopbench.learner import Learner
    from lopbench.population import Population

T = TypeVar("T")

#: Marks a numeric field whose value may differ between the replicas of one population. Such fields
#: reach the step as `[R]` tensors (`hyper`); None becomes NaN, and means that the thing is off.
PerReplica = Annotated[T, "per replica"]

Tree = dict[str, Any]  # nested dicts with tensors as leaves


@dataclass(frozen=True)
class Problem:
    """The shape of what is learned: one example's inputs, the number of outputs, the loss.

    `loss` is "cross_entropy" (targets are int64 class indices `[B]`; mean over the batch) or
    "squared_error" (targets are floats `[B, outputs]`; mean over batch and outputs, no factor 1/2).
    """

    input_shape: tuple[int, ...]
    outputs: int
    loss: str


class Clock(NamedTuple):
    """Where a step stands, as int64 scalar tensors, so that no compiler specialises on them."""

    step: Tensor  #: updates completed before this step
    task: Tensor  #: index of the task, from 0
    step_in_task: Tensor  #: updates completed in this task before this step

    def later(self, steps: int) -> Clock:
        """The clock `steps` steps later in the same task."""
        return Clock(self.step + steps, self.task, self.step_in_task + steps)


@dataclass(frozen=True)
class Dataset:
    """Labelled examples on the training device, as compact integers where they are images.

    `inputs[split]` is `[N, *shape]` (uint8 images are channels first or `[H, W]`; floats are used as they are),
    `labels[split]` is int64 `[N]`. Splits are "train" and, where there is one, "test".
    `mean` and `std` are the usual per-channel constants of images scaled to [0, 1].
    """

    name: str
    inputs: dict[str, Tensor]
    labels: dict[str, Tensor]
    classes: int
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return tuple(self.inputs["train"].shape[1:])


class Source:
    """Where a data set comes from: kind "sources". A frozen dataclass; `load` gives the `Dataset`."""

    def load(self, data_dir: str | None, device: Any) -> Dataset:
        """Read the data, or raise `UserError` naming the folder and how to point to another."""
        raise NotImplementedError

    def imitation(self) -> Source:
        """A generated source with the same shapes and class count, for `--dry_run` and checks."""
        raise NotImplementedError


class Stream:
    """A sequence of tasks: kind "streams". What replica r sees at step t depends on (seed r, t) only.

    Concrete streams are frozen dataclasses that take three runtime arguments, never bound in gin:
    `data` (a `Dataset`, or None for streams that generate theirs), `seeds` (int64 `[R]`, on the
    training device) and `dtype` (of the inputs handed out), then their own fields.
    """

    data: Dataset | None
    seeds: Tensor
    dtype: Any
    tasks: int | None  #: how many tasks there are; None: as many as asked for
    steps_per_task: int | tuple[int, ...]  #: of every task, or of each (then there are no others)
    needs_source: ClassVar[bool] = True

    @property
    def problem(self) -> Problem:
        raise NotImplementedError

    def task_length(self, task: int) -> int:
        """The steps of `task`."""
        return self.steps_per_task if isinstance(self.steps_per_task, int) else self.steps_per_task[task]

    def task_start(self, task: int) -> int:
        """The updates completed before the first step of `task`."""
        if isinstance(self.steps_per_task, int):
            return task * self.steps_per_task
        return sum(self.steps_per_task[:task])

    def locate(self, step: int) -> tuple[int, int]:
        """The task that holds `step` (updates completed before), and the step's number in it, from 0."""
        if isinstance(self.steps_per_task, int):
            return divmod(step, self.steps_per_task)
        task, start = 0, 0
        while task + 1 < len(self.steps_per_task) and step >= start + self.steps_per_task[task]:
            start += self.steps_per_task[task]
            task += 1
        return task, step - start

    def epoch_length(self, task: int) -> int:
        """The steps of an epoch of `task`, after each of which metrics of every "epoch_end" are measured.

        A task's last epoch ends with the task. Without epochs: the whole task.
        """
        return self.task_length(task)

    def readout(self, outputs: Tensor, task: Tensor) -> Tensor:
        """The outputs `[..., outputs]` that count in `task` (an int64 scalar): others are set to -inf.

        By default all. Loss, accuracy and evaluations see the network's outputs through it; it is traced.
        """
        return outputs

    def next_boundary(self, step: int) -> int:
        """The first step after `step` at which tables change (an epoch's or a task's start)."""
        raise NotImplementedError

    def prepare(self, step: int) -> Tree:
        """Tables for the steps from the boundary at or before `step` to the next; leaves `[R, ...]`.

        A pure function of `step`: a resume calls it again and saves nothing.
        """
        raise NotImplementedError

    def batches(self, tables: Tree, clock: Clock, n: int) -> tuple[Tensor, Tensor]:
        """Inputs `[n, R, B, *input_shape]` and targets `[n, R, B, ...]` of n steps from `clock` on.

        Traced by the compiler: reads per-replica things from `tables` only (so that a population can be
        run replica by replica), waits for nothing, and gives some valid batch (it is masked) for steps
        that lie past the boundary.
        """
        raise NotImplementedError

    def added_outputs(self, task: int) -> range:
        """The network's outputs that count from `task` on, and did not before: in the first task all, by default."""
        return range(self.problem.outputs if task == 0 else 0)

    def probe(self, split: str, size: int, task: int, step: int = 0) -> tuple[Tensor, Tensor]:
        """A batch of `task` to measure on: inputs `[R, size, ...]` and targets, as in evaluation.

        Split "train": the first `size` examples that the task will show; "test": held-out ones; a stream may
        have more, and raises `UserError` at others. The batch is the same whenever it is asked for, but for
        what is drawn anew for each evaluation (an augmented test split): that is keyed by `step`.
        """
        raise NotImplementedError

    def probe_count(self, split: str, task: int) -> int | None:
        """How many examples `split` has in `task`; None: as many as asked for. 0: metrics on it are skipped."""
        return None


class Schedule:
    """Hyperparameters as functions of the clock: kind "schedules".

    Concrete schedules are frozen dataclasses; runtime argument `steps_per_task`, an int or, where tasks
    differ, a tuple.
    """

    def values(self, hyper: Mapping[str, Tensor], clock: Clock) -> dict[str, Tensor]:
        """The optimizer's hyperparameters in force at this step: `hyper` with some replaced."""
        raise NotImplementedError


class Optimizer:
    """A rule on stacked parameters: kind "optimizers". Scalars or `[R]` hyperparameters alike."""

    def init(self, parameters: Mapping[str, Tensor], values: Mapping[str, Tensor] | None = None) -> Tree:
        """The state: `{slot: {parameter name: [R, *shape]}}`, and per-replica slots `{slot: [R]}`.

        `values` are the hyperparameters in force at the first step, on the host's time: slots that no
        replica will need may be left out. None: leave nothing out.
        """
        raise NotImplementedError

    def update(
        self,
        parameters: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor],
        state: Tree,
        values: Mapping[str, Tensor],
    ) -> tuple[dict[str, Tensor], Tree]:
        """New parameters and state. `values` holds this class's PerReplica fields, each `[R]`."""
        raise NotImplementedError

    def clear(self, state: Tree, name: str, mask: Tensor) -> Tree:
        """State in which the entries of parameter `name` under `mask` ([R, *shape]) start afresh."""
        raise NotImplementedError


class Strategy:
    """Whatever acts on the learner to keep it plastic: kind "strategies".

    Concrete strategies are frozen dataclasses that override the hooks they need. A hook gets the
    `Learner` of one step (see learner.py): it may read `learner.hyper` (this strategy's PerReplica
    fields, `[R]`) and read and assign entries of `learner.state` (this strategy's branch of the state).
    The order in a step: `penalty`, `change_gradients`, `before_update`, optimizer, `after_update`.
    """

    #: tags that `learner.report` may be called with; summed over the steps of a window
    reports: ClassVar[tuple[str, ...]] = ()
    #: True if the strategy is told of task boundaries (published with the run)
    needs_task_boundaries: ClassVar[bool] = False
    #: the splits that metrics.Evaluation must measure at every "epoch_end" for `after_evaluation`
    needs_evaluations: ClassVar[tuple[str, ...]] = ()

    def check(self, population: Population) -> None:
        """Raise `UserError` if this strategy can't act on this population; before any training."""

    def init(self, learner: Learner) -> Tree:
        """The strategy's first state; every leaf leads with R."""
        return {}

    def events(
        self, population: Population, hyper: Mapping[str, np.ndarray]
    ) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """When the rare work is due: (update number, table), ascending, computed by the host.

        An update's number counts from 1; the table's arrays lead with R and say what each replica
        is due. In the step with that number `learner.event` holds the table as tensors; at all other
        steps the hooks that look at `learner.event` see None. A pure function, begun afresh on resume.
        """
        return iter(())

    def draws(self, learner: Learner, n: int) -> Tree:
        """Random numbers for n steps from `learner.clock` on, drawn once a block; leaves `[n, R, ...]`.

        Each step finds its slice in `learner.draw`.
        """
        return {}

    def penalty(self, learner: Learner) -> Tensor:
        """A term `[R]` added to the loss; `learner.parameters` are being differentiated."""
        raise NotImplementedError

    def change_gradients(self, learner: Learner) -> None:
        """Assign `learner.gradients[name]` (of mean loss plus penalties), before clipping and decay."""

    def before_update(self, learner: Learner) -> None:
        """Act between the gradients and the optimizer."""

    def after_update(self, learner: Learner) -> None:
        """Act on the updated learner; features and gradients are still those of this step."""

    def begin_task(self, learner: Learner) -> None:
        """Act before the first step of a task (not called for the first task)."""

    def end_task(self, learner: Learner) -> None:
        """Act after the last step of a task (before the metrics of "task_end" are measured)."""

    def after_evaluation(self, learner: Learner, results: Mapping[str, Tensor]) -> None:
        """Act on what the metrics of "epoch_end" gave, `{tag: [R]}`; called when there are any."""


def overrides(strategy: Strategy, hook: str) -> bool:
    """Whether `strategy` has its own `hook`, so that nothing is traced for those that don't."""
    return getattr(type(strategy), hook) is not getattr(Strategy, hook)


class Metric:
    """Something measured between blocks, without touching the run: kind "metrics".

    Concrete metrics are frozen dataclasses. `measure` gets a `Probe` and returns `{tag: [R]}`, tags
    `group/name` with the layer after a dot (`units/dormant_0.025.hidden.0`, and the total without).
    """

    #: "task_start", "task_end", "epoch_end", or a number of updates
    every: Any = "task_start"
    #: examples of the probe batch; None: all of the split; 0 if the metric needs no batch
    probe_size: int | None = 0
    #: the split that is probed, or several: measured on each. On another than "train" the tags' group is named
    #: after it: `units_test/dead`, unless `names_split`
    probe_split: str | Sequence[str] = "train"
    #: let batch normalisation use the statistics of the probe batch instead of its running ones
    batch_statistics: bool = False
    #: whether the metric's tags name the split themselves
    names_split: ClassVar[bool] = False
    needs_gradients: ClassVar[bool] = False
    needs_features: ClassVar[bool] = True

    def check(self, population: Population) -> None:
        """Raise `UserError` if this metric can't be measured on this population; before any training."""

    def measure(self, probe: Probe) -> dict[str, Tensor]:
        raise NotImplementedError


@dataclass(frozen=True)
class Probe:
    """What a metric sees: the parameters, and the network on a fixed batch in evaluation mode."""

    population: Population
    split: str
    parameters: dict[str, Tensor]  #: [R, *shape]
    gradients: dict[str, Tensor]  #: of the mean loss on the probe batch; empty without a batch
    features: dict[str, Tensor]  #: [R, size, ...], by name; empty without a batch
    outputs: Tensor | None
    targets: Tensor | None
    loss: Tensor | None  #: [R]
