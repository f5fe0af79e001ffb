"""When a run writes checkpoints, and which of them it keeps."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path

from lopbench import checkpoint, files
from lopbench.errors import StoppedError
from lopbench.protocols import Stream
from lopbench.signals import Request
from lopbench.training import Snapshot


@dataclass(frozen=True)
class Rule:
    """A checkpoint is due at the first call of the executor that ends after

    minutes: so many minutes of time since the last one; None: not by time.
    steps: each multiple of so many updates; None: not by steps.
    tasks: the start of every n-th task (0, n, 2n, ...); None: not by tasks.

    Of those that a run could go on from the `last` ones stay, and those that are kept for good: at the start of every
    n-th task with `keep_tasks` (None: none), and at each population's end.
    """

    minutes: float | None = 10.0
    steps: int | None = None
    tasks: int | None = None
    last: int = 2
    keep_tasks: int | None = None


class Files:
    """The checkpoints of a run, oldest first: of those that are not kept for good the `last` of all are left."""

    def __init__(self, workdir: str | Path, last: int) -> None:
        self._last = last
        found = [(population, checkpoint.step_of(path) or 0, path) for population, path in checkpoint.files_of(workdir)]
        self._paths = [path for _, _, path in sorted(found)]
        self._leave(last)  # an earlier process may have been killed before it did so

    def add(self, path: Path) -> None:
        """Note that `path` was written; remove those that are now too old."""
        self._paths = [*(other for other in self._paths if other != path), path]
        self._leave(self._last)

    def finish(self) -> None:
        """Remove all that are not kept for good: there is nothing left to go on with."""
        self._leave(0)

    def _leave(self, last: int) -> None:
        first = max(len(self._paths) - last, 0)
        old, self._paths = self._paths[:first], self._paths[first:]
        for other in old:
            if other.name.startswith("step-"):
                files.remove(other)


class Keeper:
    """Keeps one population (see training.Keeper): asks for snapshots by `rule`, and when a signal has come.

    write: writes a snapshot to a path, the folder of which is made here. saved_at: the step of the checkpoint that
    the population goes on from; None: it begins. `clock` gives seconds.
    """

    def __init__(
        self,
        rule: Rule,
        workdir: Path,
        population: int,
        stream: Stream,
        steps: int,
        write: Callable[[Path, Snapshot], None],
        written: Files,
        request: Request,
        saved_at: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rule, self._write, self._written, self._request = rule, write, written, request
        self._path = partial(checkpoint.path_of, workdir, population)
        self._kept = _starts(stream, rule.keep_tasks, steps)
        self._starts = sorted({*_starts(stream, rule.tasks, steps), *self._kept})
        folder = self._path().parent
        for above in (folder.parent, folder):  # and not the workdir, which may be lost with its disk
            files.make_folder(above, parents=False)
        self._clock, self._saved_at = clock, -1 if saved_at is None else saved_at
        if saved_at in self._kept and not self._path(task=self._kept[saved_at]).exists():
            self._saved_at -= 1  # it was not to be kept then, and is now
        self._plan_next()

    def _plan_next(self) -> None:
        """Fix when the next is due: after how many updates, and at what time."""
        rule, done = self._rule, self._saved_at
        later = self._starts[bisect_right(self._starts, done) :]
        multiple = inf if rule.steps is None else (max(done, 0) // rule.steps + 1) * rule.steps
        self._next_step = min(later[0] if later else inf, multiple)
        self._next_time = inf if rule.minutes is None else self._clock() + 60 * rule.minutes

    def due(self, step: int) -> bool:
        # asked between any two calls of the executor, so no more than three comparisons
        return step >= self._next_step or self._request.signal is not None or self._clock() >= self._next_time

    def save(self, snapshot: Snapshot) -> None:
        """Write the snapshot, unless it is there; raises `StoppedError` if that was asked for."""
        step = snapshot.step
        if step != self._saved_at or snapshot.ended:
            path = self._path_for(snapshot)
            self._write(path, snapshot)
            self._written.add(path)
            self._saved_at = step
        self._plan_next()
        if self._request and not snapshot.ended:
            raise StoppedError(
                f"Stopped by {self._request.name} after {step:,} updates: the same command goes on from there.",
                self._request.status,
            )

    def _path_for(self, snapshot: Snapshot) -> Path:
        if snapshot.ended:
            return self._path()
        return self._path(task=self._kept.get(snapshot.step), step=snapshot.step)


def _starts(stream: Stream, every: int | None, steps: int) -> dict[int, int]:
    """`{first step: task}` of every `every`-th task of a run of so many updates."""
    found: dict[int, int] = {}
    task, start = 0, 0
    while every is not None and start < steps:
        if task % every == 0:
            found[start] = task
        start += stream.task_length(task)
        task += 1
    return found
