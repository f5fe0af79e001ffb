"""Dry runs: the memory that a plan states is what a run takes, and no more is made than there is room for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import gin
import pytest
import torch

from lopbench import config, dry_run
from lopbench.choosing import Choice
from lopbench.errors import UserError
from lopbench.experiment import build, imitation
from lopbench.memory import LiveBytes
from lopbench.training import train
from lopbench.variants import Group, Surroundings, group

CPU = torch.device("cpu")
BASE = """
run.stream = @streams.PermutedInputs
run.source = @sources.Generated
run.architecture = @architectures.MLP
run.optimizer = @optimizers.SGD
run.max_tasks = 1
sources.Generated.shape = (20, 20)
sources.Generated.train_size = 1000
sources.Generated.test_size = 100
streams.PermutedInputs.batch_size = 50
architectures.MLP.width = 100
architectures.MLP.depth = 2
"""
UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


@pytest.fixture(autouse=True)
def no_bindings() -> Iterator[None]:
    gin.clear_config()
    yield
    gin.clear_config()


def planned(folder: Path, *bindings: str) -> tuple[list[Group], list[Choice]]:
    """What a dry run is told: the populations of `BASE` with further bindings, and their executors."""
    (folder / "mine.gin").write_text(BASE)
    request = config.read([str(folder / "mine.gin")], bindings)
    groups = group(build(request, Surroundings(CPU, imitation(CPU)))[0])
    return groups, [g.choice() for g in groups]


def stated(plan: str, row: str) -> str:
    """The rest of the first line that begins with `row`."""
    return next(line for line in plan.splitlines() if line.startswith(f"  {row} ")).removeprefix(f"  {row}").strip()


def in_bytes(text: str) -> float:
    number, unit = text.split()[:2]
    return float(number.replace(",", "")) * UNITS[unit.rstrip(":")]


@pytest.mark.parametrize("together", [12, 1, 4])
def test_the_memory_that_a_plan_states_is_what_a_run_takes(tmp_path: Path, together: int) -> None:
    (g,), (choice,) = planned(
        tmp_path, "run.seeds = 12", "run.executor = 'eager'", f"run.replicas_together = {together}"
    )
    said = stated(dry_run.describe([g], [choice]), "memory")
    parts = re.fullmatch(r"(.*): (.*) for each replica, (.*) for the data set and (.*) besides", said)
    assert parts
    whole, replica, data, besides = map(in_bytes, parts.groups())
    assert data == pytest.approx(1100 * (400 + 8), rel=0.001)
    assert whole == pytest.approx(12 * replica + data + besides, rel=0.001)
    population = g.population()
    with LiveBytes() as live:
        train(population, choice.build(population), g.plan, lambda records: None)
    most = 1.4 if 1 < together < 12 else 1.15  # parts that take turns share what this counts for each
    assert 0.95 * live.peak <= whole - data <= most * live.peak


def test_the_largest_of_several_populations_counts(tmp_path: Path) -> None:
    variants = "run.variants = {'narrow': [], 'wide': ['architectures.MLP.width = 300']}"
    plan = dry_run.describe(*planned(tmp_path, "run.executor = 'eager'", variants))
    first, second, _ = (line for line in plan.splitlines() if line.startswith("  memory "))
    assert in_bytes(first.split("memory")[1]) < in_bytes(second.split("memory")[1])
    largest = second.split("memory")[1].partition(":")[0].strip()
    altogether = plan.partition("\nAltogether\n")[2]
    assert stated(altogether, "memory") == f"at most {largest} at once, as they train one after another"


def test_of_a_large_population_a_part_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups, choices = planned(tmp_path, "run.seeds = 40", "run.executor = 'eager'")
    monkeypatch.setattr(dry_run, "TRIED_BYTES", 2**24)
    with LiveBytes() as live:
        plan = dry_run.describe(groups, choices)
    assert live.peak < 1.3 * 2**24 < 0.5 * in_bytes(stated(plan, "memory"))
    assert re.search(r" ms a step run eagerly, told from \d+ of the 40 replicas$", stated(plan, "time"))


def test_a_looping_population_is_timed_by_its_first_replica(tmp_path: Path) -> None:
    plan = dry_run.describe(*planned(tmp_path, "run.seeds = 3", "run.executor = 'eager'", "run.replicas_together = 1"))
    assert stated(plan, "time").endswith(" ms a step run eagerly, told from 1 of the 3 replicas")


def test_a_plan_says_how_many_replicas_there_is_room_for(tmp_path: Path) -> None:
    plan = dry_run.describe(*planned(tmp_path, "run.seeds = 2", "run.executor = 'eager'"))
    replica = in_bytes(re.findall(r": (.*) for each replica", plan)[0])
    free = in_bytes(re.findall(r"([\d.]+ \w+) of the .* of this machine are free for this process", plan)[0])
    room = int(stated(plan, "room for").removesuffix(" replicas").replace(",", ""))
    assert room * replica == pytest.approx(0.8 * free, rel=0.1)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    groups, choices = planned(tmp_path, "run.seeds = 50_000", "architectures.MLP.width = 1000")
    with pytest.raises(UserError, match=r"^50,000 replicas of mine take .* would fit: bind sweep\.most_replicas"):
        dry_run.describe(groups, choices)
