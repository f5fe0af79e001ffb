"""A run that goes on from a checkpoint is the run that was never stopped, to the bit: for every registered part.

Each population trains once without a stop; then again from a file written at every place where one can be, and every
record and tensor from there on must be equal. All in this process, eagerly; end_to_end/test_kills.py kills processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lopbench import checkpoint
from lopbench.architectures import MLP
from lopbench.executors import Executor, Looped, Stacked
from lopbench.loggers.records import Record, Replica
from lopbench.metrics import Evaluation, WeightMagnitude
from lopbench.optimizers.adam import Adam
from lopbench.population import Population
from lopbench.protocols import Metric, Tree
from lopbench.strategies import ContinualBackprop, RestoreBest, SelectiveWeightReinit
from lopbench.training import KeepNothing, Plan, Snapshot, train
from tests.helpers import tiny_population
from tests.test_checkpoint import assert_same
from tests.test_conformance import EVERY_ROW, IMAGES, Row, build, every, images, of_the_package, parts, population
from tests.test_training import Growing

SMALL = replace(IMAGES, train_size=200)
Make = Callable[[Population], Executor]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """As a run of tiny networks has it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Keeping(KeepNothing):
    """Writes a checkpoint at some steps, or at every step where one can be."""

    def __init__(self, folder: Path, replicas: int, at: tuple[int, ...] | None = None) -> None:
        self.folder, self.at, self.files = folder, at, dict[int, Path]()
        self.replicas = [Replica(number, "base", number) for number in range(replicas)]

    def due(self, step: int) -> bool:
        return self.at is None or step in self.at

    def save(self, snapshot: Snapshot) -> None:
        if not snapshot.ended:
            self.files[snapshot.step] = self.folder / f"{snapshot.step}.safetensors"
            checkpoint.save(self.files[snapshot.step], snapshot, self.replicas)


def stacked(p: Population) -> Executor:
    return Stacked(p, 2)


def trained(p: Population, plan: Plan, make: Make, **options: Any) -> tuple[Tree, list[Record]]:
    records: list[Record] = []
    return train(p, make(p), plan, records.extend, **options), records


def assert_goes_on(
    make_population: Callable[[], Population],
    plan: Plan,
    folder: Path,
    at: tuple[int, ...] | None = None,
    make: Make = stacked,
) -> list[int]:
    """Train without a stop, and from each checkpoint to the end: all must be equal. The steps of the checkpoints."""
    whole = make_population()
    keeper = Keeping(folder, whole.replicas, at)
    end, records = trained(whole, plan, make, keeper=keeper)
    assert_equal(trained(make_population(), plan, make), (end, records))  # writing them changed nothing
    for step, path in keeper.files.items():
        found = checkpoint.load(path)
        start = Snapshot(found.state, found.step, found.task, found.so_far, seconds=1.0)
        later = [record for record in records if record.step > step]  # those of that very step are there already
        assert_equal(trained(make_population(), plan, make, start=start), (end, later))
    return list(keeper.files)


def assert_equal(one: tuple[Tree, list[Record]], other: tuple[Tree, list[Record]]) -> None:
    (state, records), (end, expected) = one, other
    assert_same(state, end)
    numbers = [[r for r in some if not r.tag.startswith("time/")] for some in (records, expected)]
    assert [(r.step, r.task, r.tag) for r in numbers[0]] == [(r.step, r.task, r.tag) for r in numbers[1]]
    for a, b in zip(*numbers, strict=True):
        np.testing.assert_array_equal(a.values, b.values, err_msg=f"{a.tag} after {a.step}")


@EVERY_ROW
def test_with_every_strategy(row: Row, tmp_path: Path) -> None:
    """Two replicas, one of them with the strategy switched off where it can be; 11 updates in tasks of 4."""
    strategies = (row.acts, (row.off or (row.acts,))[0])
    steps = assert_goes_on(lambda: population(*strategies), Plan(11, 3, row.metrics), tmp_path)
    assert set(steps) >= {0, 2, 3, 4, 8}


@pytest.mark.parametrize(
    "make", [stacked, lambda p: Stacked(p, 3), lambda p: Stacked(p, 3, "captured"), lambda p: Looped(p, 2)]
)
def test_with_tasks_of_different_lengths_and_each_executor(make: Make, tmp_path: Path) -> None:
    """Evaluations after each epoch, restoring the best, periodic metrics, rare work that differs between replicas."""
    both = Evaluation(every="epoch_end", probe_size=9, probe_split=("test", "validation"))
    metrics: tuple[Metric, ...] = (both, WeightMagnitude(every=5))
    factors = [SelectiveWeightReinit(reinit_factor=0.5, period=period) for period in (2, 3)]

    def made() -> Population:
        p = tiny_population([RestoreBest(), factors, ContinualBackprop(0.3, maturity_threshold=1)], optimizer=Adam())
        return replace(p, stream=Growing(p.seeds))

    steps = assert_goes_on(made, Plan(12, 3, metrics), tmp_path, make=make)
    assert {0, 3, 4, 6, 7, 10} <= set(steps)


def test_after_a_replica_turned_non_finite(tmp_path: Path) -> None:
    def made() -> Population:
        p = tiny_population(replicas=2, steps_per_task=4)
        rates = np.array([0.1, 1e30])
        return replace(p, hyper={**p.hyper, "optimizer": {**p.hyper["optimizer"], "learning_rate": rates}})

    assert_goes_on(made, Plan(10, 3), tmp_path)
    end, _ = trained(made(), Plan(10, 3), stacked)
    assert end["alive"].tolist() == [True, False]


@every("streams")
def test_with_every_stream(name: str, tmp_path: Path) -> None:
    """Within the first epoch, as the first task ends, and within the second task."""
    stream, epochs = parts("streams")[name], {"batch_size": 10, "epochs_per_task": 2}
    settings: dict[str, Any] = {
        "SlowlyChangingRegression": {"period": 9},
        "ClassIncremental": {"classes_per_task": 2, "validation_per_class": 5, **epochs},
        "ClassSequence": {"train_per_class": 20, "test_per_class": 5, **epochs},
        "RandomLabels": {"examples_per_task": 50, **epochs},
        "PermutedLabels": {"steps_per_task": 9},
    }.get(name, epochs)
    data = SMALL.load(None, "cpu") if stream.needs_source else None  # type: ignore[attr-defined]

    def made() -> Population:
        seeds = torch.tensor([3, 2**40 + 1])
        shown = stream(data=data, seeds=seeds, dtype=torch.float32, **settings)
        module = MLP(shown.problem, width=4, depth=1)
        return replace(tiny_population(module=module, seeds=seeds.tolist()), stream=shown)

    first = made().stream.task_length(0)
    ends = (3, first - 1, first, first + 2)
    assert_goes_on(made, Plan(first + 5, 7), tmp_path, at=ends)


@every("architectures")
def test_with_every_architecture(name: str, tmp_path: Path) -> None:
    """Their buffers (batch norm's statistics) and their draws (dropout) included."""
    settings = {"VisionTransformer": {"dropout": 0.3}}.get(name, {})

    def made() -> Population:
        seeds = torch.tensor([3, 4])
        stream = build("streams", "PermutedInputs", data=images(), seeds=seeds, dtype=torch.float32)
        module = build("architectures", name, problem=stream.problem, **settings)
        return replace(tiny_population(module=module, seeds=seeds.tolist()), stream=stream)

    assert_goes_on(made, Plan(5, 3), tmp_path, at=(2, 3))


@pytest.mark.parametrize("optimizer", of_the_package("optimizers"))
@pytest.mark.parametrize("schedule", of_the_package("schedules"))
def test_with_every_optimizer_and_schedule(optimizer: str, schedule: str, tmp_path: Path) -> None:
    def made() -> Population:
        p = tiny_population(optimizer=build("optimizers", optimizer), steps_per_task=6)
        return replace(p, schedule=build("schedules", schedule, steps_per_task=6))

    assert_goes_on(made, Plan(9, 4), tmp_path, at=(3, 6, 7))
