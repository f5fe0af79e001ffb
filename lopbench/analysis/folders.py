"""The folder of one run: how it stands, and the parts of its results that can be read.

What can't be read is named and skipped, so that a report is made of what there is. `results.load` is the strict one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lopbench import files, lock
from lopbench.analysis.results import COLUMNS, read_part
from lopbench.errors import UserError, require
from lopbench.loggers import manifest

if TYPE_CHECKING:
    import pyarrow as pa

#: of the columns of a part, those that differ from row to row of one replica
VALUES = ("replica", "step", "task", "tag", "value")


@dataclass
class Folder:
    """What was found in a run's folder.

    `status`: "waiting", "running", "finished", "failed", "stopped" (it goes on when it is started again) or "unknown".
    `told`: run.json. `rows`: Arrow tables of the columns `VALUES`, of the tags that were asked for; `heads`: of each
    part the first row of each replica, with all columns. `tags`: all that there are. `notes`: a sentence for each
    thing that is not as in a run that has finished.
    """

    path: Path
    status: str
    told: dict[str, Any]
    notes: list[str]
    rows: list[pa.Table] = field(default_factory=list)
    heads: list[pa.Table] = field(default_factory=list)
    tags: set[str] = field(default_factory=set)

    @property
    def diverged(self) -> dict[int, int]:
        """{position in the run: updates completed} of the replicas that turned non-finite."""
        return {int(position): int(updates) for position, updates in self.told.get("frozen_replicas", {}).items()}


def is_run(path: Path) -> bool:
    """Whether a run has left something to read in this folder."""
    return (path / "run.json").exists() or bool(_parts(path))


def look(path: Path, tags: Sequence[str] | None = None) -> Folder:
    """What is in a run's folder, with the rows of some tags or of all; it need not be there."""
    status, told, note = _state(path)
    found = Folder(path, status, told, [note] if note else [])
    parts = _parts(path)
    for number in range(max(parts, default=-1) + 1):
        try:
            require(number in parts, f"{path / 'metrics'} lacks part {number}.")
            _add(found, read_part(parts[number]), tags)
        except UserError as error:
            found.notes.append(f"{error.message} It is left out.")
    return found


def _parts(path: Path) -> dict[int, Path]:
    from lopbench.loggers.table import part_number

    numbered = ((part_number(part), part) for part in files.files_in(path / "metrics"))
    return {number: part for number, part in numbered if number is not None}


def _state(path: Path) -> tuple[str, dict[str, Any], str]:
    """How a run stands, its run.json, and what is to be said about it ("" if it has finished)."""
    told = manifest.read(path)
    status = told.get("status")
    if not (path / "run.json").exists() and not _parts(path):
        return "waiting", told, f"{path} has not begun."
    if status == "finished":
        return "finished", told, ""
    if status == "failed":
        return "failed", told, f"{path} failed: {told.get('error', 'its run.json does not say why')}"
    if status == "running" and (owner := lock.holder(path)):
        return "running", told, f"{path} is in progress ({owner}): these are its results so far."
    if status in ("running", "interrupted"):
        return "stopped", told, f"{path} was stopped before its end, and goes on when it is started again."
    return "unknown", told, f"{path / 'run.json'} is missing or damaged: how the run ended is not known."


def _add(found: Folder, part: pa.Table, tags: Sequence[str] | None) -> None:
    """Take over one part."""
    import pyarrow as pa
    import pyarrow.compute as pc

    right = part.column_names[: len(COLUMNS)] == list(COLUMNS)
    right = right and all(part.schema == other.schema for other in found.heads[:1])
    require(right, f"A part of {found.path} has other columns than a run's results: {', '.join(part.column_names)}.")
    first = np.unique(part["replica"].to_numpy(), return_index=True)[1]
    found.heads.append(part.take(first))
    found.tags.update(pc.unique(part["tag"]).to_pylist())
    rows = part.select(VALUES)
    if tags is not None:
        rows = rows.filter(pc.is_in(rows["tag"], pa.array(tags, pa.string())))
    found.rows.append(rows.set_column(VALUES.index("tag"), "tag", pc.dictionary_encode(rows["tag"])))
