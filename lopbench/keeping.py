"""When a run writes checkpoints, and which of them it keeps."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
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
    """The checkpoints of a run, oldest first: of those that are not kept for good the `last` of all are left.

    Whatever an earlier process was killed over, half written or not yet removed, goes at once.
    """

    def __init__(self, workdir: str | Path, last: int) -> None:
        self._last = last
        found = [(population, checkpoint.step_of(path) or 0, path) for population, path in checkpoint.files_of(workdir)]
        self._paths = [path for _, _, path in sorted(found)]
        self._remove_old()
        for aside in Path(workdir).glob("checkpoints/population-*/.*.tmp"):
            files.remove(aside)

    def add(self, path: Path) -> None:
        """Note that `path` was written; remove those that are now too old."""
        self._paths = [*(other for other in self._paths if other != path), path]
        self._remove_old()

    def _remove_old(self) -> None:
        old, self._paths = self._paths[: -self._last], self._paths[-self._last :]
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
        self._clock, self._saved_at, self._saved_when = clock, saved_at, clock()
        self._kept = _starts(stream, rule.keep_tasks, steps)
        self._tasks = {**_starts(stream, rule.tasks, steps), **self._kept}
        folder = self._path().parent
        for above in (folder.parent, folder):  # and not the workdir, which may be lost with its disk
            files.make_folder(above, parents=False)

    def due(self, step: int) -> bool:
        if self._request:
            return True
        if step == self._saved_at:
            return False
        rule = self._rule
        return (
            step in self._tasks
            or (rule.steps is not None and step // rule.steps > (self._saved_at or 0) // rule.steps)
            or (rule.minutes is not None and self._clock() - self._saved_when >= 60 * rule.minutes)
        )

    def save(self, snapshot: Snapshot) -> None:
        """Write the snapshot, unless it is there; raises `StoppedError` if that was asked for."""
        step = snapshot.step
        if step != self._saved_at or snapshot.ended:
            path = self._path_for(snapshot)
            self._write(path, snapshot)
            self._written.add(path)
            self._saved_at, self._saved_when = step, self._clock()
        if self._request and not snapshot.ended:
            raise StoppedError(f"Stopped by {self._request.name} after {step:,} updates.", self._request.status)

    def _path_for(self, snapshot: Snapshot) -> Path:
        if snapshot.ended:
            return self._path()
        return self._path(task=self._kept.get(snapshot.step), step=snapshot.step)


def _starts(stream: Stream, every: int | None, steps: int) -> dict[int, int]:
    """`{first step: task}` of every `every`-th task of a run of so many updates."""
    if every is None:
        return {}
    last, _ = stream.locate(steps - 1)
    return {stream.task_start(task): task for task in range(0, last + 1, every)}
