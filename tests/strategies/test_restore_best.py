"""Restoring: which epoch's network a task ends with, in each replica, and what is left alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lopbench import config
from lopbench.errors import UserError
from lopbench.executors import Stacked
from lopbench.experiment import build, imitation
from lopbench.learner import Learner
from lopbench.loggers.records import Record
from lopbench.metrics import Evaluation
from lopbench.population import all_finite, map_tree
from lopbench.probing import measure
from lopbench.protocols import Metric, Problem, Strategy
from lopbench.strategies import Baseline, ContinualBackprop, Reset, RestoreBest
from lopbench.training import Plan, train
from lopbench.variants import Surroundings
from tests.helpers import Tensors, TinyStream, call, learner_for, tiny_population

ACCURACY, LOSS = "evaluation/accuracy.validation", "evaluation/loss.validation"


class Counted(nn.Module):
    """One weight, and running statistics that count in integers."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self.w * x[:, :3], {}


def evaluate(learner: Learner, scores: list[float]) -> None:
    """Call the hook as after an epoch: `scores` `[R]` are what the strategy looks at, others look better."""
    strategy = learner.population.strategies[0]
    results = {ACCURACY: torch.ones(len(scores)), LOSS: torch.zeros(len(scores))}
    strategy.after_evaluation(learner, results | {f"evaluation/{strategy.criterion}.validation": torch.tensor(scores)})


def task(learner: Learner, scores: list[list[float]]) -> list[int]:
    """The epoch (from 1) whose network each replica ends a task with, given the scores after each epoch."""
    for epoch, of_replicas in enumerate(scores, start=1):
        learner.parameters = {"w": torch.full_like(learner.parameters["w"], epoch)}
        learner.buffers = {"steps": torch.full_like(learner.buffers["steps"], epoch)}
        evaluate(learner, of_replicas)
    call(learner, "end_task")
    assert learner.parameters["w"][:, 0].tolist() == learner.buffers["steps"].tolist()
    return learner.buffers["steps"].tolist()


def three_replicas(criterion: str) -> Learner:
    return learner_for(Counted(), RestoreBest(criterion), replicas=3)


def test_each_replica_ends_a_task_with_its_best_and_of_equals_with_the_first():
    scores = [[0.2, 0.9, 0.5], [0.6, 0.1, 0.5], [0.4, 0.3, 0.4]]
    assert task(three_replicas("accuracy"), scores) == [2, 1, 1]
    assert task(three_replicas("loss"), scores) == [1, 2, 3]


def test_an_accuracy_of_0_counts_and_what_is_not_finite_does_not():
    nan, inf = torch.nan, torch.inf
    assert task(three_replicas("accuracy"), [[0.0, nan, 0.1], [0.0, 0.0, nan], [nan, nan, nan]]) == [1, 2, 1]
    assert task(three_replicas("loss"), [[inf, nan, 9.0], [7.0, 8.0, -inf]]) == [2, 2, 1]


def test_the_record_is_of_one_task_only():
    learner = three_replicas("accuracy")
    assert task(learner, [[0.9, 0.8, 0.9], [0.7, 0.8, 0.8]]) == [1, 1, 1]
    assert task(learner, [[0.1, 0.2, 0.0], [0.2, 0.1, 0.0]]) == [2, 1, 1]  # all worse than the last task's best
    learner.buffers = {"steps": torch.tensor([7, 8, 9])}
    call(learner, "end_task")  # without an evaluation nothing is restored
    assert learner.buffers["steps"].tolist() == [7, 8, 9]


def test_the_state_stays_finite():
    """Else the population would take the replica for one that diverged, and freeze it."""
    learner = three_replicas("loss")
    evaluate(learner, [0.5, torch.nan, torch.inf])
    assert learner.state["recorded"].tolist() == [True, False, False]
    assert all_finite(learner.state).all()


@dataclass(frozen=True)
class Epochs(TinyStream):
    """Three epochs of two updates a task."""

    steps_per_task: int = 6

    def epoch_length(self, task: int) -> int:
        return 2


METRIC = Evaluation(every="epoch_end", probe_size=40, probe_split=["test", "validation"])


def trained(*strategies: Strategy, metrics: Sequence[Metric] = (METRIC,), updates: int = 6) -> tuple[Any, ...]:
    """A run in tasks of six updates: the population, its last state, and the records."""
    made = tiny_population(strategies, steps_per_task=6, dtype=torch.float64, replicas=3)
    made = replace(made, stream=Epochs(made.seeds, dtype=torch.float64))
    records: list[Record] = []
    plan = Plan(updates, window_steps=6, metrics=tuple(metrics))
    return made, train(made, Stacked(made, 2), plan, records.extend), records


def values(records: list[Record], tag: str) -> Tensor:
    """`[times, R]`."""
    return torch.stack([torch.from_numpy(record.values) for record in records if record.tag == tag])


def test_a_run_s_task_ends_with_the_network_of_its_best_epoch():
    """And what is measured at the task's end is measured of that."""
    at_end = Evaluation(every="task_end", probe_size=40, probe_split="train")
    population, state, records = trained(RestoreBest(), metrics=(METRIC, at_end))
    by_epoch = values(records, ACCURACY)
    assert len(by_epoch) == 3
    assert (by_epoch[-1] < by_epoch.amax(dim=0)).any(), "every replica is best in its last epoch: this shows nothing"
    now = measure(population, state, [METRIC, at_end], task=0)
    torch.testing.assert_close(now[ACCURACY], by_epoch.amax(dim=0))
    torch.testing.assert_close(now["evaluation/accuracy.train"], values(records, "evaluation/accuracy.train")[0])


def test_nothing_else_is_rolled_back():
    cbp = ContinualBackprop(replacement_rate=0.0)
    _, state, _ = trained(RestoreBest(), cbp)
    _, plain, _ = trained(Baseline(), cbp)
    assert not torch.equal(state["parameters"]["hidden.weight"], plain["parameters"]["hidden.weight"])
    map_tree(torch.testing.assert_close, state["optimizer"], plain["optimizer"])
    map_tree(torch.testing.assert_close, state["strategies"]["1"], plain["strategies"]["1"])


def test_a_reset_comes_after_it():
    """The network with which the next task begins is a new one."""
    _, state, _ = trained(RestoreBest(), Reset(), updates=7)
    _, plain, _ = trained(Baseline(), Reset(), updates=7)
    map_tree(torch.testing.assert_close, state["parameters"], plain["parameters"])


@pytest.mark.parametrize(
    "binding", ["metrics.Evaluation.probe_split = 'test'", "metrics.Evaluation.every = 'task_end'"]
)
def test_without_the_evaluation_that_it_needs_a_run_is_refused_before_it_trains(binding):
    generated = ["run.source = @sources.Generated", "sources.Generated.shape = (3, 8, 8)"]
    request = config.read(["incremental_photographs/vit.gin"], [*generated, binding])
    with pytest.raises(UserError) as error:
        build(request, Surroundings(torch.device("cpu"), imitation(torch.device("cpu"))))
    assert error.value.message.startswith(
        "strategies.RestoreBest needs the accuracy on 'validation' examples after each epoch, and nothing measures it: "
        "list @metrics.Evaluation in run.metrics, and bind metrics.Evaluation.every = 'epoch_end' and "
        "metrics.Evaluation.probe_split = ['test', 'validation']."
    )


@dataclass(frozen=True)
class WithoutValidation(TinyStream):
    def probe_count(self, split: str, task: int) -> int | None:
        return 0 if split == "validation" else None


@dataclass(frozen=True)
class Regression(TinyStream):
    @property
    def problem(self) -> Problem:
        return Problem((self.inputs,), self.classes, "squared_error")


def test_a_stream_without_the_split_or_without_classes_is_refused():
    population = tiny_population(module=Tensors({"a": (2,)}))
    population = replace(population, stream=WithoutValidation(population.seeds))
    with pytest.raises(UserError, match=r"strategies.RestoreBest looks at 'validation' examples, of which"):
        RestoreBest().check(population)
    population = replace(population, stream=Regression(population.seeds))
    RestoreBest(criterion="loss").check(population)
    with pytest.raises(UserError, match=r"criterion is 'accuracy', but the stream's loss is squared_error: bind 'los"):
        RestoreBest().check(population)


def test_a_wrong_criterion_is_refused():
    with pytest.raises(UserError, match=r"strategies.RestoreBest.criterion is 'acuracy'.*Did you mean accuracy"):
        RestoreBest(criterion="acuracy")
