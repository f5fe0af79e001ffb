"""The ledger of a study: every population, and who is in it.

    WORKDIR/study.json             the ledger
    WORKDIR/populations/000/       a run (see experiment.py) of population.gin, which lies there, too
    WORKDIR/populations/001/ ...

study.json is

    {"format": "lopbench study", "layout": 1, "name": ..., "files": [...], "bindings": [...], "threads": 1,
     "populations": [{"folder": "populations/000", "steps": updates of each replica,
                      "replicas": [{"variant", "method", "seed", "point": digest, "values": {key: value}}, ...]}]}

with a population's replicas in the order of its table's column `replica`. Reading it takes neither gin nor torch.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lopbench import files
from lopbench.errors import UserError, require
from lopbench.loggers.records import Value

FORMAT, LAYOUT = "lopbench study", 1
LEDGER, POPULATION = "study.json", "population.gin"


@dataclass(frozen=True)
class Member:
    """A replica of a study.

    point: digest of its variant's settings and its seed; "" of what is no study. values: what its variant has of the
    swept bindings, and of the hyperparameters that differ between the variants; None: off.
    """

    variant: str
    method: str
    seed: int
    point: str
    values: dict[str, Value]


@dataclass(frozen=True)
class Planned:
    """A population of a study: its folder in the workdir, the updates of each replica, and the replicas in order."""

    folder: str
    steps: int
    replicas: tuple[Member, ...]


@dataclass(frozen=True)
class Ledger:
    """What a study consists of. `threads`: of each process that trains a population; None: as many as it likes."""

    name: str
    files: tuple[str, ...]
    bindings: tuple[str, ...]
    threads: int | None
    populations: tuple[Planned, ...]

    @property
    def points(self) -> set[str]:
        return {member.point for population in self.populations for member in population.replicas}


def read(workdir: str | Path) -> Ledger:
    """The ledger of a study; `UserError` if there is none, or one that can't be understood."""
    path = Path(workdir) / LEDGER
    require(path.is_file(), f"There is no study in {workdir}: it holds no {LEDGER}.")
    try:
        with files.refusals_named(path, "read"):
            told = json.loads(path.read_text(encoding="utf-8"))
        require(told.pop("format") == FORMAT, f"{path} is not a study of lopbench.")
        layout = told.pop("layout")
        require(layout == LAYOUT, f"{path} has layout {layout}; this version of lopbench reads {LAYOUT}.")
        populations = tuple(_planned(entry) for entry in told.pop("populations"))
        name, threads = told["name"], told["threads"]
        return Ledger(name, tuple(told["files"]), tuple(told["bindings"]), threads, populations)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is damaged: it is not what lopbench has written ({error!r}).") from error


def _planned(told: Mapping[str, Any]) -> Planned:
    planned = Planned(told["folder"], told["steps"], tuple(Member(**member) for member in told["replicas"]))
    right = re.fullmatch(r"populations/\d+", planned.folder) and type(planned.steps) is int
    if not right or not all(map(_is_right, planned.replicas)):
        raise ValueError(f"a wrong value in {planned.folder}")
    return planned


def _is_right(member: Member) -> bool:
    texts = (member.variant, member.method, member.point, *member.values)
    scalars = all(value is None or isinstance(value, bool | int | float | str) for value in member.values.values())
    return all(isinstance(text, str) for text in texts) and type(member.seed) is int and scalars


def write(workdir: str | Path, ledger: Ledger) -> None:
    """Write the ledger, whole or not at all."""
    told = {"format": FORMAT, "layout": LAYOUT, **dataclasses.asdict(ledger)}
    files.write_atomically(Path(workdir) / LEDGER, json.dumps(told, indent=1) + "\n")


def is_study(workdir: str | Path) -> bool:
    """Whether a folder holds a ledger."""
    return (Path(workdir) / LEDGER).is_file()
