"""Keeps the jobs of a study going until every population has finished or failed."""

from __future__ import annotations

import collections
import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lopbench.errors import UserError

from . import populations
from .board import Board
from .overview import Line, count, failures
from .slurm_job import Task
from .slurm_queue import Jobs, queued
from .standing import Standing

#: how often a population's job may be lost and is submitted again
RESUBMISSIONS = 1


class Watch:
    """The populations of a study, a task each in the ledger's order, and their jobs.

    parameters: submitit's, of every job. Raises `UserError` if SLURM does not answer.
    """

    def __init__(
        self, standing: Standing, jobs: Jobs, tasks: Sequence[Task], parameters: Mapping[str, Any], board: Board
    ) -> None:
        self._standing, self._jobs, self._tasks = standing, jobs, tasks
        self._parameters, self._board = parameters, board
        self._lost: collections.Counter[str] = collections.Counter()
        self._failed: dict[str, str] = {}  # of what, by folder
        self._queue, self._answers = queued(), True

    def submit(self) -> None:
        """Submit what has not finished, is not in the queue and is not being trained by anybody else."""
        states = collections.Counter[str]()
        new = []
        for task, line in self._lines():
            in_queue = self._jobs.latest(task.folder) in self._queue
            states["in the queue" if in_queue else line.state] += 1
            if not in_queue and line.state not in ("finished", "running"):
                new.append(task)
        self._submit(new)
        told = {
            "finished": states["finished"],
            "in the queue": states["in the queue"],
            "running outside of it": states["running"],
            "submitted": len(new),
        }
        text = ", ".join(f"{number} {what}" for what, number in told.items() if number)
        self._board.say(f"{count(len(self._tasks), 'population')}: {text}.")

    def until_the_end(self, every: float) -> bool:
        """Show how far it is, every so many seconds, until nothing is queued or running; whether all has finished."""
        while True:
            self._look()
            lines = [line for _, line in self._lines()]
            self._board.show(lines)
            if not any(line.state in ("queued", "running") for line in lines):
                return all(line.state == "finished" for line in lines)
            time.sleep(every)

    def _look(self) -> None:
        """Ask for the queue; submit again what was lost, and note what has failed."""
        try:
            self._queue = queued()  # before the folders are looked at: a job leaves it after its last trace there
        except UserError as error:
            if self._answers:
                self._board.say(f"{error} It is asked again.")
            self._answers = False
            return
        self._answers = True
        again = []
        for task, line in self._lines():
            job = self._jobs.latest(task.folder)
            if job is None or job in self._queue or line.state == "finished" or task.folder in self._failed:
                continue
            if self._jobs.ended_by_itself(job):
                self._fail(task, line, line.error or populations.last_line(Path(line.log)))
            elif self._lost[task.folder] == RESUBMISSIONS:
                self._fail(
                    task, line, f"its job was lost {RESUBMISSIONS + 1} times, {self._jobs.log(job)} may tell why"
                )
            else:
                self._lost[task.folder] += 1
                self._board.say(f"Job {job} was lost (killed, cancelled, or its node): {line.name} is submitted again.")
                again.append(task)
        self._submit(again)

    def _fail(self, task: Task, line: Line, error: str) -> None:
        self._failed[task.folder] = error
        self._board.say(*failures([self._with_job(task, line)]))

    def _submit(self, tasks: Sequence[Task]) -> None:
        if tasks:
            self._jobs.submit(tasks, self._parameters)
            self._queue |= {str(self._jobs.latest(task.folder)): "PENDING" for task in tasks}

    def _lines(self) -> list[tuple[Task, Line]]:
        """Each task with how its population stands; populations that came to the study since are not ours."""
        pairs = zip(self._tasks, self._standing.lines(), strict=False)
        return [(task, self._with_job(task, line)) for task, line in pairs]

    def _with_job(self, task: Task, line: Line) -> Line:
        if line.state == "finished":
            return line
        if task.folder in self._failed:
            return dataclasses.replace(line, state="failed", error=self._failed[task.folder])
        if line.state != "running" and self._jobs.latest(task.folder) in self._queue:
            return dataclasses.replace(line, state="queued")
        return line
