"""What a workdir holds: the populations of a study, or a plain run, and who their members are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lopbench.analysis.folders import Folder, is_run, look
from lopbench.analysis.results import points
from lopbench.errors import require
from lopbench.ledger import LEDGER, Member, Planned, is_study, read
from lopbench.loggers.records import Point, describe, distinguishing


@dataclass(frozen=True)
class Population:
    """The members of a run by their position in it, and what its folder holds. Members below 0 have no rows yet."""

    workdir: Path
    members: Mapping[int, Member]
    folder: Folder


def found_in(workdir: Path, tags: Sequence[str] | None = None) -> list[Population]:
    """The populations of a study, or a run as the only one; with the rows of `tags`, or of all.

    Raises `UserError` for a folder that is neither, and for a study.json that can't be read.
    """
    if is_study(workdir):
        return [_population(workdir, planned, tags) for planned in read(workdir).populations]
    require(is_run(workdir), f"{workdir} holds neither a run nor a study: no {LEDGER}, no run.json, no metrics.")
    folder = look(workdir, tags)
    return [Population(workdir, _members(folder), folder)]


def _population(workdir: Path, planned: Planned, tags: Sequence[str] | None) -> Population:
    folder = look(workdir / planned.folder, tags)
    if any(max(part["replica"].to_pylist(), default=-1) >= len(planned.replicas) for part in folder.heads):
        folder.notes.append(f"{folder.path} holds more replicas than {workdir / LEDGER} tells of: it is left out.")
        folder = replace(folder, rows=[], heads=[], tags=set())
    return Population(workdir, dict(enumerate(planned.replicas)), folder)


def _members(folder: Folder) -> dict[int, Member]:
    """The replicas of a plain run: those that have rows, then those that run.json names besides.

    A run that swept tells its variants' methods and values in run.json. In another each variant is a method; where its
    replicas differ in hyperparameters, these count as swept, and make variants.
    """
    told = folder.told.get("points") or {}
    members: dict[int, Member] = {}
    begun: set[tuple[str, int]] = set()
    seeds, found = _found(folder)
    names = distinguishing(found)
    for point, positions in found.items():
        name = point[0]
        if name in told:
            label, method, values = name, told[name]["method"], told[name]["values"]
        else:
            label = ", ".join(part for part in (name, describe(point, names)) if part)
            method, values = name, {key: value for key, value in point[1] if key in names[name]}
        members |= {position: Member(label, method, seeds[position], "", values) for position in positions}
        begun |= {(name, seeds[position]) for position in positions}
    asked = [(name, seed) for name, own in folder.told.get("seeds", {}).items() for seed in own]
    for number, (name, seed) in enumerate(pair for pair in asked if pair not in begun):
        own = told.get(name) or {"method": name, "values": {}}
        members[-1 - number] = Member(name, own["method"], seed, "", own["values"])
    return dict(sorted(members.items(), key=lambda item: (item[0] < 0, abs(item[0]))))


def _found(folder: Folder) -> tuple[dict[int, int], dict[Point, list[int]]]:
    """Of the replicas that have rows: the seeds by position, and the positions of each point."""
    import pyarrow as pa

    if not folder.heads:
        return {}, {}
    heads = pa.concat_tables(folder.heads).to_pandas().drop_duplicates("replica")
    return dict(zip(heads["replica"].tolist(), heads["seed"].tolist(), strict=True)), points(heads)
