"""Studies and runs on disk with numbers that are known, as `lopbench.main` and a study leave them, in milliseconds."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from lopbench import files
from lopbench.analysis.studies import Study, read
from lopbench.loggers.records import Record, Replica
from lopbench.loggers.table import PART_ROWS, Table

ACCURACY, TEST, LOSS = "task/online_accuracy", "task/best_accuracy.test", "task/online_loss"
DEAD, RANK, MAGNITUDE = "units/dead", "ranks/effective", "weights/magnitude"
FACTOR, RATE = "strategies.SelectiveWeightReinit.reinit_factor", "optimizers.SGD.learning_rate"
STEPS = 100  #: updates a task


@dataclass(frozen=True)
class Member:
    """One replica as study.json has it. `method`: None: the variant."""

    variant: str
    seed: int
    values: Mapping[str, Any] = field(default_factory=dict)
    method: str | None = None

    @property
    def entry(self) -> dict[str, Any]:
        own: dict[str, Any] = {"variant": self.variant, "method": self.method or self.variant, "seed": self.seed}
        own["values"] = dict(self.values)
        return own | {"point": hashlib.sha256(json.dumps(own).encode()).hexdigest()[:16]}


@dataclass(frozen=True)
class Population:
    """One population. `tags`: the values `[tasks, members]` of each tag, NaN from where one diverged.

    `status`: as run.json has it; None: it has not begun. `frozen`: {position: updates} of the diverged.
    """

    members: Sequence[Member]
    tags: Mapping[str, np.ndarray]
    status: str | None = "finished"
    frozen: Mapping[int, int] = field(default_factory=dict)
    error: str | None = None


def members(variant: str, seeds: int | Sequence[int], values: Any = None, method: str | None = None) -> list[Member]:
    """One variant's replicas: `seeds` of them, or those."""
    return [Member(variant, seed, values or {}, method) for seed in (range(seeds) if isinstance(seeds, int) else seeds)]


def make_study(workdir: Path, *populations: Population, name: str = "made up", part_rows: int = PART_ROWS) -> Path:
    """A study of some populations; its folder."""
    entries = []
    for number, population in enumerate(populations):
        folder = f"populations/{number:03d}"
        tasks = max((len(values) for values in population.tags.values()), default=10)
        replicas = [member.entry for member in population.members]
        entries.append({"folder": folder, "steps": tasks * STEPS, "replicas": replicas})
        if population.status is not None:
            make_run(workdir / folder, population, part_rows)
    ledger = {"format": "lopbench study", "layout": 1, "name": name, "files": [], "bindings": [], "threads": None}
    files.make_folder(workdir)
    files.write_atomically(workdir / "study.json", json.dumps(ledger | {"populations": entries}))
    return workdir


def make_run(workdir: Path, population: Population, part_rows: int = PART_ROWS, swept: bool = False) -> Path:
    """An ordinary run; its folder. `swept`: run.json says what its variants are points of."""
    replicas = [
        Replica(index, member.variant, member.seed, dict(member.values))
        for index, member in enumerate(population.members)
    ]
    table = Table(workdir, replicas, part_rows=part_rows)
    for tag, values in population.tags.items():
        late = tag.startswith("task/")  # the others are measured as a task begins
        records = [Record((task + late) * STEPS, task, tag, np.asarray(row)) for task, row in enumerate(values)]
        table.write(replicas, records)
    table.close()
    frozen = {str(index): updates for index, updates in population.frozen.items()}
    told = {member.variant: {key: member.entry[key] for key in ("method", "values")} for member in population.members}
    content = {"status": population.status, "frozen_replicas": frozen, "points": told if swept else None}
    content |= {"error": population.error} if population.error else {}
    files.write_atomically(workdir / "run.json", json.dumps(content))
    files.write_atomically(workdir / "config.gin", f"run.seeds = {len(replicas)}\nrun.stream = @streams.MadeUp\n")
    return workdir


def read_back(*populations: Population) -> Study:
    """What the analysis reads of a study that is written to disk, and gone again."""
    with TemporaryDirectory() as folder:
        return read(make_study(Path(folder) / "study", *populations))


def study_of(values: Mapping[str, Sequence[float]], tag: str = ACCURACY, swept: Any = None) -> Study:
    """A study of one task: of each variant the values of seeds 0, 1, ...; `swept`: {variant: (method, values)}."""
    own = {variant: (swept or {}).get(variant, (variant, {})) for variant in values}
    everyone = [
        member
        for variant, of_seeds in values.items()
        for member in members(variant, len(of_seeds), own[variant][1], own[variant][0])
    ]
    return read_back(Population(everyone, {tag: np.array([[value for row in values.values() for value in row]])}))


def example(workdir: Path, seeds: int = 6, tasks: int = 12, names: Sequence[str] = ("base", "swr")) -> Path:
    """A study of a method without and one with a swept number (three values), each of them in `seeds` seeds.

    The base loses accuracy in proportion to its dead units, swr the less the larger its factor. The last seed of swr's
    largest factor diverges half way. Two populations.
    """
    base, swr = names
    rng = np.random.default_rng(0)
    points = [
        Population(members(base, seeds), _plausible(rng, tasks, [0.4] * seeds)),
        Population(
            [
                m
                for factor in (0.01, 0.1, 0.5)
                for m in members(f"{swr} reinit_factor={factor}", seeds, {FACTOR: factor}, swr)
            ],
            _plausible(rng, tasks, [0.3] * seeds + [0.1] * seeds + [0.05] * seeds),
            frozen={3 * seeds - 1: tasks // 2 * STEPS + 7},
        ),
    ]
    for values in points[1].tags.values():
        values[tasks // 2 :, -1] = np.nan
    return make_study(workdir, *points)


def _plausible(rng: np.random.Generator, tasks: int, loss: Sequence[float]) -> dict[str, np.ndarray]:
    """Values of which accuracy falls by `loss` of each replica, with noise, while dead units rise."""
    gone = np.linspace(0, 1, tasks)[:, None] * np.asarray(loss) + rng.normal(0, 0.01, (tasks, len(loss)))
    return {
        ACCURACY: 0.9 - gone,
        LOSS: 0.3 + 2 * gone,
        DEAD: np.clip(gone, 0, 1),
        f"{DEAD}.hidden.0": np.clip(gone, 0, 1),
        RANK: 100 * (1 - gone),
        MAGNITUDE: 0.02 + 0.1 * np.abs(gone),
    }
