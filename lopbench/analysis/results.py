"""Reading a run's results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lopbench.errors import require
from lopbench.loggers.records import Point

if TYPE_CHECKING:
    import pandas as pd

#: the columns of every run; those that follow in a table are its varying hyperparameters
COLUMNS = ("variant", "replica", "seed", "step", "task", "tag", "value")


def load(workdir: str | Path, tags: Sequence[str] | None = None) -> pd.DataFrame:
    """Every record of a run, or those of some tags: one row a value; loggers/table.py describes the columns.

    Without tags the same as `pandas.read_parquet(workdir/"metrics")`. Raises `UserError` where there are no results.
    """
    import pandas as pd

    folder = Path(workdir) / "metrics"
    require(any(folder.glob("part-*.parquet")), f"There are no results in {workdir}: {folder} holds no parquet parts.")
    return pd.read_parquet(folder, filters=None if tags is None else [("tag", "in", list(tags))])


def points(rows: pd.DataFrame) -> dict[Point, list[int]]:
    """The replicas of each variant and point, ascending; a variant has the hyperparameters that it has a value of."""
    names = rows.columns[len(COLUMNS) :]
    replicas = rows[["replica", "variant", *names]].drop_duplicates("replica").sort_values("replica")
    found: dict[Point, list[int]] = {}
    for variant, mine in replicas.groupby("variant", sort=False, observed=True):
        own = [name for name in names if mine[name].notna().any()]
        for index, *values in mine[["replica", *own]].itertuples(index=False, name=None):
            hyper = tuple((name, None if np.isnan(value) else value) for name, value in zip(own, values, strict=True))
            found.setdefault((str(variant), hyper), []).append(index)
    return found
