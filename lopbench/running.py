"""A run under way: its populations one after another, with loggers and checkpoints; begun, or gone on with."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lopbench import checkpoint
from lopbench.checkpoint import Checkpoint
from lopbench.errors import UserError, require
from lopbench.executors import Choice
from lopbench.keeping import Files, Keeper
from lopbench.keyed_random import LAYOUT_VERSION
from lopbench.lock import Held
from lopbench.loggers.console import Progress
from lopbench.loggers.records import Logger, Record, name_of
from lopbench.loggers.table import Table
from lopbench.loggers.tensorboard import HEADLINE, TensorBoard
from lopbench.memory import naming_shortage
from lopbench.signals import Request
from lopbench.training import Moment, Snapshot, train
from lopbench.variants import Group

CHECK_SECONDS = 1.0  #: how often the lock is looked at, which is a file on what may be a slow disk


class Running:
    """The populations of a run, trained one after another.

    texts: what TensorBoard shows. identity: what a checkpoint keeps to tell this run from others. start: the checkpoint
    that it goes on from; None: it begins. held: its hold on the workdir. request: whether a signal asks it to stop.
    `begun`: the population that is under way at the start. `died`: `{replica's index: updates it completed}` of those
    that turned non-finite.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        choices: Sequence[Choice],
        workdir: Path,
        texts: Mapping[str, str],
        identity: Mapping[str, Any],
        start: Checkpoint | None,
        held: Held,
        request: Request,
    ) -> None:
        self.groups, self.choices, self.workdir = groups, choices, workdir
        self._identity, self._start, self._held, self._request = identity, start, held, request
        self._checked = time.monotonic()
        run = start.run if start and start.run else {}
        self.died: dict[str, int] = dict(run.get("died", {}))
        self.begun = run.get("population", 0) + run.get("ended", False)
        self._seconds = run.get("seconds", 0.0)
        replicas = [replica for g in groups for replica in g.replicas]
        classifies = groups[0].first.stream.problem.loss == "cross_entropy"
        self._table = Table(workdir, replicas, rows=run.get("rows", 0))
        self._board = TensorBoard(
            workdir,
            replicas,
            total_steps=max(g.plan.steps for g in groups),
            headline=HEADLINE if classifies else ("task/online_loss",),
            position=run.get("tensorboard"),
        )
        self._board.texts(texts)
        self._progress = Progress(total_steps=sum(g.plan.steps for g in groups))
        self._written = Files(workdir, groups[0].first.checkpoints.last)

    def train(self) -> None:
        """Train what is left. Raises `StoppedError` after a signal, with a checkpoint written."""
        with self._closing(self._table, self._board, self._progress):
            for number, (g, choice) in enumerate(zip(self.groups, self.choices, strict=True)):
                if number < self.begun:
                    self._progress.pass_by(g.plan.steps)
                else:
                    self._train(number, g, choice)

    def _train(self, number: int, g: Group, choice: Choice) -> None:
        start = self._snapshot(number)
        note = f"{len(g.replicas)} replicas, {choice.executor} ({choice.reason})"
        self._progress.start(g.names, g.plan.steps, note, done=start.step if start else 0)
        keeper = Keeper(
            g.first.checkpoints,
            self.workdir,
            number,
            g.first.stream,
            g.plan.steps,
            partial(self._write, number),
            self._written,
            self._request,
            saved_at=start.step if start else None,
        )
        population = g.population()
        with naming_shortage(population, choice, g.names), deterministic(g.first.deterministic):
            train(
                population,
                choice.build(population),
                g.plan,
                partial(self._emit, g),
                partial(self._watch, g),
                start,
                keeper,
            )

    def _snapshot(self, number: int) -> Snapshot | None:
        """What population `number` goes on from; None: it begins."""
        found, self._start = self._start, None
        if found is None or (found.run or {}).get("ended"):
            return None
        return Snapshot(found.state, found.step, found.task, found.so_far, self._seconds)

    def _emit(self, g: Group, records: Sequence[Record]) -> None:
        for logger in (self._table, self._board, self._progress):
            logger.write(g.replicas, records)

    def _watch(self, g: Group, moment: Moment) -> None:
        if time.monotonic() - self._checked >= CHECK_SECONDS:
            self._held.check()
            self._checked = time.monotonic()
        self._progress.advance(moment.step)
        for replica, alive, step in zip(g.replicas, moment.alive, moment.died_at, strict=True):
            if not alive and str(replica.index) not in self.died:
                self.died[str(replica.index)] = int(step)
                said = f"{name_of(replica)} turned non-finite after {int(step)} updates"
                require(
                    g.first.on_nonfinite == "freeze",
                    f"{said}, and run.on_nonfinite is 'stop'. With 'freeze' the same command goes on without it.",
                )
                self._progress.say(f"{said}: frozen at its last finite values.")

    def _write(self, number: int, path: Path, snapshot: Snapshot) -> None:
        """Write a checkpoint, after everything that it says was written."""
        self._held.check()
        self._table.flush()
        self._board.sync()
        run = {
            "population": number,
            "ended": snapshot.ended,
            "seconds": snapshot.seconds,
            "rows": self._table.rows,
            "tensorboard": self._board.position,
            "died": self.died,
            "choices": [vars(choice) for choice in self.choices],
            "random": LAYOUT_VERSION,
            **self._identity,
        }
        checkpoint.save(path, snapshot, self.groups[number].replicas, run)

    @contextmanager
    def _closing(self, *loggers: Logger) -> Iterator[None]:
        """Close the loggers at the end; after a failure, which is what is told, those that still can be."""
        try:
            yield
        except BaseException:
            with suppress(UserError):
                self._held.check()  # else the files are another process's
                for logger in loggers:
                    with suppress(UserError):
                        logger.close()
            raise
        for logger in loggers:
            logger.close()


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Within this context torch uses algorithms that repeat to the bit, also on a GPU, if that is `wanted`.

    Raises `UserError` if a step has an operation for which there is none.
    """
    if not wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        first = str(error).partition(".")[0]
        raise UserError(f"run.deterministic is True, but {first}. Leave it False, or use --device=cpu.") from error
    finally:
        torch.use_deterministic_algorithms(before)
