"""The host's loop over one population: where it cuts the run, and what it does at the cuts.

In this order at a step's start: a new task begins (`begin_task` of strategies, metrics "task_start"), tables
are rebuilt at the stream's boundaries; then a stretch of steps up to the next cut; then a window ends (its
means are recorded), periodic metrics, at an epoch's end metrics "epoch_end" and `after_evaluation`, and at a
task's end its means, `end_task`, metrics "task_end".
Nothing here waits for the device but reading a window or a metric back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lopbench.evaluations import TaskEvaluations
from lopbench.events import Events
from lopbench.executors import Executor
from lopbench.learner import call_task_hook, empty_window, initial_state
from lopbench.loggers.records import Record
from lopbench.population import Population
from lopbench.probing import measure
from lopbench.protocols import Clock, Metric, Tree

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


def train(
    population: Population,
    executor: Executor,
    plan: Plan,
    emit: EmitRecords,
    watch: Callable[[Moment], None] = lambda moment: None,
    state: Tree | None = None,
    save: Callable[[int, int, Tree], None] = lambda step, task, state: None,
) -> Tree:
    """Train for `plan.steps` updates; every record goes to `emit`. Returns the final state.

    `save(step, task, state)` is called when a task begins (as metrics of "task_start" see it) and at the end.

    Stops early when every replica has turned non-finite.
    """
    state = initial_state(population) if state is None else state
    stream, device = population.stream, population.device
    events = Events(population)
    task_sums: dict[str, np.ndarray]
    tables: Tree = {}
    step = boundary = 0
    started = time.perf_counter()
    timed = (step, started)
    while step < plan.steps:
        task, in_task = stream.locate(step)
        length, began = stream.task_length(task), step - in_task
        clock = Clock(*(torch.tensor(value, device=device) for value in (step, task, in_task)))
        if in_task == 0:
            if task:
                state = call_task_hook(population, state, clock, "begin_task", task)
            task_sums, evaluations = {}, TaskEvaluations()
            save(step, task, state)
            emit(as_records(_measured(population, state, plan.due("task_start"), task, step), state, step, task))
        if step == boundary:
            tables = stream.prepare(step)
            boundary = stream.next_boundary(step)
        window_end, epoch_end = (
            began + _next(in_task, every, length) for every in (plan.window_steps, stream.epoch_length(task))
        )
        stop = min(plan.steps, boundary, window_end, plan.next_periodic(step))
        if plan.due("epoch_end"):
            stop = min(stop, epoch_end)
        state = executor.stretch(state, clock, stop - step, tables, events.until(step, stop))
        step, clock = stop, clock.later(stop - step)
        alive = None
        if step in (window_end, plan.steps):
            window, state = _read_window(population, state)
            alive = state["alive"].cpu().numpy()
            emit([*_window_records(window, step, task), *_time_records(population, step, task, started, timed)])
            timed = (step, time.perf_counter())
            task_sums = {tag: task_sums.get(tag, 0) + value for tag, value in window.items()}
        emit(as_records(_measured(population, state, plan.periodic(step), task, step), state, step, task))
        if step == epoch_end and plan.due("epoch_end"):
            results = _measured(population, state, plan.due("epoch_end"), task, step)
            evaluated = as_records(results, state, step, task)
            evaluations.add(evaluated)
            emit(evaluated)
            state = call_task_hook(population, state, clock, "after_evaluation", task, results)
        if step == began + length:
            emit([*_task_records(task_sums, length, step, task), *evaluations.records(step, task)])
            state = call_task_hook(population, state, clock, "end_task", task)
            emit(as_records(_measured(population, state, plan.due("task_end"), task, step), state, step, task))
        if alive is not None:
            watch(Moment(step, task, alive, state["died_at"].cpu().numpy()))
            if not alive.any():
                break
    save(step, stream.locate(max(step - 1, 0))[0], state)
    return state


def _next(in_task: int, every: int, length: int) -> int:
    """The next multiple of `every` after `in_task`, or the task's end if that comes first."""
    return min(length, (in_task // every + 1) * every)


def _measured(
    population: Population, state: Tree, metrics: Sequence[Metric], task: int, step: int
) -> dict[str, torch.Tensor]:
    return measure(population, state, metrics, task, step) if metrics else {}


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


MEANS = {"loss": "loss", "accuracy": "accuracy"}


def _window_records(sums: dict[str, np.ndarray], step: int, task: int) -> list[Record]:
    """`online/...` means, `strategy/...` sums, and mean losses around reinitialisations, of one window."""
    records = [Record(step, task, f"online/{tag}", _ratio(sums[tag], sums["steps"])) for tag in MEANS if tag in sums]
    for tag, value in sums.items():
        if tag not in (*MEANS, "steps", "events", "loss_before", "loss_after"):
            records.append(Record(step, task, f"strategy/{tag}", _where_trained(value, sums["steps"])))
    if "events" in sums and sums["events"].any():
        for tag in ("loss_before", "loss_after"):
            records.append(Record(step, task, f"strategy/{tag}_reinitialization", _ratio(sums[tag], sums["events"])))
    return records


def _time_records(
    population: Population, step: int, task: int, started: float, before: tuple[int, float]
) -> list[Record]:
    """`time/seconds` since training began, and `time/steps_per_second` since the window before."""
    now = time.perf_counter()
    values = {"seconds": now - started, "steps_per_second": (step - before[0]) / (now - before[1])}
    return [Record(step, task, f"time/{tag}", np.full(population.replicas, value)) for tag, value in values.items()]


def _task_records(sums: dict[str, np.ndarray], length: int, step: int, task: int) -> list[Record]:
    """`task/online_...`: means over the task's steps."""
    counted = np.where(sums["steps"] == length, length, 0)  # a replica frozen within the task has no mean of it
    means = {tag: _ratio(sums[tag], counted) for tag in MEANS if tag in sums}
    return [Record(step, task, f"task/online_{tag}", mean) for tag, mean in means.items()]


def _ratio(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """total / count, NaN where nothing was counted (a frozen replica)."""
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def _where_trained(value: np.ndarray, steps: np.ndarray) -> np.ndarray:
    return np.where(steps > 0, value, np.nan)
