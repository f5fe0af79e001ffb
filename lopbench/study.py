"""Studies: the populations of a gin file as runs of their own, on any number of processes and machines.

`plan` packs the points (a variant's settings and a seed) that a gin file asks for into populations, and notes them in
the ledger (ledger.py) before anything is trained: so which replicas train side by side, and with that every bit, does
not depend on how many processes work on them. A point that the ledger has is never planned again. A study grows by
being planned anew from a gin file that asks for more; what is there must be a part of what is asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from lopbench import files, ledger, lock
from lopbench.config import Request
from lopbench.errors import UserError, require
from lopbench.gin_text import render
from lopbench.ledger import POPULATION, Ledger, Member, Planned
from lopbench.resume import FREE, first_difference
from lopbench.shortage import most_in
from lopbench.sweep import Point
from lopbench.variants import Group, Variant, group, hypers, together


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
            population, text = _population(request, variants, g, folder)
            files.write_atomically(files.make_folder(workdir / folder) / POPULATION, text)
            populations.append(population)
        threads = begun.threads if begun else threads
        planned = Ledger(name, request.files, request.bindings, threads, tuple(populations))
        ledger.write(workdir, planned)
    return planned


def begun_in(workdir: str | Path, request: Request, variants: Mapping[str, Variant]) -> Ledger | None:
    """The ledger of a study that `request` goes on with; None: there is none yet.

    Raises `UserError` if the workdir holds a run, or a study with points that `request` does not ask for.
    """
    workdir = Path(workdir)
    if not ledger.is_study(workdir):
        require(
            not files.holds_results(workdir),
            f"{workdir} holds a single run, and no study. Choose another --workdir.",
        )
        return None
    begun, asked = ledger.read(workdir), set(_points(request, variants).values())
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
