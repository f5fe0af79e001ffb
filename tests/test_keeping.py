"""When checkpoints are due, which of them stay, and that a signal is answered with one."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from lopbench import checkpoint
from lopbench.checkpoint import path_of
from lopbench.errors import StoppedError, UserError
from lopbench.keeping import Files, Keeper, Rule
from lopbench.signals import Request
from lopbench.training import Snapshot
from tests.helpers import TinyStream

NEVER = Rule(minutes=None)
STEPS = 20


class Watched(Keeper):
    """A keeper of a run of 20 updates in tasks of 5, whose state is empty; `now` is its clock."""

    def __init__(self, workdir: Path, rule: Rule, saved_at: int | None = None, population: int = 0) -> None:
        self.now, self.asked, self.workdir = 0.0, Request(), workdir
        stream = TinyStream(torch.tensor([1]), steps_per_task=5)
        self.files = Files(workdir, rule.last)
        super().__init__(
            *(rule, workdir, population, stream, STEPS, lambda path, snapshot: checkpoint.save(path, snapshot, [])),
            *(self.files, self.asked, saved_at, lambda: self.now),
        )

    def run(self, steps: Iterable[int] = range(STEPS), end: bool = False) -> list[int]:
        """The steps at which a snapshot was asked for, of those at which it could be."""
        found = [step for step in steps if self.due(step) and not self.save(snapshot(step))]  # type: ignore[func-returns-value]
        if end:
            self.save(snapshot(STEPS, ended=True))
        return found

    @property
    def names(self) -> list[str]:
        return sorted(path.stem for path in self.workdir.glob("checkpoints/*/*"))


def snapshot(step: int, ended: bool = False) -> Snapshot:
    return Snapshot({}, step, step // 5, {}, seconds=0.0, ended=ended)


def steps(*numbers: int) -> list[str]:
    return [f"step-{number:012d}" for number in numbers]


def test_by_steps_it_is_due_at_the_first_call_that_ends_at_a_multiple_or_later(tmp_path: Path) -> None:
    assert Watched(tmp_path, Rule(None, steps=7)).run() == [7, 14]
    assert Watched(tmp_path, Rule(None, steps=7)).run(range(0, STEPS, 3)) == [9, 15]
    assert Watched(tmp_path, Rule(None, steps=7), saved_at=14).run(range(14, STEPS)) == []


def test_by_minutes_it_is_due_once_they_have_passed_since_the_last(tmp_path: Path) -> None:
    keeper = Watched(tmp_path, Rule(minutes=1.5, steps=10))
    asked = []
    for step in range(STEPS):
        keeper.now = 20.0 * step
        asked += keeper.run([step])
    assert asked == [5, 10, 15]  # at 90 seconds it was not yet step 5; at 10 by steps, from where minutes count anew


def test_by_tasks_it_is_due_as_every_nth_task_begins(tmp_path: Path) -> None:
    assert Watched(tmp_path, Rule(None, tasks=2)).run() == [0, 10]
    assert Watched(tmp_path, NEVER).run() == []


def test_the_last_ones_stay_and_the_end_is_one_of_them(tmp_path: Path) -> None:
    keeper = Watched(tmp_path, Rule(None, steps=3, last=2))
    keeper.run()
    assert keeper.names == steps(15, 18)
    keeper.run([], end=True)
    assert keeper.names == ["end", *steps(18)]
    later = Watched(tmp_path, Rule(None, steps=3, last=2), population=1)
    later.run([3])
    assert later.names == ["end", *steps(3)]  # of the population before only its end is left
    later.files.finish()
    assert later.names == ["end"]


def test_those_of_every_nth_task_stay_for_good(tmp_path: Path) -> None:
    keeper = Watched(tmp_path, Rule(None, steps=3, last=1, keep_tasks=2))
    assert keeper.run(end=True) == [0, 3, 6, 9, 10, 12, 15, 18]
    assert keeper.names == ["end", "task-0000", "task-0002"]


def test_what_an_earlier_process_has_left_is_counted(tmp_path: Path) -> None:
    """Whatever can't be read is the first to go."""
    for step in (3, 6):
        path_of(tmp_path, 0, step=step).parent.mkdir(parents=True, exist_ok=True)
        path_of(tmp_path, 0, step=step).touch()
    keeper = Watched(tmp_path, Rule(None, steps=3, last=2), saved_at=6)
    keeper.run(range(6, 10))
    assert keeper.names == steps(6, 9)


@pytest.mark.parametrize(
    "number, status, name",
    [(signal.SIGTERM, 75, "SIGTERM"), (signal.SIGUSR1, 75, "SIGUSR1"), (signal.SIGINT, 130, "Ctrl-C")],
)
def test_a_signal_is_answered_with_a_checkpoint_and_an_exit_status(
    tmp_path: Path, number: int, status: int, name: str
) -> None:
    keeper = Watched(tmp_path, NEVER)
    keeper.asked.signal = signal.Signals(number)
    assert keeper.due(4)
    with pytest.raises(StoppedError, match=f"Stopped by {name} after 4 updates") as stopped:
        keeper.save(snapshot(4))
    assert stopped.value.status == status
    assert keeper.names == steps(4)


def test_what_is_to_be_kept_from_now_on_is_written_where_the_run_goes_on(tmp_path: Path) -> None:
    Watched(tmp_path, Rule(None, steps=10)).run(range(11))
    assert Watched(tmp_path, Rule(None, keep_tasks=2), saved_at=10).run(range(10, STEPS)) == [10]
    assert Watched(tmp_path, Rule(None, keep_tasks=2), saved_at=10).run(range(10, STEPS)) == []


def test_a_signal_at_the_very_end_of_a_population_does_not_lose_its_end(tmp_path: Path) -> None:
    keeper = Watched(tmp_path, NEVER)
    keeper.asked.signal = signal.SIGTERM
    keeper.save(snapshot(STEPS, ended=True))
    assert keeper.names == ["end"]


def test_a_workdir_that_has_vanished_is_not_made_again(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="its folder does not exist"):
        Watched(tmp_path / "gone", NEVER)
    assert not (tmp_path / "gone").exists()
