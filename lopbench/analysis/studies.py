"""Reading what is to be analysed: studies and runs, several at once, however far they are.

    from lopbench.analysis import scores, studies

    study = studies.read(["runs/permuted"])
    study.rows                                       # one row a value, as a pandas DataFrame
    scores.summary(study, "task/online_accuracy")

gin is never parsed: a gin file's `import` lines execute. What was swept is told by study.json or run.json.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lopbench.analysis.folders import VALUES
from lopbench.analysis.workdirs import Member, Population, found_in
from lopbench.errors import require
from lopbench.loggers.records import holds_numbers
from lopbench.registry import nearest

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Study:
    """The results of one or more workdirs.

    `rows`: one row a value: replica, step (updates completed), task (from 0), tag, value, variant, method, seed, and a
    column for each of `keys`. `replicas`: one row a replica, those that have not begun included: replica (a number
    that is unique over all workdirs, and the index), variant, method, seed, workdir, folder, status (see `Folder`),
    diverged_after (updates completed when it turned non-finite; NaN: it did not), and `keys`: the swept values, float64
    where all are numbers; null: switched off, or not of this method (`keys_of` tells which). `notes`: a sentence for
    each thing to know: runs that have not finished, damaged parts, diverged replicas. `used`, `known`: what `keys_of`
    and `tags` tell.
    """

    rows: pd.DataFrame
    replicas: pd.DataFrame
    keys: tuple[str, ...]
    notes: list[str]
    used: Mapping[str, tuple[str, ...]]
    known: tuple[str, ...]

    def tags(self) -> list[str]:
        """The tags that the results have, sorted, whether or not their rows were asked for."""
        return list(self.known)

    def of(self, tag: str) -> pd.DataFrame:
        """The rows of a tag; raises `UserError` if there are none."""
        found = self.rows[self.rows["tag"] == tag]
        unread = " It was not among the tags to read." if tag in self.known else nearest(tag, self.known)
        require(len(found) > 0, f"There are no records of {tag!r}.{unread}")
        return found

    def keys_of(self, method: str) -> tuple[str, ...]:
        """The swept keys that a method uses."""
        return self.used[method]

    @property
    def variants(self) -> list[str]:
        """Their names, in order of first appearance."""
        return list(self.replicas["variant"].unique())

    @property
    def methods(self) -> list[str]:
        return list(self.replicas["method"].unique())


def read(workdirs: Sequence[str | Path] | str | Path, tags: Sequence[str] | None = None) -> Study:
    """Read runs and studies, with the rows of `tags`, or of all.

    A variant's name that two workdirs share gets " (WORKDIR)" appended, and so does its method's, unless these are the
    same settings in other seeds: the same method and swept values, no seed in common, and config.gin the same but for
    run.seeds. A part that is damaged or missing is named in `notes` and left out. Raises `UserError` for a folder that
    is neither a run nor a study, and for a study.json that can't be read.
    """
    given = [workdirs] if isinstance(workdirs, str | Path) else workdirs
    require(len(given) > 0, "There is nothing to read: name a workdir.")
    paths = {Path(workdir).resolve(): Path(workdir) for workdir in given}
    return _joined(_told_apart([population for path in paths.values() for population in found_in(path, tags)]))


# Several workdirs -------------------------------------------------------------------


def _told_apart(populations: Sequence[Population]) -> list[Population]:
    """The same, with variants of one name in several workdirs renamed (see `read`)."""
    owners: dict[str, dict[Path, list[Population]]] = {}
    for population in populations:
        for variant in {member.variant for member in population.members.values()}:
            owners.setdefault(variant, {}).setdefault(population.workdir, []).append(population)
    differ = {variant for variant, own in owners.items() if len(own) > 1 and not _same_settings(variant, own)}
    methods = {m.method for population in populations for m in population.members.values() if m.variant in differ}
    names = _names({population.workdir for population in populations})

    def renamed(member: Member, workdir: Path) -> Member:
        variant = f"{member.variant} ({names[workdir]})" if member.variant in differ else member.variant
        method = f"{member.method} ({names[workdir]})" if member.method in methods else member.method
        return replace(member, variant=variant, method=method)

    return [
        replace(population, members={at: renamed(m, population.workdir) for at, m in population.members.items()})
        for population in populations
    ]


def _same_settings(variant: str, owners: Mapping[Path, Sequence[Population]]) -> bool:
    """Whether a variant of several workdirs differs in its seeds alone."""
    settings, seeds = [], []
    for population in itertools.chain(*owners.values()):
        own = [member for member in population.members.values() if member.variant == variant]
        settings.append((own[0].method, dict(own[0].values), _config(population.folder.path)))
        seeds += [member.seed for member in own]
    return all(setting == settings[0] for setting in settings) and len(set(seeds)) == len(seeds)


def _config(folder: Path) -> list[str]:
    """What a run's config.gin says, as text, but for the seeds; its own path where it can't be read: like no other."""
    try:
        lines = (folder / "config.gin").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return [str(folder)]
    return [line for line in lines if line and not re.match(r"#|run\.seeds\b", line)]


def _names(workdirs: Iterable[Path]) -> dict[Path, str]:
    """The last part of each path; where two are alike, the whole paths."""
    paths = list(workdirs)
    short = [path.resolve().name for path in paths]
    return {path: name if short.count(name) == 1 else str(path) for path, name in zip(paths, short, strict=True)}


# The tables -------------------------------------------------------------------------


def _joined(populations: Sequence[Population]) -> Study:
    import pandas as pd

    lines: list[tuple[Any, ...]] = []
    keys: dict[str, None] = {}  # as sets that keep their order
    used: dict[str, dict[str, None]] = {}
    notes = [note for population in populations for note in population.folder.notes]
    for population in populations:
        for position, member in population.members.items():
            after = population.folder.diverged.get(position)
            where = str(population.workdir), str(population.folder.path), population.folder.status
            lines.append((member.variant, member.method, member.seed, *where, np.nan if after is None else after))
            keys.update(dict.fromkeys(member.values))
            used.setdefault(member.method, {}).update(dict.fromkeys(member.values))
            if after is not None:
                who = f"{member.variant}, seed {member.seed}"
                notes.append(f"{who} diverged: it was not finite after {after:,} updates ({population.folder.path}).")
    names = ["variant", "method", "seed", "workdir", "folder", "status", "diverged_after"]
    replicas = pd.DataFrame(lines, columns=names)
    replicas.index.name = "replica"
    replicas.insert(0, "replica", replicas.index)
    for key in keys:
        values = [member.values.get(key) for population in populations for member in population.members.values()]
        replicas[key] = pd.Series(values, dtype="float64" if holds_numbers(values) else object)
    known = sorted({tag for population in populations for tag in population.folder.tags})
    rows = _rows(populations, replicas, list(keys))
    methods = {method: tuple(own) for method, own in used.items()}
    return Study(rows, replicas, tuple(keys), notes, methods, tuple(known))


def _rows(populations: Sequence[Population], replicas: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """All rows, with what `replicas` says of each one's."""
    import pandas as pd
    import pyarrow as pa

    parts = []
    first = 0
    for population in populations:
        numbers = np.full(max(population.members, default=-1) + 1, -1)  # of each position in the run
        for number, position in enumerate(population.members, first):
            if position >= 0:
                numbers[position] = number
        first += len(population.members)
        for part in population.folder.rows:
            unique = pa.array(numbers[part["replica"].to_numpy()])
            parts.append(part.set_column(0, "replica", unique))
    if not parts:
        return pd.DataFrame(columns=["variant", "method", "seed", *VALUES, *keys])
    rows = pa.concat_tables(parts).unify_dictionaries().to_pandas()
    codes = rows["replica"].to_numpy()
    for name in ("variant", "method", "seed", *keys):
        told = replicas[name]
        if name in ("variant", "method"):
            told = pd.Series(pd.Categorical(told, categories=told.unique()))
        rows[name] = told.array.take(codes)
    return rows[["variant", "method", "seed", *VALUES, *keys]]
