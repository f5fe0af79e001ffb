"""A run under way: its populations one after another, with loggers and checkpoints; begun, or gone on with."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import torch

from lopbench import checkpoint
from lopbench.choosing import Choice
from lopbench.errors import StoppedError, UserError, require
from lopbench.keeping import Files, Keeper
from lopbench.lock import Held
from lopbench.loggers.console import Progress
from lopbench.loggers.records import Logger, Record, name_of
from lopbench.loggers.table import Table
from lopbench.loggers.tensorboard import HEADLINE, TensorBoard
from lopbench.population import map_tree
from lopbench.precision import multiplying
from lopbench.resume import Standing, Start
from lopbench.shortage import naming_shortage
from lopbench.signals import Request
from lopbench.training import Moment, Snapshot, train
from lopbench.variants import Group

CHECK_SECONDS = 1.0  #: how often the lock is looked at, which is a file on what may be a slow disk


class Running:
    """The populations of a run, trained one after another.

    texts: what TensorBoard shows. config, data: digests of what was asked for, and of each data set. start: what it
    goes on from; None: it begins. held: its hold on the workdir. request: whether a signal asks it to stop.
    `begun`: the population that is under way at the start. `died`: `{replica's index: updates it completed}` of those
    that turned non-finite. `compile_seconds`: of each population, by its variants' names, in this process.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        choices: Sequence[Choice],
        workdir: Path,
        texts: Mapping[str, str],
        config: str,
        data: dict[str, str],
        start: Start | None,
        held: Held,
        request: Request,
    ) -> None:
        self.groups, self.choices, self.workdir = groups, choices, workdir
        self._config, self._data, self._held, self._request = config, data, held, request
        standing = start.standing if start else None
        self._start = start.checkpoint if start else None
        if self._start and standing and standing.ended:
            self._start.state.clear()  # which nothing goes on from
            self._start = None
        self._checked = time.monotonic()
        self.compile_seconds: dict[str, float] = {}
        self.died = dict(standing.died) if standing else {}
        self.begun = standing.population + standing.ended if standing else 0
        self._seconds = standing.seconds if standing else 0.0
        replicas = [replica for g in groups for replica in g.replicas]
        classifies = groups[0].first.stream.problem.loss == "cross_entropy"
        self._table = Table(workdir, replicas, position=standing.table if standing else None)
        self._board = TensorBoard(
            workdir,
            replicas,
            total_steps=max(g.plan.steps for g in groups),
            headline=HEADLINE if classifies else ("task/online_loss",),
            position=standing.tensorboard if standing else None,
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
            self._written.finish()

    def _train(self, number: int, g: Group, choice: Choice) -> None:
        done = self._start.step if self._start else None
        note = choice.described(len(g.replicas))
        self._progress.start(g.names, g.plan.steps, note, done=done or 0)
        writes = (partial(self._write, number), self._written, self._request, done)
        keeper = Keeper(g.first.checkpoints, self.workdir, number, g.first.stream, g.plan.steps, *writes)
        population, reports = g.population(), (partial(self._emit, g), partial(self._watch, g))
        with (
            naming_shortage(population, choice, g.names),
            deterministic(g.first.deterministic),
            multiplying(g.first.precision),
            self._stopping(),
        ):
            start = self._snapshot(population.device)
            train(population, choice.build(population), g.plan, *reports, start, keeper)

    def _snapshot(self, device: torch.device) -> Snapshot | None:
        """What the population under way goes on from, on its device; None: it begins."""
        found, self._start = self._start, None
        if found is None:
            return None
        state = map_tree(lambda leaf: leaf.to(device), found.state)
        found.state.clear()  # whoever holds the checkpoint shall not hold its tensors
        return Snapshot(state, found.step, found.task, found.so_far, self._seconds)

    @contextmanager
    def _stopping(self) -> Iterator[None]:
        """What fails once a signal has come fails of it: schedulers signal a compiler that is at work, too."""
        try:
            yield
        except Exception as error:
            if not self._request or isinstance(error, UserError | StoppedError):
                raise
            told = f"Stopped by {self._request.name}, which ended what was at work ({type(error).__name__}): the same"
            raise StoppedError(f"{told} command goes on from the last checkpoint.", self._request.status) from error

    def _emit(self, g: Group, records: Sequence[Record]) -> None:
        if time.monotonic() - self._checked >= CHECK_SECONDS:  # before anything is written: this process may have slept
            self._held.check()
            self._checked = time.monotonic()
        for logger in (self._table, self._board, self._progress):
            logger.write(g.replicas, records)

    def _watch(self, g: Group, moment: Moment) -> None:
        self._progress.advance(moment.step)
        names = ", ".join(g.names)
        if moment.preparing and names not in self.compile_seconds:
            self._progress.say(f"compiling took {moment.preparing:.1f} seconds")
        if moment.preparing:
            self.compile_seconds[names] = round(moment.preparing, 3)
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
        standing = Standing(
            population=number,
            ended=snapshot.ended,
            seconds=snapshot.seconds,
            table=self._table.position,
            tensorboard=self._board.position,
            died=self.died,
            choices=[vars(choice) for choice in self.choices],
            config=self._config,
            data=self._data,
        )
        checkpoint.save(path, snapshot, self.groups[number].replicas, vars(standing))

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
