"""What tags mean to a reader: which way is better, what an axis is called, and which tag a study is judged by."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Literal

from lopbench.errors import UserError

#: what a study is judged by: the first of these that it has
HEADLINES = ("task/selected_accuracy.test", "task/best_accuracy.test", "task/online_accuracy", "task/online_loss")

#: the groups of measures that are taken of networks, as predictors of how they will learn (see correlates.py)
MEASURES = ("units", "ranks", "weights", "gradients")

_LABELS = {
    "task/selected_accuracy.test": "test accuracy, epoch of best validation accuracy",
    "task/best_accuracy.test": "test accuracy, best epoch of each task",
    "evaluation/accuracy.test": "test accuracy",
    "task/online_accuracy": "online accuracy, mean over each task",
    "task/online_loss": "online loss, mean over each task",
    "units/dead": "dead units (fraction)",
    "ranks/rank": "rank of the features",
    "ranks/effective": "effective rank of the features",
    "weights/magnitude": "mean weight magnitude",
    "weights/l2_from_initial": "distance from the initial weights",
    "gradients/magnitude": "mean gradient magnitude",
}
_PATTERNS = {
    r"units/(frozen|dormant|inactive)_([\d.]+)": r"\1 units (fraction; threshold \2)",
    r"ranks/srank_([\d.]+)": r"stable rank of the features (threshold \1)",
    r"ranks/approximate_([\d.]+)": r"approximate rank of the features (threshold \1)",
}


def better(tag: str) -> Literal["higher", "lower"]:
    """Which values of a tag are better: lower of losses, of units that do nothing, and of weights; else higher."""
    group = tag.partition("/")[0].partition("_")[0]  # units_test/dead is measured on the split "test"
    return "lower" if "loss" in tag or group in ("units", "weights") else "higher"


def label(tag: str) -> str:
    """What an axis of a tag's values is called: "dead units (fraction), hidden.0" of units/dead.hidden.0."""
    whole = of_network(tag)
    name = tag if tag in _LABELS else whole
    rest = tag[len(name) + 1 :]
    if name in _LABELS:
        text = _LABELS[name]
    else:
        matches = [match.expand(form) for pattern, form in _PATTERNS.items() if (match := re.fullmatch(pattern, name))]
        text = matches[0] if matches else name.partition("/")[2].replace("_", " ") or name
    return f"{text}, {rest}" if rest else text


def of_network(tag: str) -> str:
    """The tag without a layer or a split: units/dormant_0.025 of units/dormant_0.025.hidden.0."""
    return re.sub(r"\.(?!\d).*", "", tag)


def measures(known: Collection[str]) -> list[str]:
    """Of the tags there are, the measures of whole networks, sorted: those of `MEASURES` that name no layer."""
    groups = {tag: tag.partition("/")[0].partition("_")[0] for tag in known}
    return sorted(tag for tag in known if groups[tag] in MEASURES and not _is_part(tag, known))


def _is_part(tag: str, known: Collection[str]) -> bool:
    """Whether a tag is a layer's or a parameter's; these may be named by numbers alone: weights/magnitude.0."""
    return any(tag.startswith(f"{other}.") for other in known) or of_network(tag) != tag


def headline(known: Collection[str]) -> str:
    """The tag to judge by: the first of `HEADLINES` among `known`; raises `UserError` if there is none."""
    for tag in HEADLINES:
        if tag in known:
            return tag
    raise UserError(f"There is nothing to judge by: none of {', '.join(HEADLINES)}. A task must have ended.")
