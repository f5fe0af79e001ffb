"""The host's loop over one population: where it cuts the run, and what it does at the cuts.

In this order at a step's start: a new task begins (`begin_task` of strategies, metrics "task_start"), tables
are rebuilt at the stream's boundaries; then a stretch of steps up to the next cut; then a window ends (its
means are recorded), periodic metrics, at an epoch's end metrics "epoch_end" and `after_evaluation`, and at a
task's end its means, `end_task`, metrics "task_end".
Nothing here waits for the device but reading a window or a metric back.

Checkpoints are taken between two calls of the executor, after all records of the steps before: a `Snapshot` holds
what the rest of the run depends on besides the parts. All else follows from the step: where the cuts are, which
calls the executor makes, tables, and the strategies' rare work. So neither taking one nor going on from one changes
any number.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np
import torch

from lopbench.events import Events
from lopbench.executors import Executor
from lopbench.learner import call_task_hook, empty_window, initial_state
from lopbench.loggers.records import Record
from lopbench.population import Population
from lopbench.probing import all_cores, measure
from lopbench.protocols import Clock, Metric, Tree
from lopbench.task_so_far import TaskSoFar, Values, mean

EmitRecords = Callable[[Sequence[Record]], None]


@dataclass(frozen=True)
class Plan:
    """How long a population is trained, and what is measured when."""

    steps: int
    window_steps: int
    metrics: tuple[Metric, ...] = ()

    def due(self, when: str) -> list[Metric]:
        """The metrics of a moment ("task_start", "epoch_end", "task_end")."""
        return [metric for metric in self.metrics if metric.every == when]

    def periodic(self, step: int) -> list[Metric]:
        """The metrics with a period that are due after `step` updates."""
        return [metric for metric in self.metrics if isinstance(metric.every, int) and step % metric.every == 0]

    def next_periodic(self, step: int) -> int:
        """The next number of updates after `step` at which a periodic metric is due."""
        periods = [metric.every for metric in self.metrics if isinstance(metric.every, int)]
        return min((step // period + 1) * period for period in periods) if periods else self.steps


@dataclass
class Moment:
    """What the loop tells its watcher after each window."""

    step: int
    task: int
    alive: np.ndarray  # bool [R]
    died_at: np.ndarray  # int64 [R]: updates completed by a frozen replica; -1
    preparing: float = 0.0  # seconds that compiling and recording took so far


@dataclass(frozen=True)
class Snapshot:
    """All that the rest of a population's run depends on: `step` updates are completed, and `task` has begun.

    `so_far`: `{"sums": {tag: [R]}, "best": ..., "selected": ...}` of the running task, float64 on the host;
    `seconds`: trained for; `ended`: nothing is left to do.
    """

    state: Tree
    step: int
    task: int
    so_far: dict[str, Values]
    seconds: float
    ended: bool = False


class Keeper(Protocol):
    """Who takes snapshots. Whoever stops a run does so by raising in `save`."""

    def due(self, step: int) -> bool:
        """Whether a snapshot after `step` updates is asked for; called between any two calls of the executor."""

    def save(self, snapshot: Snapshot) -> None:
        """Take it; called where one is due, and at the end. The tensors may be changed later."""


class KeepNothing:
    """A keeper that never asks."""

    def due(self, step: int) -> bool:
        return False

    def save(self, snapshot: Snapshot) -> None:
        pass


def train(
    population: Population,
    executor: Executor,
    plan: Plan,
    emit: EmitRecords,
    watch: Callable[[Moment], None] = lambda moment: None,
    start: Snapshot | None = None,
    keeper: Keeper | None = None,
) -> Tree:
    """Train up to `plan.steps` updates, from the beginning or from `start`; the final state.

    Every record goes to `emit`, those of the steps after `start` only; the tensors of `start` are taken over, and its
    state left empty. Stops early when every replica has turned non-finite.
    """
    return _Training(population, executor, plan, emit, watch, start, keeper or KeepNothing()).run()


class _Training:
    """One population under way: what changes on the host."""

    def __init__(
        self,
        population: Population,
        executor: Executor,
        plan: Plan,
        emit: EmitRecords,
        watch: Callable[[Moment], None],
        start: Snapshot | None,
        keeper: Keeper,
    ) -> None:
        start = start or Snapshot(initial_state(population), 0, -1, {}, seconds=0.0)
        self.population, self.executor, self.plan = population, executor, plan
        self.emit, self.watch, self.keeper = emit, watch, keeper
        self.state, self.step, self.task = dict(start.state), start.step, start.task
        start.state.clear()  # or whoever has called would hold these tensors for the whole run
        self.so_far, self.ended = TaskSoFar(**start.so_far), start.ended
        self.events = Events(population, after=start.step)
        self.began = time.perf_counter() - start.seconds
        self.timed = (start.step, time.perf_counter(), 0.0)  # when the last window ended; compiled for so long by then

    def run(self) -> Tree:
        stream, plan = self.population.stream, self.plan
        tables: Tree = {}
        boundary = self.step  # tables follow from the step
        while self.step < plan.steps and not self.ended:
            task, in_task = stream.locate(self.step)
            length, task_began = stream.task_length(task), self.step - in_task
            if task != self.task:
                self._begin_task(task)
            if self.step == boundary:
                tables, boundary = stream.prepare(self.step), stream.next_boundary(self.step)
            window_end, epoch_end = (
                task_began + _next(in_task, every, length) for every in (plan.window_steps, stream.epoch_length(task))
            )
            evaluates = bool(plan.due("epoch_end"))
            cuts = (plan.steps, boundary, window_end, plan.next_periodic(self.step), *([epoch_end] * evaluates))
            self._stretch(min(cuts), tables)
            moment = self._end_window() if self.step in (window_end, plan.steps) else None
            self.emit(self._measured(plan.periodic(self.step)))
            if evaluates and self.step == epoch_end:
                self._end_epoch()
            if self.step == task_began + length:
                self._end_task(length)
            if moment is not None:
                self.watch(moment)
                self.ended = not moment.alive.any()
        self.ended = True
        self.keeper.save(self._snapshot(self.state, self.step))
        return self.state

    def _snapshot(self, state: Tree, step: int) -> Snapshot:
        seconds = time.perf_counter() - self.began
        return Snapshot(state, step, self.task, asdict(self.so_far), seconds, self.ended)

    def _clock(self) -> Clock:
        """Of the step to come, in the running task (at its end: one step past its last)."""
        now = (self.step, self.task, self.step - self.population.stream.task_start(self.task))
        return Clock(*(torch.tensor(value, device=self.population.device) for value in now))

    def _measured(self, metrics: Sequence[Metric]) -> list[Record]:
        return as_records(self._measure(metrics), self.state, self.step, self.task)

    def _measure(self, metrics: Sequence[Metric]) -> dict[str, torch.Tensor]:
        if not metrics:
            return {}
        with all_cores():  # a step may be too small for them, but a probe has many examples
            return measure(self.population, self.state, metrics, self.task, self.step)

    def _call(self, hook: str, *arguments: dict[str, torch.Tensor]) -> None:
        self.state = call_task_hook(self.population, self.state, self._clock(), hook, self.task, *arguments)

    def _begin_task(self, task: int) -> None:
        self.task, self.so_far = task, TaskSoFar()
        if task:
            self._call("begin_task")
        self.emit(self._measured(self.plan.due("task_start")))

    def _stretch(self, stop: int, tables: Tree) -> None:
        """The steps up to `stop`, with a snapshot between two calls where one is due."""
        began, events = self.step, self.events.until(self.step, stop)
        if self.keeper.due(began):
            self.keeper.save(self._snapshot(self.state, began))
        steps, idle = stop - began, self.events.idle
        for made, reached in self.executor.calls(self.state, self._clock(), steps, tables, events, idle):
            if began + made < stop and self.keeper.due(began + made):  # at `stop` there are records to come
                self.keeper.save(self._snapshot(reached(), began + made))
        self.state, self.step = reached(), stop

    def _end_window(self) -> Moment:
        window, self.state = _read_window(self.population, self.state)
        alive, died_at = (self.state[key].cpu().numpy() for key in ("alive", "died_at"))
        self.emit([*_window_records(window, self.step, self.task), *self._time_records()])
        self.so_far.add_window(window)
        return Moment(self.step, self.task, alive, died_at, self.executor.preparing.seconds)

    def _time_records(self) -> list[Record]:
        """`time/seconds` since training began; `time/steps_per_second` since the last window, compiling left out."""
        now, compiled, (step, ended, before) = time.perf_counter(), self.executor.preparing.seconds, self.timed
        self.timed = (self.step, now, compiled)
        rate = (self.step - step) / (now - ended - (compiled - before))
        values = {"seconds": now - self.began, "steps_per_second": rate}
        everyone = np.ones(self.population.replicas)
        return [Record(self.step, self.task, f"time/{tag}", value * everyone) for tag, value in values.items()]

    def _end_epoch(self) -> None:
        results = self._measure(self.plan.due("epoch_end"))
        records = as_records(results, self.state, self.step, self.task)
        self.so_far.add_evaluations(records)
        self.emit(records)
        self._call("after_evaluation", results)

    def _end_task(self, length: int) -> None:
        self.emit(self.so_far.records(length, self.step, self.task))
        self._call("end_task")
        self.emit(self._measured(self.plan.due("task_end")))


def _next(in_task: int, every: int, length: int) -> int:
    """The next multiple of `every` after `in_task`, or the task's end if that comes first."""
    return min(length, (in_task // every + 1) * every)


def as_records(results: dict[str, torch.Tensor], state: Tree, step: int, task: int) -> list[Record]:
    """Measured values on the host; a frozen replica's are NaN."""
    return [
        Record(step, task, tag, torch.where(state["alive"], value.double(), torch.nan).cpu().numpy())
        for tag, value in results.items()
    ]


def _read_window(population: Population, state: Tree) -> tuple[dict[str, np.ndarray], Tree]:
    """The window's sums on the host, and the state with a new window begun."""
    sums = state["online"]
    fresh = empty_window(population)
    for carried in ("pending", "pending_loss"):
        if carried in sums:
            fresh[carried] = sums[carried]
    read = {tag: value.cpu().numpy() for tag, value in sums.items() if not tag.startswith("pending")}
    return read, {**state, "online": fresh}


def _window_records(sums: dict[str, np.ndarray], step: int, task: int) -> list[Record]:
    """`online/...` means, `strategy/...` sums, and mean losses around reinitialisations, of one window."""
    means = ("loss", "accuracy")
    records = [Record(step, task, f"online/{tag}", mean(sums[tag], sums["steps"])) for tag in means if tag in sums]
    for tag, value in sums.items():
        if tag not in (*means, "steps", "events", "loss_before", "loss_after"):
            records.append(Record(step, task, f"strategy/{tag}", _where_trained(value, sums["steps"])))
    if "events" in sums and sums["events"].any():
        for tag in ("loss_before", "loss_after"):
            records.append(Record(step, task, f"strategy/{tag}_reinitialization", mean(sums[tag], sums["events"])))
    return records


def _where_trained(value: np.ndarray, steps: np.ndarray) -> np.ndarray:
    return np.where(steps > 0, value, np.nan)
