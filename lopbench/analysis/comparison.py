"""Every variant against one of them, seed by seed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lopbench.analysis.intervals import FEWEST, LEVEL, RESAMPLES, interval
from lopbench.analysis.scores import final, with_bounds
from lopbench.analysis.tags import better
from lopbench.errors import require
from lopbench.registry import nearest

if TYPE_CHECKING:
    import pandas as pd

    from lopbench.analysis.studies import Study

_CELLS = 2_000_000  # comparisons that are held at once


def compare(study: Study, tag: str, baseline: str | None = None, last: int | None = None) -> pd.DataFrame:
    """The final scores (see `scores.final`) of each other variant against those of `baseline`, by default the first.

    Columns:

    - variant, method
    - pairs: seeds that both have a finite score in
    - difference, difference_low, difference_high: mean over pairs of variant - baseline, in the tag's unit (of a loss
      less than 0 is better), and its 95% percentile bootstrap interval, for which pairs are drawn
    - probability_of_improvement, and its _low and _high: see the function of that name; over all replicas of both,
      paired or not, a diverged one counted as worse than any that is finite
    - seeds, diverged: the variant's replicas with a finite score, and the others; diverged_seeds: which, "2, 5"

    `.attrs`: "baseline"; "baseline_diverged": its diverged seeds, "2, 5"; "tasks": see `scores.final`. A pair in which
    one has diverged has no difference, so read it beside the probability and the counts. Raises `UserError` for a
    variant that there isn't.
    """
    import pandas as pd

    variants = study.variants
    baseline = variants[0] if baseline is None else baseline
    require(baseline in variants, f"There is no variant {baseline!r} to compare with.{nearest(baseline, variants)}")
    scores = final(study, tag, last)
    sign = 1 if better(tag) == "higher" else -1
    of = {variant: scores.loc[scores["variant"] == variant].set_index("seed")["score"] for variant in variants}
    theirs = of[baseline]
    methods = study.replicas.drop_duplicates("variant").set_index("variant")["method"]
    lines = []
    for variant, ours in of.items():
        differences = (ours - theirs).dropna().to_numpy()  # by seed
        line: dict[str, Any] = {"variant": variant, "method": methods[variant], "pairs": len(differences)}
        line |= with_bounds("difference", interval(differences))
        line |= with_bounds(
            "probability_of_improvement", probability_of_improvement(sign * ours.to_numpy(), sign * theirs.to_numpy())
        )
        line |= {
            "seeds": int(ours.notna().sum()),
            "diverged": int(ours.isna().sum()),
            "diverged_seeds": _diverged(ours),
        }
        lines.append(line)
    found = pd.DataFrame(lines)
    found = found[found["variant"] != baseline].reset_index(drop=True)
    found.attrs = {"baseline": baseline, "baseline_diverged": _diverged(theirs), **scores.attrs}
    return found


def probability_of_improvement(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float, float]:
    """How likely a run of ours is better than one of theirs, and its 95% percentile bootstrap interval.

    P = sum over all pairs of (1 if x > y, 1/2 if x = y, else 0) / number of pairs: the Mann-Whitney U statistic by the
    number of pairs. `ours` `[n]`, `theirs` `[m]`: higher is better; NaN is worse than any number, and as good
    as NaN. For the interval each of the two is resampled on its own; NaN if one has fewer than three values. Where
    every run of one is better, all resamples agree, and the interval has no width: that is no certainty.
    Source: Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice", section 4.3.
    """
    from scipy.stats import bootstrap

    # in order, so that the interval does not depend on that of the replicas
    ours, theirs = (np.sort(np.where(np.isnan(values), -np.inf, values)) for values in (ours, theirs))
    if not len(ours) or not len(theirs):
        return np.nan, np.nan, np.nan
    center = float(_superiority(ours, theirs))
    if min(len(ours), len(theirs)) < FEWEST:
        return center, np.nan, np.nan
    found = bootstrap(
        (ours, theirs),
        _superiority,
        n_resamples=RESAMPLES,
        batch=int(np.clip(_CELLS // (len(ours) * len(theirs)), 1, 500)),
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    low, high = found.confidence_interval
    return center, float(low), float(high)


def _superiority(ours: np.ndarray, theirs: np.ndarray, axis: int = -1) -> np.ndarray:
    """P of `[..., n]` and `[..., m]`."""
    x, y = ours[..., :, None], theirs[..., None, :]
    return ((x > y).sum(axis=(-2, -1)) + (x >= y).sum(axis=(-2, -1))) / (2 * ours.shape[-1] * theirs.shape[-1])


def _diverged(scores: pd.Series) -> str:
    """The seeds without a finite score."""
    return ", ".join(str(seed) for seed in sorted(scores.index[scores.isna()]))
