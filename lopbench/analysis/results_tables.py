"""The tables of a report, made of what the analysis gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lopbench.analysis.tables import Table, number, with_interval
from lopbench.analysis.tags import label

if TYPE_CHECKING:
    import pandas as pd


def scores_table(found: pd.DataFrame, tag: str) -> Table:
    """Of `scores.summary`: mean and interquartile mean of each variant's final scores."""
    headers = ("variant", "seeds", "diverged", "mean [95% interval]", "interquartile mean [95% interval]")
    cells = zip(
        found["variant"],
        _counts(found["seeds"]),
        _counts(found["diverged"]),
        with_interval(found, "mean", "mean_low", "mean_high"),
        with_interval(found, "iqm", "iqm_low", "iqm_high"),
        strict=True,
    )
    return Table("scores", f"Final scores: {label(tag)}, {tasks_in_words(found)}", found, headers, list(cells))


def plasticity_table(found: pd.DataFrame, tag: str) -> Table:
    """Of `scores.plasticity`: the first task against the last."""
    first, last = found.attrs["tasks"]
    headers = ("variant", "seeds", f"task {first}", f"task {last}", "change [95% interval]")
    cells = zip(
        found["variant"],
        _counts(found["seeds"]),
        with_interval(found, "first", "first_low", "first_high"),
        with_interval(found, "last", "last_low", "last_high"),
        with_interval(found, "change", "change_low", "change_high", signed=True),
        strict=True,
    )
    return Table("plasticity", f"First against last task: {label(tag)}", found, headers, list(cells))


def comparison_table(found: pd.DataFrame, tag: str) -> Table:
    """Of `comparison.compare`: each variant against the baseline."""
    headers = (
        "variant",
        "seeds in common",
        "difference [95% interval]",
        "probability of improvement [95% interval]",
        "diverged (seeds)",
    )
    lost = [
        f"{count} ({seeds})" if count else "0"
        for count, seeds in zip(found["diverged"], found["diverged_seeds"], strict=True)
    ]
    cells = zip(
        found["variant"],
        _counts(found["pairs"]),
        with_interval(found, "difference", "difference_low", "difference_high", signed=True),
        _with_two_decimals(found, "probability_of_improvement"),
        lost,
        strict=True,
    )
    caption = f"Against {found.attrs['baseline']}: {label(tag)}, {tasks_in_words(found)}"
    return Table("comparison", caption, found, headers, list(cells))


def best_table(found: pd.DataFrame, tag: str) -> Table:
    """Of `sensitivity.best`: each method's best point, chosen on some seeds, and its score on the others."""
    headers = (
        "method",
        "best point",
        "of",
        "seeds to choose by",
        "seeds to judge by",
        "diverged",
        "score [95% interval]",
    )
    cells = zip(
        found["method"],
        found["variant"],
        _counts(found["points"]),
        [seeds_in_words(seeds) for seeds in found["chosen_on"]],
        _counts(found["seeds"]),
        _counts(found["diverged"]),
        with_interval(found, "mean", "mean_low", "mean_high"),
        strict=True,
    )
    caption = f"Each method at its best: {label(tag)}, {tasks_in_words(found)}"
    numbers = found.assign(chosen_on=[" ".join(map(str, seeds)) for seeds in found["chosen_on"]])
    keys = dict.fromkeys(key for values in found["values"] for key in values)
    swept = {key: [values.get(key) for values in found["values"]] for key in keys}
    numbers = numbers.drop(columns="values").assign(**swept)
    return Table("best", caption, numbers, headers, list(cells), texts=2)


def predictors_table(found: pd.DataFrame, tag: str) -> Table:
    """Of `correlates.predictors`: rank correlations of each measure with the next task's learning."""
    kinds = ("pooled", "over_time", "across_replicas")
    headers = ("measure", *(f"{kind.replace('_', ' ')} [95% interval]" for kind in kinds), "pairs", "replicas")
    columns = [_with_two_decimals(found, kind, signed=True) for kind in kinds]
    cells = zip(found["measure"], *columns, *(_counts(found[of]) for of in headers[-2:]), strict=True)
    caption = f"Rank correlation with the next task's {label(tag)}"
    return Table("predictors", caption, found, headers, list(cells))


def seeds_in_words(seeds: Sequence[int]) -> str:
    """ "0 to 7" of many in a row, else "0, 3, 5"."""
    if not seeds:
        return ""
    together = list(seeds) == list(range(seeds[0], seeds[0] + len(seeds)))
    return f"{seeds[0]} to {seeds[-1]}" if together and len(seeds) > 2 else ", ".join(map(str, seeds))


def _with_two_decimals(found: pd.DataFrame, name: str, signed: bool = False) -> list[str]:
    """Cells of probabilities and correlations."""
    rows = found[[name, f"{name}_low", f"{name}_high"]].itertuples(index=False, name=None)
    return [_two_decimals(center, low, high, signed) for center, low, high in rows]


def _two_decimals(center: float, low: float, high: float, signed: bool = False) -> str:
    ends = f" [{number(low, 2, signed)}, {number(high, 2, signed)}]" if low == low else ""
    return number(center, 2, signed) + ends


def tasks_in_words(found: pd.DataFrame) -> str:
    """Which tasks a final score is the mean of: "task 11", "mean over tasks 90 to 99"; counted from 0."""
    first, last = found.attrs["tasks"]
    return f"task {last}" if first == last else f"mean over tasks {first} to {last}"


def _counts(values: Sequence[int]) -> list[str]:
    return [f"{int(value):,}" for value in values]
