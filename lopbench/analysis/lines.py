"""A figure of lines: one a variant, with its band, its name at its end, and published numbers beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lopbench.analysis.intervals import FEWEST
from lopbench.analysis.style import (
    SIZE,
    capitalised,
    legend_columns,
    line_style,
    new_figure,
    set_title,
    small_print,
    styled,
    wrapped,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_LABELS, LONGEST_LABEL = 10, 28  # beside the ends of lines; more, or longer ones, make a legend below


@dataclass(frozen=True)
class Curve:
    """One line: the mean over replicas at the middle of each bin of tasks (or steps), and its interval."""

    label: str
    tasks: np.ndarray
    mean: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    replicas: int
    lost: int  #: replicas that ended non-finite


@dataclass(frozen=True)
class Mark:
    """A number to draw beside a line: `value` over the span from `first` to `last` of the axis.

    `low`, `high`: a band, such as one standard error to both sides. `label`: of the line that it belongs to.
    """

    label: str
    first: float
    last: float
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Words:
    """What a figure says: its title, small print under that, both axes, and notes at the foot of it."""

    title: str
    x: str
    y: str
    below: Sequence[str] = ()
    notes: Sequence[str] = field(default_factory=list)


def line_figure(
    curves: Sequence[Curve], words: Words, marks: Sequence[Mark] = (), numbers: Mapping[str, int] | None = None
) -> Figure:
    """Lines with their bands, and marks. `numbers`: the style of each label's line, where other figures have it too."""
    numbers = numbers or {curve.label: number for number, curve in enumerate(curves)}
    beside = labels_fit(curves)
    columns = min(2, legend_columns(curve.label for curve in curves))
    below = (0 if beside else 0.2 * -(-len(curves) // columns)) + 0.17 * len(wrapped(words.notes))
    with styled():
        figure = new_figure(SIZE[0], SIZE[1] + below)
        axes = figure.subplots()
        draw_lines(axes, curves, numbers)
        _draw_marks(axes, marks, numbers)
        axes.set(xlabel=words.x, ylabel=words.y)
        axes.grid(alpha=0.25)
        axes.margins(x=0.02)
        set_title(axes, capitalised(words.title), words.below)
        if beside:
            _label_ends(axes, curves, numbers)
        small_print(figure, words.notes, None if beside else {"ncols": columns, "handlelength": 4})
        return figure


def draw_lines(axes: Axes, curves: Sequence[Curve], numbers: Mapping[str, int]) -> None:
    """Every line with its band; markers lie at different places of neighbouring lines."""
    from matplotlib.ticker import MaxNLocator

    for curve in curves:
        number = numbers[curve.label]
        style = line_style(number)
        every = max(1, len(curve.tasks) // 8)
        axes.fill_between(curve.tasks, curve.lower, curve.upper, color=style["color"], alpha=0.2, linewidth=0)
        axes.plot(curve.tasks, curve.mean, label=curve.label, linewidth=1.8, markevery=(number % every, every), **style)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _draw_marks(axes: Axes, marks: Sequence[Mark], numbers: Mapping[str, int]) -> None:
    """A dotted line over each span, or a hollow diamond where it is one point, with its band; the view stays wide."""
    for mark in marks:
        colour = line_style(numbers[mark.label])["color"]
        if mark.first == mark.last:
            bounds = [[mark.value - mark.low], [mark.high - mark.value]]
            shape: dict[str, Any] = {"marker": "d", "markersize": 9, "markerfacecolor": "white", "markeredgewidth": 1.6}
            axes.errorbar([mark.first], [mark.value], yerr=bounds, color=colour, capsize=4, zorder=4, **shape)
        else:
            span = [mark.first, mark.last]
            axes.plot(span, [mark.value] * 2, color=colour, linestyle=(0, (1, 1.5)), linewidth=2.2, zorder=4)
            axes.fill_between(span, mark.low, mark.high, color=colour, alpha=0.3, linewidth=0)


def counted(curves: Sequence[Curve]) -> list[str]:
    """What a line and its band are, and who is missing."""
    counts = sorted({curve.replicas for curve in curves})
    count = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    lines = ["Line: one seed." if counts == [1] else f"Line: mean over {count} seeds."]
    if counts[-1] >= FEWEST:
        lines[0] += " Band: its 95% bootstrap interval."
    lost = [f"{curve.lost} of {curve.replicas} {curve.label}" for curve in curves if curve.lost]
    return lines + [f"Left out where not finite: {', '.join(lost)}."] * bool(lost)


def labels_fit(curves: Sequence[Curve]) -> bool:
    """Whether names fit beside the lines' ends; else they go into a legend below."""
    short = max(len(curve.label) for curve in curves) <= LONGEST_LABEL
    return short and len(curves) <= MOST_LABELS and all(np.isfinite(curve.mean[-1]) for curve in curves)


def _label_ends(axes: Axes, curves: Sequence[Curve], numbers: Mapping[str, int]) -> None:
    """Each line's name, with its marker, to the right of its end."""
    low, high = axes.get_ylim()
    left, right = axes.get_xlim()
    beside = right + 0.02 * (right - left)
    places = spread(np.array([curve.mean[-1] for curve in curves]), gap=(high - low) / 20)
    for curve, place in zip(curves, places, strict=True):
        style = line_style(numbers[curve.label]) | {"linestyle": ":", "linewidth": 1}
        axes.plot([curve.tasks[-1], beside], [curve.mean[-1], place], markevery=[1], clip_on=False, **style)
        axes.annotate(
            curve.label, (beside, place), (8, 0), textcoords="offset points", va="center", annotation_clip=False
        )
    axes.set(xlim=(left, right), ylim=(low, high))


def spread(ends: np.ndarray, gap: float) -> np.ndarray:
    """The heights nearest to `ends` (least squares) in the same order and at least `gap` apart."""
    from scipy.optimize import isotonic_regression

    order = np.argsort(ends, kind="stable")
    steps = gap * np.arange(len(ends))
    places = np.empty(len(ends))
    places[order] = isotonic_regression(ends[order] - steps).x + steps
    return places
