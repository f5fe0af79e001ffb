"""Which variants a figure shows: all of a few, of many the best of each method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lopbench.analysis.scores import judged

if TYPE_CHECKING:
    import pandas as pd

MOST_LINES = 10


@dataclass(frozen=True)
class Selection:
    """`variants`: those to show, in order of first appearance; `note`: what was left out, "" if nothing was."""

    variants: Sequence[str]
    note: str = ""


def select(variants: Sequence[str], scores: pd.DataFrame, tag: str, most: int = MOST_LINES) -> Selection:
    """Choose up to `most` variants by their final scores.

    `scores`: what `scores.final` gave of `tag`. Where there are more than `most`, the best variant of each method
    stands for it, by the mean that `scores.judged` ranks by; where there are more methods, the best of these.
    """
    if len(variants) <= most:
        return Selection(variants)
    ranked = scores.assign(judged=judged(scores, tag)).groupby(["method", "variant"], sort=False, observed=True)
    means = ranked["judged"].mean().reset_index().sort_values("judged", ascending=False, kind="stable")
    best = list(means.drop_duplicates("method")["variant"])
    kept = set(best[:most])
    which = f"the {len(kept)} shown are the best of each method"
    which += f", of the {len(kept)} best methods" * (len(best) > most)
    note = f"There are {len(variants)} variants; {which}, chosen by the final scores of these same seeds."
    return Selection([variant for variant in variants if variant in kept], note)
