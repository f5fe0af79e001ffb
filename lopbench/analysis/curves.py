"""A tag over tasks or steps: the center and the 95% band of each variant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from lopbench.analysis.cells import averaged
from lopbench.analysis.intervals import Statistic, bootstrap_interval
from lopbench.errors import require

if TYPE_CHECKING:
    import pandas as pd

    from lopbench.analysis.studies import Study

MOST_POINTS = 100


def curves(
    study: Study,
    tag: str,
    over: Literal["task", "step"] = "task",
    most_points: int = MOST_POINTS,
    statistic: Statistic = "mean",
) -> pd.DataFrame:
    """The lines of a figure of `tag`: one row for each variant and point, variants in the order of the study.

    Columns: variant; x: the mean of the tasks (from 0), or steps (updates completed), that the point stands for;
    center: the `statistic` over replicas (see intervals.py) of each one's mean over these; lower, upper: its 95%
    percentile bootstrap interval, NaN for fewer than three replicas; seeds: the replicas in it; diverged: those with a
    value that is not finite, which are left out of the point.

    Where a tag has values in more than `most_points` tasks (steps), neighbours are averaged: `.attrs["width"]` of them
    make a point. A variant has no point where it has no values. Raises `UserError` for a tag that has no values.
    """
    import pandas as pd

    require(over in ("task", "step"), f"over={over!r}: a curve goes over 'task' or 'step'.")
    require(most_points >= 1, f"most_points={most_points}: a curve has at least one point.")
    rows = study.of(tag)
    places, index = np.unique(rows[over].to_numpy(), return_inverse=True)
    width = -(-len(places) // most_points)
    x = np.array([places[start : start + width].mean() for start in range(0, len(places), width)])
    replica, value = rows["replica"].to_numpy(), rows["value"].to_numpy()
    means, there = averaged(replica, index // width, value, (len(study.replicas), len(x)))

    lines = []
    for variant, members in study.replicas.groupby("variant", sort=False).indices.items():
        at = there[members].any(axis=0)
        own, present = means[members][:, at], there[members][:, at]
        center, lower, upper = bootstrap_interval(own, statistic=statistic)
        seeds = np.isfinite(own).sum(axis=0)
        line = {"x": x[at], "center": center, "lower": lower, "upper": upper, "seeds": seeds}
        lines.append(pd.DataFrame({"variant": variant, **line, "diverged": present.sum(axis=0) - seeds}))
    found = pd.concat(lines, ignore_index=True)
    found.attrs["width"] = width
    return found
