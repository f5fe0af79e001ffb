"""Studies: the populations of a gin file as runs of their own, on any number of processes and machines.

`plan` packs the points (a variant's settings and a seed) that a gin file asks for into populations, and notes them in
the ledger (ledger.py) before anything is trained: so which replicas train side by side, and with that every bit, does
not depend on how many processes work on them. A point that the ledger has is never planned again. A study grows by
being planned anew from a gin file that asks for more; what is there must be a part of what is asked for, and goes by
the names and values that tell its points from the new ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
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


class Points:
    """The points that `request` asks for; `variants`: what it amounts to, built.

    digests: of every point, by variant and seed: of its method and of the settings that change its numbers. known_by:
    the values that each variant's replicas are known by.
    Raises `UserError` if two points are the same.
    """

    def __init__(self, request: Request, variants: Mapping[str, Variant]) -> None:
        self.request, self.variants = request, variants
        self.known_by = hypers(variants, request.points)
        self.digests: dict[tuple[str, int], str] = {}
        for name, variant in variants.items():
            bound = {key: binding.value for key, binding in request.settings[name].items() if key != "run.seeds"}
            counts = {key: value for key, value in bound.items() if not FREE.match(key)}
            settings = "\n".join([request.points[name].method, *sorted(render(counts))])
            for seed in variant.seeds:
                self.digests[name, seed] = hashlib.sha256(f"{settings}\n{seed}".encode()).hexdigest()[:16]
        self._named = {digest: point for point, digest in self.digests.items()}
        require(
            len(self._named) == len(self.digests),
            "Two of the variants are the same points, of one method, with equal settings and a seed: a study can't "
            "sweep run.seeds.",
        )

    def member(self, variant: str, seed: int) -> Member:
        """A point as the ledger has it."""
        method = self.request.points[variant].method
        return Member(variant, method, seed, self.digests[variant, seed], self.known_by[variant])

    def renewed(self, population: Planned) -> Planned:
        """A population of the ledger, whose points are called and known by what tells them apart now."""
        return replace(population, replicas=tuple(self.member(*self._named[one.point]) for one in population.replicas))

    def text(self, seeds: Mapping[str, Sequence[int]]) -> str:
        """The gin file of a population of these seeds of variants; its table has the columns of the whole study."""
        keys = dict.fromkeys(key for values in self.known_by.values() for key in values)
        told = {}
        for name in seeds:
            columns = {key: self.known_by[name].get(key) for key in keys}
            told[name] = Point(self.request.points[name].method, columns)
        return self.request.only(seeds, told).asked_text()


def plan(
    points: Points, workdir: str | Path, name: str, threads: int | None = None, room: float | None = None
) -> Ledger:
    """Note the study of these points in `workdir`: what is there, and populations of those that are new; the ledger.

    threads: of each process; of a study that has begun those it began with. room: bytes that a population may take, if
    `sweep.most_replicas` says nothing; None: any number.
    Raises `UserError` if the workdir holds something else, or points that are not asked for.
    """
    workdir = files.workdir_at(workdir)
    with lock.hold(files.make_folder(workdir)):
        begun = begun_in(workdir, points)
        populations = [points.renewed(population) for population in begun.populations] if begun else []
        for g in new_groups(points, begun, room):
            folder = folder_of(len(populations))
            seeds = {name: variant.seeds for name, variant in zip(g.names, g.variants, strict=True)}
            files.write_atomically(files.make_folder(workdir / folder) / POPULATION, points.text(seeds))
            members = tuple(points.member(replica.variant, replica.seed) for replica in g.replicas)
            populations.append(Planned(folder, g.plan.steps, members))
        threads = begun.threads if begun else threads
        planned = Ledger(name, points.request.files, points.request.bindings, threads, tuple(populations))
        ledger.write(workdir, planned)
    return planned


def folder_of(number: int) -> str:
    """The folder of a study's population, in its workdir."""
    return f"populations/{number:03d}"


def begun_in(workdir: str | Path, points: Points) -> Ledger | None:
    """The ledger of a study that these points go on with; None: there is none yet.

    Raises `UserError` if the workdir holds a run, or a study with points that are not among them.
    """
    workdir = Path(workdir)
    if not ledger.is_study(workdir):
        held = files.holds_results(workdir)
        require(not held, f"{workdir} holds a single run, and no study. Choose another --workdir.")
        return None
    begun, asked = ledger.read(workdir), set(points.digests.values())
    for population in begun.populations:
        for member in population.replicas:
            if member.point not in asked:
                raise UserError(_other(workdir, points, population, member))
    return begun


def new_groups(points: Points, begun: Ledger | None, room: float | None) -> list[Group]:
    """The populations of the points that a study lacks, each of at most as many replicas as there is room for."""
    request, known = points.request, begun.points if begun else set()
    left = {
        name: variant.only([k for k, seed in enumerate(variant.seeds) if points.digests[name, seed] not in known])
        for name, variant in points.variants.items()
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


def _other(workdir: Path, points: Points, population: Planned, member: Member) -> str:
    """What to say of a study that holds a point which is not asked for."""
    advice = "A study may grow, but not change: choose another --workdir."
    if (member.variant, member.seed) not in points.digests:
        who = f"{member.variant!r}, seed {member.seed}"
        return f"{workdir} holds the point {who}, which is not asked for. {advice}"
    with files.refusals_named(workdir / population.folder / POPULATION, "read"):
        there = (workdir / population.folder / POPULATION).read_text(encoding="utf-8")
    seeds: dict[str, list[int]] = {}
    for other in population.replicas:
        if other.variant in points.variants:
            seeds.setdefault(other.variant, []).append(other.seed)
    return f"{workdir} holds another study. {first_difference(there, points.text(seeds))}\n{advice}"
