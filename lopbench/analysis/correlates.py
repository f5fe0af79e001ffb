"""Does what is measured of a network tell how well it will learn the next task?

Of each replica and each task but the first, two numbers make a pair: the latest measurement that was taken in the task
before, or between the two, and the mean of the headline tag over the task. The step of the headline's last value in a
task tells when the next one begins; so nothing is predicted from what came later. The first task is left out: its
networks are as they were drawn. So are pairs in which one is not finite, as after a replica has diverged. Of more than
`MOST_TASKS` tasks as many are taken, evenly spaced: neighbours tell hardly more, and it is replicas that are resampled.

Three rank correlations (Spearman 1904; equal values share the mean of their ranks) answer three questions:

    pooled           all pairs are ranked together: replicas, variants and times alike
    over_time        pairs of one replica are ranked among each other; the mean over replicas
    across_replicas  pairs of one task are ranked among each other; the mean over tasks

A correlation of fewer than three pairs, or of one number that never varies, does not exist, and is left out of its
mean. Intervals are 95% percentile bootstraps over whole replicas; the pairs drawn are ranked anew each time. The signs
are as measured: where dead units predict a lower accuracy, the correlation is negative.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lopbench.analysis import tags
from lopbench.analysis.cells import by_task
from lopbench.analysis.intervals import FEWEST, LEVEL, interval
from lopbench.analysis.scores import with_bounds

if TYPE_CHECKING:
    import pandas as pd

    from lopbench.analysis.studies import Study

MOST_TASKS = 50
RESAMPLES = 999


class Pairs(NamedTuple):
    """Measurements `before` each task and what was `learned` in it: both `[replicas, tasks]`; NaN: no pair."""

    before: np.ndarray
    learned: np.ndarray


def predictors(study: Study, tag: str, measures: Sequence[str] | None = None) -> pd.DataFrame:
    """How well each measure predicts `tag` in the task that follows: one row a measure, as this file's head describes.

    `measures`: None: all of whole networks that were read (units, ranks, weights, gradients). Columns: measure; pooled,
    over_time, across_replicas, each with _low and _high (NaN for fewer than three replicas); pairs; replicas: those
    with a pair. Raises `UserError` for a tag without values.
    """
    import pandas as pd

    read = tags.measures(study.rows["tag"].unique().tolist()) if measures is None else measures
    lines = []
    for measure in read:
        pairs = pairs_of(study, measure, tag)
        there = np.isfinite(pairs.learned)
        pairs = Pairs(*(values[there.any(axis=1)] for values in pairs))
        line = with_bounds("pooled", _over_replicas(pairs, pooled=True))
        line |= with_bounds("over_time", interval(_within(pairs)))
        line |= with_bounds("across_replicas", _over_replicas(pairs, pooled=False))
        lines.append({"measure": measure, **line, "pairs": int(there.sum()), "replicas": len(pairs.learned)})
    names = ("pooled", "over_time", "across_replicas")
    columns = [f"{name}{bound}" for name in names for bound in ("", "_low", "_high")]
    return pd.DataFrame(lines, columns=["measure", *columns, "pairs", "replicas"])


def pairs_of(study: Study, measure: str, tag: str) -> Pairs:
    """The pairs of a measure with `tag`, of all replicas of the study; where one of the two is missing both are NaN."""
    _, learned, _ = by_task(study, tag)
    starts = _starts(study, tag)
    last = learned.shape[1] - 1
    kept: np.ndarray = np.unique(np.linspace(1, last, MOST_TASKS).round().astype(int))[:last]
    before = _latest(study.of(measure), starts[:, kept - 1], starts[:, kept])
    learned = learned[:, kept]
    right = np.isfinite(before) & np.isfinite(learned)
    return Pairs(np.where(right, before, np.nan), np.where(right, learned, np.nan))


def _starts(study: Study, tag: str) -> np.ndarray:
    """The updates completed as each task begins, `[replicas, tasks]`; -1: not known, or the first."""
    rows = study.of(tag)
    tasks, column = np.unique(rows["task"].to_numpy(), return_inverse=True)
    ends = np.full((len(study.replicas), len(tasks)), -1)
    np.maximum.at(ends, (rows["replica"].to_numpy(), column), rows["step"].to_numpy())
    return np.pad(ends[:, :-1], ((0, 0), (1, 0)), constant_values=-1)


def _latest(rows: pd.DataFrame, earliest: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Each replica's latest value from `earliest` to `steps`, both `[replicas, n]` and included; NaN: there is none."""
    replica, step, value = (rows[name].to_numpy() for name in ("replica", "step", "value"))
    span = max(step.max(), steps.max(initial=0)) + 2  # more than any step, so that replica * span + step sorts by both
    keys = replica * span + step
    order = np.argsort(keys, kind="stable")
    wanted = np.arange(len(steps))[:, None] * span + steps
    found = np.searchsorted(keys[order], wanted, side="right") - 1
    at = order[np.maximum(found, 0)]
    own = (found >= 0) & (replica[at] == np.arange(len(steps))[:, None]) & (step[at] >= earliest) & (steps >= 0)
    return np.where(own, value[at], np.nan)


def _within(pairs: Pairs) -> np.ndarray:
    """The correlation of each replica's own pairs, `[replicas]`."""
    return _correlations(_codes(pairs.before.T), _codes(pairs.learned.T), np.isfinite(pairs.learned.T).astype(float))


def _over_replicas(pairs: Pairs, pooled: bool) -> tuple[float, float, float]:
    """The correlation of all pairs, or the mean of those of each task, with its interval."""
    count, tasks = pairs.learned.shape
    before, learned = (values.reshape(-1, 1) if pooled else values for values in pairs)
    codes = _codes(before), _codes(learned)
    there = np.isfinite(learned)

    def statistic(drawn: np.ndarray) -> float:
        """Of each replica as often as it was drawn, `[replicas]`, the pairs drawn being ranked anew."""
        return _mean(_correlations(*codes, np.repeat(drawn, tasks).reshape(there.shape) * there))

    if not count:
        return np.nan, np.nan, np.nan
    center = statistic(np.ones(count))
    if count < FEWEST or not np.isfinite(center):
        return center, np.nan, np.nan
    # how often each replica is drawn is all that matters: SciPy's bootstrap would draw them one by one
    draws = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    resampled = [statistic(drawn.astype(float)) for drawn in draws]
    low, high = np.nanquantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])  # NaN: one replica many times, say
    return center, float(low), float(high)


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else np.nan


# Rank correlations of repeated pairs ------------------------------------------------


def _codes(values: np.ndarray) -> np.ndarray:
    """Integers that order `values` `[n, columns]` in each column, equal ones alike; later columns have larger ones."""
    column = np.broadcast_to(np.arange(values.shape[1]), values.shape)
    order = np.lexsort((values.ravel(), column.ravel()))
    ordered, places = values.ravel()[order], column.ravel()[order]
    new = np.r_[False, (ordered[1:] != ordered[:-1]) | (places[1:] != places[:-1])]
    codes = np.empty(values.size, int)
    codes[order] = np.cumsum(new)
    return codes.reshape(values.shape)


def _correlations(before: np.ndarray, learned: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Spearman's correlation in each column, with each pair present as many `times`: `[n, columns]`; NaN: none.

    So a resample costs one pass over the pairs, without sorting.
    """

    total = times.sum(axis=0)

    def ranks(codes: np.ndarray) -> np.ndarray:
        """From the column's mean; the mean rank of equal values is half way through all that are drawn of them."""
        drawn = np.bincount(codes.ravel(), times.ravel())
        ranks = (np.cumsum(drawn) - drawn / 2)[codes]
        return ranks - np.einsum("nc,nc->c", times, ranks) / total

    with np.errstate(divide="ignore", invalid="ignore"):
        x, y = ranks(before), ranks(learned)
        both, xx, yy = (np.einsum("nc,nc,nc->c", times, *pair) for pair in ((x, y), (x, x), (y, y)))
        # ranks that differ do so by half or more: less is rounding
        return np.where((total >= FEWEST) & (xx > 1e-3) & (yy > 1e-3), both / np.sqrt(xx * yy), np.nan)
