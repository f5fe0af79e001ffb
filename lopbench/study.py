"""Studies: the populations of a gin file as runs of their own, on any number of processes and machines.

    WORKDIR/study.json             the ledger: every population, and who is in it
    WORKDIR/populations/000/       a run (see experiment.py) of population.gin, which lies there, too
    WORKDIR/populations/001/ ...

`plan` packs the points (a variant's settings and a seed) that a gin file asks for into populations, and notes them in
the ledger before anything is trained: so which replicas train side by side, and with that every bit, does not depend on
how many processes work on them. A point that the ledger has is never planned again. A study grows by being planned anew
from a gin file that asks for more; what is there must be a part of what is asked for.

study.json is

    {"format": "lopbench study", "layout": 1, "name": ..., "files": [...], "bindings": [...], "threads": 1,
     "populations": [{"folder": "populations/000", "steps": updates of each replica,
                      "replicas": [{"variant", "method", "seed", "point": digest, "values": {key: value}}, ...]}]}

with a population's replicas in the order of its table's column `replica`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lopbench import files, lock
from lopbench.config import Request
from lopbench.errors import UserError, require
from lopbench.gin_text import render
from lopbench.loggers.records import Value
from lopbench.resume import FREE, first_difference
from lopbench.shortage import most_in
from lopbench.sweep import Point
from lopbench.variants import Group, Variant, group, hypers, together

FORMAT, LAYOUT = "lopbench study", 1
LEDGER, POPULATION = "study.json", "population.gin"


@dataclass(frozen=True)
class Member:
    """A replica of a study. `point`: digest of its variant's settings and its seed; `values`: see sweep.Point."""

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

    @property
    def variants(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(member.variant for member in self.replicas))


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


# The ledger ----------------------------------------------------------------------------------------


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
    return Planned(told["folder"], told["steps"], tuple(Member(**member) for member in told["replicas"]))


def _write(workdir: Path, ledger: Ledger) -> None:
    told = {"format": FORMAT, "layout": LAYOUT, **dataclasses.asdict(ledger)}
    files.write_atomically(workdir / LEDGER, json.dumps(told, indent=1) + "\n")


def is_study(workdir: str | Path) -> bool:
    return (Path(workdir) / LEDGER).is_file()


# Planning ------------------------------------------------------------------------------------------


def plan(
    request: Request,
    variants: Mapping[str, Variant],
    workdir: str | Path,
    name: str,
    threads: int | None = None,
    room: float | None = None,
) -> Ledger:
    """Note in `workdir` the study that `request` asks for: what is there, and populations of the points that are new.

    variants: what `request` amounts to, built. threads: of each process; of a study that has begun those it began with.
    room: bytes that a population may take, if `sweep.most_replicas` says nothing; None: any number.
    Raises `UserError` if the workdir holds something else, or points that are not asked for.
    """
    workdir = files.workdir_at(workdir)
    with lock.hold(files.make_folder(workdir)):
        begun = begun_in(workdir, request, variants)
        populations = list(begun.populations) if begun else []
        for g in new_groups(request, variants, begun, room):
            folder = f"populations/{len(populations):03d}"
            planned, text = _population(request, variants, g, folder)
            files.write_atomically(files.make_folder(workdir / folder) / POPULATION, text)
            populations.append(planned)
        threads = begun.threads if begun else threads
        ledger = Ledger(name, request.files, request.bindings, threads, tuple(populations))
        _write(workdir, ledger)
    return ledger


def begun_in(workdir: str | Path, request: Request, variants: Mapping[str, Variant]) -> Ledger | None:
    """The ledger of a study that `request` goes on with; None: there is none yet.

    Raises `UserError` if the workdir holds a run, or a study with points that `request` does not ask for.
    """
    workdir = Path(workdir)
    if not is_study(workdir):
        require(
            not files.holds_results(workdir),
            f"{workdir} holds a single run, and no study. Choose another --workdir.",
        )
        return None
    begun, asked = read(workdir), set(_points(request, variants).values())
    for population in begun.populations:
        for member in population.replicas:
            if member.point not in asked:
                raise UserError(_other(workdir, request, variants, population, member))
    return begun


def new_groups(
    request: Request, variants: Mapping[str, Variant], begun: Ledger | None, room: float | None
) -> list[Group]:
    """The populations of the points that a study lacks, each of at most as many replicas as there is room for."""
    points, known = _points(request, variants), begun.points if begun else set()
    left = {
        name: variant.only([k for k, seed in enumerate(variant.seeds) if points[name, seed] not in known])
        for name, variant in variants.items()
    }
    left = {name: variant for name, variant in left.items() if variant.seeds}
    groups = []
    for names in together(left).values():
        alike = {name: left[name] for name in names}
        most = request.most_replicas
        if most is None and room is not None:
            [whole] = group(alike)
            most = most_in(room, whole.population(), whole.choice())
        groups += group(alike, request.points, most)
    return groups


def _points(request: Request, variants: Mapping[str, Variant]) -> dict[tuple[str, int], str]:
    """The digest of every point that is asked for, by variant and seed: of what changes its numbers, and its method."""
    found = {}
    for name, variant in variants.items():
        counts = {
            key: b.value for key, b in request.settings[name].items() if key != "run.seeds" and not FREE.match(key)
        }
        settings = "\n".join([request.points[name].method, *sorted(render(counts))])
        for seed in variant.seeds:
            found[name, seed] = hashlib.sha256(f"{settings}\n{seed}".encode()).hexdigest()[:16]
    require(
        len(set(found.values())) == len(found),
        "Two of the variants are the same points, of one method, with equal settings and a seed: a study can't sweep "
        "run.seeds.",
    )
    return found


def _population(request: Request, variants: Mapping[str, Variant], g: Group, folder: str) -> tuple[Planned, str]:
    """A population as the ledger has it, and the text of its gin file."""
    points = _points(request, variants)
    known_by = hypers(variants, request.points)
    keys = dict.fromkeys(key for values in known_by.values() for key in values)
    members = tuple(
        Member(r.variant, request.points[r.variant].method, r.seed, points[r.variant, r.seed], known_by[r.variant])
        for r in g.replicas
    )
    # every population's table has the columns of the whole study
    columns = {name: {key: known_by[name].get(key) for key in keys} for name in g.names}
    told = {name: Point(request.points[name].method, columns[name]) for name in g.names}
    seeds = {name: variant.seeds for name, variant in zip(g.names, g.variants, strict=True)}
    return Planned(folder, g.plan.steps, members), request.only(seeds, told).asked_text()


def _other(
    workdir: Path, request: Request, variants: Mapping[str, Variant], population: Planned, member: Member
) -> str:
    """What to say of a study that holds a point which is not asked for."""
    who, seed = f"{member.variant!r}, seed {member.seed}", member.seed
    advice = "A study may grow, but not change: choose another --workdir."
    if member.variant not in variants or seed not in variants[member.variant].seeds:
        return f"{workdir} holds the point {who}, which is not asked for. {advice}"
    there = (workdir / population.folder / POPULATION).read_text(encoding="utf-8")
    names = [name for name in population.variants if name in variants]
    now = request.only({name: variants[name].seeds for name in names}, request.points).asked_text()
    return f"{workdir} holds another study. {first_difference(there, now)}\n{advice}"
