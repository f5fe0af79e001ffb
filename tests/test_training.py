"""The loop over tasks of different lengths: where it cuts, in which order it acts, what the hooks are told."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lopbench.executors import Looped, Stacked
from lopbench.learner import Learner, initial_state
from lopbench.loggers.records import Record
from lopbench.metrics import Evaluation, WeightMagnitude
from lopbench.population import Population
from lopbench.protocols import Strategy, Tree
from lopbench.training import KeepNothing, Plan, Snapshot, train
from tests.helpers import TinyStream, tiny_population

LENGTHS = (4, 6, 2)


@dataclass(frozen=True)
class Growing(TinyStream):
    """Three tasks of 4, 6 and 2 steps in epochs of 2; task k has the first k + 1 classes only."""

    steps_per_task: Any = LENGTHS
    tasks: int | None = 3

    def next_boundary(self, step: int) -> int:
        task, _ = self.locate(step)
        return self.task_start(task) + self.task_length(task)

    def epoch_length(self, task: int) -> int:
        return 2

    def readout(self, outputs: Tensor, task: Tensor) -> Tensor:
        shown = torch.arange(self.classes, device=outputs.device) <= task
        return torch.where(shown, outputs, -torch.inf)

    def batches(self, tables: Tree, clock: Any, n: int) -> tuple[Tensor, Tensor]:
        x, y = super().batches(tables, clock, n)
        return x, y.clamp(max=clock.task)

    def probe(self, split: str, size: int, task: int, step: int = 0) -> tuple[Tensor, Tensor]:
        x, y = super().probe(split, size, task, step)
        return x, y.clamp(max=task)

    def probe_count(self, split: str, task: int) -> int | None:
        return 0 if split == "old" and task == 0 else None


@dataclass(frozen=True)
class Diary(Strategy):
    """Sets a weight to the number of the hook that was called last, and remembers the last evaluation."""

    def init(self, learner: Learner) -> Tree:
        return {"score": torch.zeros_like(learner.seeds, dtype=learner.population.dtype)}

    def begin_task(self, learner: Learner) -> None:
        self._mark(learner, 1.0)

    def end_task(self, learner: Learner) -> None:
        self._mark(learner, 2.0)

    def after_evaluation(self, learner: Learner, results: Any) -> None:
        learner.state["score"] = results["evaluation/accuracy.test"].to(learner.population.dtype)
        self._mark(learner, 3.0)

    @staticmethod
    def _mark(learner: Learner, value: float) -> None:
        everywhere = torch.ones_like(learner.parameters["output.bias"], dtype=torch.bool)
        learner.assign("output.bias", value, everywhere)


def population(*strategies: Strategy) -> Population:
    made = tiny_population(strategies, replicas=2, dtype=torch.float64)
    return replace(made, stream=Growing(made.seeds, dtype=torch.float64))


def trained(p: Population, plan: Plan, **options: Any) -> tuple[Tree, list[Record]]:
    records: list[Record] = []
    return train(p, Stacked(p, 2), plan, records.extend, **options), records


class Always(KeepNothing):
    """Takes a snapshot wherever it is asked."""

    def __init__(self) -> None:
        self.taken: list[Snapshot] = []

    def due(self, step: int) -> bool:
        return True

    def save(self, snapshot: Snapshot) -> None:
        self.taken.append(snapshot)


EVALUATION = Evaluation(every="epoch_end", probe_size=9, probe_split=("test", "old"))
AT_ENDS = WeightMagnitude(every="task_end")


def test_windows_epochs_and_tasks_end_where_the_lengths_say() -> None:
    _, records = trained(population(), Plan(12, window_steps=3, metrics=(EVALUATION, AT_ENDS)))

    def steps(tag: str) -> list[tuple[int, int]]:
        return [(record.step, record.task) for record in records if record.tag == tag]

    assert steps("online/loss") == [(3, 0), (4, 0), (7, 1), (10, 1), (12, 2)]
    assert steps("evaluation/accuracy.test") == [(2, 0), (4, 0), (6, 1), (8, 1), (10, 1), (12, 2)]
    assert steps("evaluation/accuracy.old") == [(6, 1), (8, 1), (10, 1), (12, 2)]  # of nothing, nothing
    assert steps("task/online_loss") == steps("task/best_accuracy.test") == steps("weights/magnitude")
    assert steps("task/online_loss") == [(4, 0), (10, 1), (12, 2)]


def test_outputs_that_do_not_count_yet_take_no_part() -> None:
    end, records = trained(population(), Plan(4, window_steps=4, metrics=(EVALUATION,)))
    loss = next(record.values for record in records if record.tag == "online/loss")
    assert (loss == 0).all()  # of one class the first task's softmax is certain, whatever the outputs
    first = initial_state(population())["parameters"]
    for name, value in end["parameters"].items():
        assert torch.equal(value, first[name])
    accuracy = [record.values for record in records if record.tag == "evaluation/accuracy.test"]
    assert all((value == 1).all() for value in accuracy)


def test_the_hooks_come_in_order_and_see_the_evaluation() -> None:
    keeper = Always()
    end, records = trained(population(Diary()), Plan(12, 100, (EVALUATION, AT_ENDS)), keeper=keeper)
    assert [one.ended for one in keeper.taken] == [False] * 6 + [True]
    bias = [float(one.state["parameters"]["output.bias"][0, 0]) for one in keeper.taken]
    marks = {(one.step, one.task): value for one, value in zip(keeper.taken, bias, strict=True)}
    assert [at for at in marks if at[0] in (0, 4, 10, 12)] == [(0, 0), (4, 1), (10, 2), (12, 2)]
    assert marks[4, 1] == marks[10, 2] == 1  # a task begins after the one before ended
    assert marks[12, 2] == 2  # and its end comes after its last evaluation
    last = [record.values for record in records if record.tag == "evaluation/accuracy.test"][-1]
    assert end["strategies"]["0"]["score"].tolist() == last.tolist()
    assert biases(records) == [2, 2, 2]  # metrics of "task_end" see what `end_task` left


def test_metrics_see_what_was_there_before_the_evaluation_was_acted_on_and_after_the_task_began() -> None:
    _, records = trained(population(Diary()), Plan(12, 100, (EVALUATION, WeightMagnitude(every="task_start"))))
    assert biases(records)[1:] == [1, 1]
    _, records = trained(population(Diary()), Plan(6, 100, (EVALUATION, WeightMagnitude(every="epoch_end"))))
    assert biases(records)[0] == 0  # not yet the 3 that the hook leaves


def biases(records: list[Record]) -> list[float]:
    return [record.values[0] for record in records if record.tag == "weights/magnitude.output.bias"]


@pytest.mark.parametrize("steps", [1, 5, 11])
def test_replicas_in_turn_do_the_same(steps: int) -> None:
    p, plan = population(), Plan(steps, 3, (EVALUATION,))
    stacked, _ = trained(p, plan)
    looped = train(p, Looped(p, 2), plan, lambda records: None)
    for name, value in stacked["parameters"].items():
        torch.testing.assert_close(looped["parameters"][name], value)
