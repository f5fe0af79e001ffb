"""Published numbers beside one's own: what third_party/published/ holds of the shipped gin file that was run.

A study is known by the names that it stores: the shipped gin file, the method, and the values of what it swept; gin is
not read. `reproductions.py` says which rows of which table are of which gin file.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lopbench import lookup
from lopbench.analysis.reproductions import REPRODUCTIONS

#: the published tables' names for what is measured: our tag, and what one of their units is of ours
QUANTITIES = {
    "online accuracy, %": ("task/online_accuracy", 0.01),
    "online accuracy": ("task/online_accuracy", 0.01),
    "test accuracy": ("task/best_accuracy.test", 0.01),
    "continual_imagenet, test accuracy": ("evaluation/accuracy.test", 0.01),  # of tasks that are measured once
    "test accuracy, best epoch of the task": ("task/best_accuracy.test", 0.01),
    "dead units, %": ("units/dead", 0.01),
    "dead units": ("units/dead", 0.01),
    "mean absolute weight": ("weights/magnitude", 1.0),
    "mean weight magnitude": ("weights/magnitude", 1.0),
}
#: what a setting is called in words, and as the last part of a gin name
WORDS = {"step size": "learning_rate", "width": "width", "period": "steps_per_task", "SGD": "learning_rate"}
CLASSES_A_TASK = 5  # of every class-incremental stream in these tables
SLOW_PERIOD = 10_000  # examples, and updates, a task of slowly-changing regression


@dataclass(frozen=True)
class Number:
    """A published number: the mean of `tag` over the tasks `first` to `last`, counted from 0 (None: to the end).

    `low` to `high`: one standard error to both sides, or the range that the source states.
    """

    tag: str
    first: int
    last: int | None
    value: float
    low: float
    high: float
    source: str


def folder() -> Path | None:
    """Where the tables are: in an installed wheel, else in a checkout; None: neither has them."""
    package = Path(lookup.__file__).resolve().parent
    places = (package / "published", package.parent / "third_party" / "published")
    return next((place for place in places if any(place.glob("*.csv"))), None)


def shipped_name(file: str) -> str | None:
    """The name of a shipped gin file, `permuted_mnist/swr.gin`, wherever it was found; None: of nothing published."""
    parts = Path(file).as_posix()
    name = parts.rpartition("gin_configs/")[2]
    return name if any(re.fullmatch(r.files, name) for r in REPRODUCTIONS) else None


def numbers(file: str, method: str, values: Mapping[str, Any], swept: Collection[str] = ()) -> list[Number]:
    """What is published of one point: a shipped gin file, a method of it, and its values; empty if nothing is.

    A row is of a point if it agrees in every setting that it states. It must state each key that was `swept`, in which
    points of the method differ, and each value of the point that other rows of the method state: where it leaves one
    out, nobody knows which point it is of.
    """
    place = folder()
    own = {key.rpartition(".")[2]: value for key, value in values.items()}
    found: list[Number] = []
    for rule in REPRODUCTIONS if place else ():
        match = re.fullmatch(rule.files, file)
        rows = [row for row in _table(place / rule.table) if rule.holds(row, match, method)] if place and match else []
        stated = [_stated(row) for row in rows]
        needed = {key.rpartition(".")[2] for key in swept} | own.keys() & {name for names in stated for name in names}
        settings = {**(rule.settings or {}), **own}
        for row, names in zip(rows, stated, strict=True):
            if needed <= names.keys() and all(settings.get(name, value) == value for name, value in names.items()):
                found += _numbers(row)
    return _distinct(found)


@cache
def _table(path: Path) -> tuple[dict[str, str], ...]:
    with path.open(encoding="utf-8", newline="") as lines:
        return tuple(csv.DictReader(lines))


def _stated(row: Mapping[str, str]) -> dict[str, float]:
    """The numeric settings that a row states, by the last part of their gin names; columns and phrases alike."""
    names = ("learning_rate", "replacement_rate", "maturity_threshold", "period", "reinit_factor", "l2_weight")
    found = {name: row[name] for name in names if row.get(name)}
    for phrase in re.split(r", *", f"{row.get('setting', '')}, {row.get('optimizer', '')}"):
        words, _, number = phrase.rpartition(" ")
        if words in WORDS:
            found[WORDS[words]] = number
    return {name: float(number) for name, number in found.items()}


def _numbers(row: Mapping[str, str]) -> Iterator[Number]:
    """A row's numbers, in our units; none where it has words for them, or for when they were measured."""
    if "quantity" in row:
        quantity = QUANTITIES.get(f"{row.get('problem')}, {row['quantity']}", QUANTITIES.get(row["quantity"]))
        span, bounds = _span(row["at"]), _bounds(row)
        if quantity and span and bounds:
            low, high = (quantity[1] * bound for bound in bounds)
            yield Number(quantity[0], *span, (low + high) / 2, low, high, row["source"])
    elif "last_fifth" in row:
        tasks = int(row["examples"]) // SLOW_PERIOD
        error = float(row["last_fifth_standard_error"])
        if row["first_bin"]:
            yield _loss(row, 0, int(row["bin"]) // SLOW_PERIOD - 1, float(row["first_bin"]), 0.0)
        yield _loss(row, tasks * 4 // 5, tasks - 1, float(row["last_fifth"]), error)
    elif row.get("online_accuracy_percent"):
        mean = float(row["online_accuracy_percent"]) / 100
        error = float(row.get("online_accuracy_standard_error") or 0) / 100
        yield Number("task/online_accuracy", 0, None, mean, mean - error, mean + error, row["source"])


def _loss(row: Mapping[str, str], first: int, last: int, value: float, error: float) -> Number:
    return Number("task/online_loss", first, last, value, value - error, value + error, row["source"])


def _span(at: str) -> tuple[int, int | None] | None:
    """The tasks, from 0, that words such as "task 800", "tasks 1-50", "100 classes" or "throughout" name."""
    if at == "throughout":
        return 0, None
    if at == "start":
        return 0, 0
    if found := re.fullmatch(r"tasks? (\d+)(?:-(\d+))?", at):
        return int(found[1]) - 1, int(found[2] or found[1]) - 1
    if found := re.fullmatch(r"(\d+) classes", at):
        return int(found[1]) // CLASSES_A_TASK - 1, int(found[1]) // CLASSES_A_TASK - 1
    return None


def _bounds(row: Mapping[str, str]) -> tuple[float, float] | None:
    """The ends of what a row says: columns low and high, or a value: "73.9", "89 to 90"; None of other words."""
    ends = [row["low"], row["high"]] if "low" in row else row["value"].split(" to ")
    try:
        return float(ends[0]), float(ends[-1])
    except ValueError:
        return None


def _distinct(found: Sequence[Number]) -> list[Number]:
    """Of several numbers over the same tasks the first: tables that state a mean stand before those read off charts."""
    first: dict[tuple[str, int, int | None], Number] = {}
    for number in found:
        first.setdefault((number.tag, number.first, number.last), number)
    return list(first.values())
