"""Reading a run's results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lopbench import files
from lopbench.errors import UserError, require
from lopbench.loggers.records import Point

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

#: the columns of every run; those that follow in a table are its varying hyperparameters
COLUMNS = ("variant", "replica", "seed", "step", "task", "tag", "value")


def load(workdir: str | Path, tags: Sequence[str] | None = None) -> pd.DataFrame:
    """Every record of a run, or those of some tags: one row a value; loggers/table.py describes the columns.

    Without tags the same as `pandas.read_parquet(workdir/"metrics")`, but verified: raises `UserError` where there are
    no results, and where a part of them is missing or damaged.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    from lopbench.loggers.table import part_number, schema

    folder = Path(workdir) / "metrics"
    paths = [path for path in files.files_in(folder) if part_number(path) is not None]
    require(bool(paths), f"There are no results in {workdir}: {folder} holds no parquet parts.")
    parts: list[pa.Table] = []
    for number, path in enumerate(paths):
        require(part_number(path) == number, f"{folder} lacks part {number}, and has {path.name}: results are missing.")
        rows = read_part(path)
        alike = list(rows.schema)[: len(COLUMNS)] == list(schema(())) and (not parts or rows.schema == parts[0].schema)
        require(alike, f"{path} has other columns than this run's results: {', '.join(rows.column_names)}.")
        parts.append(rows if tags is None else rows.filter(pc.is_in(rows["tag"], pa.array(tags, pa.string()))))
    return pa.concat_tables(parts).to_pandas()


def read_part(path: Path) -> pa.Table:
    """The rows of a part, if they are those that were written; of an old part, without a digest, nothing tells."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from lopbench.loggers.table import DIGEST, rows_digest

    try:
        rows = pq.ParquetFile(path).read()
        rows.validate(full=True)  # texts are UTF-8, and codes have a meaning: what follows may crash where not
        told = rows.schema.metadata
        right = told is None or told.get(DIGEST) == rows_digest(rows).encode()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(f"{path} is damaged, or not a part of a run's results.") from error
    require(right, f"{path} is damaged: its rows are not those that were written.")
    return rows


def points(rows: pd.DataFrame) -> dict[Point, list[int]]:
    """The replicas of each variant and point, ascending; a variant has the hyperparameters that it has a value of."""
    import pandas as pd

    names = rows.columns[len(COLUMNS) :]
    replicas = rows[["replica", "variant", *names]].drop_duplicates("replica").sort_values("replica")
    found: dict[Point, list[int]] = {}
    for variant, mine in replicas.groupby("variant", sort=False, observed=True):
        own = [name for name in names if mine[name].notna().any()]
        for index, *values in mine[["replica", *own]].itertuples(index=False, name=None):
            hyper = tuple((name, None if pd.isna(value) else value) for name, value in zip(own, values, strict=True))
            found.setdefault((str(variant), hyper), []).append(index)
    return found
