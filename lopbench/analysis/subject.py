"""What a report is asked for, and what it is of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from lopbench.analysis.curves import MOST_POINTS
from lopbench.analysis.intervals import Statistic
from lopbench.analysis.published import Number
from lopbench.analysis.selection import Selection
from lopbench.analysis.studies import Study


@dataclass(frozen=True)
class Asked:
    """What a report is asked for: the tag to judge by, further tags, how curves are drawn, whom to compare with."""

    tag: str
    tags: Sequence[str] = ()
    over: Literal["task", "step"] = "task"
    bins: int = MOST_POINTS
    statistic: Statistic = "mean"
    baseline: str | None = None


@dataclass(frozen=True)
class Subject:
    """What a report is of: the study, the variants its figures show, what is published of each, and what differs."""

    study: Study
    selection: Selection
    published: Mapping[str, Sequence[Number]] = field(default_factory=dict)
    changed: str = ""

    @property
    def numbers(self) -> dict[str, int]:
        """The style of each variant that is shown, alike in every figure."""
        return {variant: place for place, variant in enumerate(self.selection.variants)}


@dataclass(frozen=True)
class Section:
    """A part of the page; `parts`: HTML."""

    anchor: str
    title: str
    parts: Sequence[str]
