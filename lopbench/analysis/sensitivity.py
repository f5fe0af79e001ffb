"""How the final score depends on what was swept, and what a method gains once its best point is chosen fairly."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from lopbench.analysis.intervals import interval
from lopbench.analysis.scores import counted, final, judged, ranking, with_bounds
from lopbench.errors import require

if TYPE_CHECKING:
    import pandas as pd

    from lopbench.analysis.studies import Study


def sensitivity(study: Study, tag: str, last: int | None = None) -> pd.DataFrame:
    """The final score (see `scores.final`) at each value of each swept key, of each method that has several of it.

    Where other keys were swept as well, each value is shown at the best point that has it: the one with the best mean
    over seeds, a diverged one counted as the worst score of the study. Since it is chosen by the same seeds that are
    shown, it is a little too good: `best` tells what a choice is worth.

    Columns: method; key; value (a number, text or truth value; None: off), ascending, off first; center, low, high:
    mean over replicas and its 95% percentile bootstrap interval, in the tag's unit; seeds, diverged: with and without a
    finite score; variant: the point that is shown; others: its other keys that were swept, {key: value}; points: how
    many it was chosen from. Empty if nothing was swept.
    """
    import pandas as pd

    scores = final(study, tag, last)
    ranks = ranking(scores, tag)
    lines = []
    for method in study.methods:
        points = _points(study, method)
        for key in study.keys_of(method):
            by_value: dict[Any, list[str]] = {}
            for variant, values in points.items():
                by_value.setdefault(values[key], []).append(variant)
            for value in sorted(by_value, key=_order) if len(by_value) > 1 else ():
                chosen = _first_best(by_value[value], ranks)
                own = scores.loc[scores["variant"] == chosen, "score"].to_numpy()
                others = {name: value for name, value in points[chosen].items() if name != key}
                low_high = dict(zip(("center", "low", "high"), interval(own), strict=True))
                line = {"method": method, "key": key, "value": value, **low_high, **counted(own)}
                lines.append({**line, "variant": chosen, "others": others, "points": len(by_value[value])})
    names = ("method", "key", "value", "center", "low", "high", "seeds", "diverged", "variant", "others", "points")
    found = pd.DataFrame(lines, columns=names)
    found["value"] = pd.Series([line["value"] for line in lines], dtype=object)
    found.attrs |= scores.attrs
    return found


def best(study: Study, tag: str, choose: Sequence[int] | None = None, last: int | None = None) -> pd.DataFrame:
    """Each method at its best point, chosen on some seeds and reported on the others, which had no part in the choice.

    `choose`: the seeds to choose by; None: of each method the lower half of its seeds, rounded down, at least one.
    The point chosen is the one with the best mean final score over these, a diverged replica counted as the worst score
    of the study; of equals the first.

    Columns: method; variant: the point; values: its swept values, {key: value}; points: how many it was chosen from;
    chosen_on: the seeds, a tuple; chosen_score: the mean over them; seeds, diverged: replicas with other seeds, with
    and without a finite score; mean, mean_low, mean_high: over these, with the 95% percentile bootstrap interval; NaN
    where there is no other seed. Raises `UserError` if `choose` holds none of a method's seeds.
    """
    import pandas as pd

    scores = final(study, tag, last)
    worth = judged(scores, tag)
    lines = []
    for method in study.methods:
        own = scores[scores["method"] == method]
        if own.empty:  # not there yet
            continue
        seeds = sorted(own["seed"].unique().tolist())
        chosen_on = seeds[: max(1, len(seeds) // 2)] if choose is None else [seed for seed in seeds if seed in choose]
        require(
            bool(chosen_on), f"None of the seeds {_listed(choose or ())} to choose by is of {method}: {_listed(seeds)}."
        )
        points = _points(study, method)
        within = scores["seed"].isin(chosen_on)
        chosen = _first_best(points, worth[within].groupby(scores["variant"]).mean().to_dict())
        shown = scores[scores["variant"] == chosen]
        train, test = (shown.loc[part, "score"].to_numpy() for part in (within, ~within))
        line = {"method": method, "variant": chosen, "values": points[chosen], "points": len(points)}
        line |= {"chosen_on": tuple(chosen_on), "chosen_score": interval(train)[0]}
        lines.append(line | counted(test) | with_bounds("mean", interval(test)))
    names = ("method", "variant", "values", "points", "chosen_on", "chosen_score", "seeds", "diverged")
    found = pd.DataFrame(lines, columns=[*names, "mean", "mean_low", "mean_high"])
    found.attrs |= scores.attrs
    return found


def _points(study: Study, method: str) -> dict[str, dict[str, Any]]:
    """The swept values of each variant of a method; None: off."""
    own = study.replicas[study.replicas["method"] == method].drop_duplicates("variant")
    keys = list(study.keys_of(method))
    values = own[keys].astype(object).where(own[keys].notna(), None)
    return dict(zip(own["variant"], values.to_dict("records"), strict=True))


def _first_best(variants: Iterable[str], ranking: dict[str, float]) -> str:
    """The variant that ranks highest, the first of equals; those without a score come last."""
    return max(variants, key=lambda variant: ranking.get(variant, -float("inf")))


def _order(value: Any) -> tuple[Any, ...]:
    """Off first, then numbers, then texts."""
    if value is None:
        return (0,)
    return (2, value) if isinstance(value, str) else (1, value)


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))
