"""One number a replica, and what these are of each variant: final scores, and first against last task.

A replica that diverged has no score: it is NaN. Means and intervals are over the others, with the number of diverged
ones beside them; where variants are ranked (`judged`) a diverged one counts as the worst score of the whole study, so
that it can't make its variant look better. A replica that has not come so far yet is left out, and not counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lopbench.analysis.cells import by_task
from lopbench.analysis.intervals import interval
from lopbench.analysis.tags import better
from lopbench.errors import require

if TYPE_CHECKING:
    import pandas as pd

    from lopbench.analysis.studies import Study


def final(study: Study, tag: str, last: int | None = None) -> pd.DataFrame:
    """The final score of each replica: the mean of `tag` over the `last` tasks, of each task the mean of its values.

    `last`: None: a tenth of the tasks in which the study has the tag, rounded down, at least one. Columns: replica,
    variant, method, seed, the study's keys, score (in the tag's unit; NaN: not finite, so diverged).
    `.attrs["tasks"]`: the first and the last task of the mean. Replicas that lack values in one of these tasks (not
    there yet, or in a damaged part) are left out, unless they diverged before. Raises `UserError` for a tag without
    values, and for a `last` that is not from 1 to the number of tasks.
    """
    tasks, means, there = by_task(study, tag)
    count = max(1, len(tasks) // 10) if last is None else last
    require(1 <= count <= len(tasks), f"last={last}: {tag} has values in {len(tasks)} tasks.")
    scored = there[:, -count:].all(axis=1) | study.replicas["diverged_after"].notna().to_numpy()
    found = study.replicas.loc[scored, ["replica", "variant", "method", "seed", *study.keys]].reset_index(drop=True)
    score = means[scored, -count:].mean(axis=1)
    found["score"] = np.where(np.isfinite(score), score, np.nan)
    found.attrs["tasks"] = (int(tasks[-count]), int(tasks[-1]))
    return found


def summary(study: Study, tag: str, last: int | None = None) -> pd.DataFrame:
    """The final scores (see `final`) of each variant, in the order of the study.

    Columns: variant, method, the study's keys, seeds (finite scores), diverged (others), mean, mean_low, mean_high, and
    iqm, iqm_low, iqm_high: the interquartile mean; bounds of 95% percentile bootstrap intervals.
    """
    import pandas as pd

    scores = final(study, tag, last)
    lines = []
    for variant, own in _by_variant(study, scores):
        values = own["score"].to_numpy()
        line: dict[str, Any] = variant | counted(values)
        line |= with_bounds("mean", interval(values)) | with_bounds("iqm", interval(values, "iqm"))
        lines.append(line)
    found = pd.DataFrame(lines)
    found.attrs |= scores.attrs
    return found


def plasticity(study: Study, tag: str) -> pd.DataFrame:
    """The first against the last task of the study, in which the tag has values: is plasticity lost?

    One row a variant. Columns: variant, method, the study's keys, seeds, diverged, and first, last, change: means over
    replicas of the value in the first task, in the last, and of last - first, each with the bounds _low and _high of
    its 95% percentile bootstrap interval, in the tag's unit. All three are of the same replicas: those that are finite
    in both; those that diverged between are counted. `.attrs["tasks"]`: the two tasks.
    """
    import pandas as pd

    tasks, means, there = by_task(study, tag)
    ends = means[:, [0, -1]]
    scored = there[:, [0, -1]].all(axis=1) | study.replicas["diverged_after"].notna().to_numpy()
    lines = []
    for variant, own in _by_variant(study, study.replicas[scored]):
        first, last = ends[own["replica"].to_numpy()].T
        lost = ~np.isfinite(last - first)
        first, last = (np.where(lost, np.nan, values) for values in (first, last))
        line: dict[str, Any] = variant | counted(last)
        for name, values in (("first", first), ("last", last), ("change", last - first)):
            line |= with_bounds(name, interval(values))
        lines.append(line)
    found = pd.DataFrame(lines)
    found.attrs["tasks"] = (int(tasks[0]), int(tasks[-1]))
    return found


def judged(scores: pd.DataFrame, tag: str) -> pd.Series:
    """What `final` gave, for ranking: higher is better, and a diverged replica has the worst finite score of all."""
    signed = scores["score"] * (1 if better(tag) == "higher" else -1)
    return signed.fillna(signed.min())


def ranking(scores: pd.DataFrame, tag: str) -> dict[str, float]:
    """Of each variant the mean of what `judged` gives: higher is better."""
    return judged(scores, tag).groupby(scores["variant"]).mean().to_dict()


def counted(values: np.ndarray) -> dict[str, int]:
    """How many scores there are, and of how many replicas that diverged."""
    finite = int(np.isfinite(values).sum())
    return {"seeds": finite, "diverged": len(values) - finite}


def with_bounds(name: str, found: tuple[float, float, float]) -> dict[str, float]:
    """A center and its interval as three columns."""
    return dict(zip((name, f"{name}_low", f"{name}_high"), found, strict=True))


def _by_variant(study: Study, replicas: pd.DataFrame) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    """Of each variant of the study what describes it, and its rows of `replicas`, if any."""
    variants = study.replicas.drop_duplicates("variant")[["variant", "method", *study.keys]]
    return [(line, replicas[replicas["variant"] == line["variant"]]) for line in variants.to_dict("records")]
