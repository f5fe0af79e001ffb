"""Figures of several panels: sensitivity to swept values, and what goes along with lost plasticity."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lopbench.analysis.lines import Curve, draw_lines
from lopbench.analysis.style import SIZE, capitalised, legend_columns, line_style, new_figure, small_print, styled

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 3
PANEL, TITLE_WIDTH = (3.3, 2.4), 42  # inches; characters
MOST_TICKS = 8  # with a label each
DECADES = 10.0  # values whose largest is this many times the smallest have a logarithmic axis


@dataclass(frozen=True)
class Panel:
    """One of several: the lines of a measure, and what its axis is called."""

    label: str
    curves: Sequence[Curve]


def panels_figure(
    panels: Sequence[Panel], title: str, x: str, numbers: Mapping[str, int], notes: Sequence[str] = ()
) -> Figure:
    """Small multiples that share x, with one legend: every variant has one colour in all of them."""
    columns = 2 if len(panels) in (2, 4) else min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    with styled():
        figure = new_figure(max(SIZE[0], PANEL[0] * columns), PANEL[1] * rows + 0.9)
        every = figure.subplots(rows, columns, sharex=True, squeeze=False).ravel()
        for axes, panel in zip(every, panels, strict=False):
            draw_lines(axes, panel.curves, numbers)
            axes.set_title("\n".join(textwrap.wrap(capitalised(panel.label), TITLE_WIDTH)), loc="left", fontsize=10)
            axes.grid(alpha=0.25)
            axes.tick_params(labelsize=9)
        for axes in every[len(panels) :]:
            axes.remove()
        for axes in every[max(0, len(panels) - columns) : len(panels)]:
            axes.set_xlabel(x, fontsize=10)
            axes.tick_params(labelbottom=True)
        _head(figure, title)
        small_print(figure, notes, _legend(panels, numbers))
        return figure


def sensitivity_figure(
    found: pd.DataFrame, score: str, methods: Sequence[str], others: Mapping[str, float], notes: Sequence[str]
) -> Figure:
    """The score against each swept value, one panel a key, one line a method.

    `found`: columns method, key, value (numbers, texts, or None for "off"), center, low, high. `methods`: all
    of the study, so that colours are theirs. `others`: the scores of those that were not swept: a line across.
    """
    keys = list(dict.fromkeys(found["key"]))
    columns = min(2, len(keys))
    rows = -(-len(keys) // columns)
    with styled():
        figure = new_figure(SIZE[0], 3.4 * rows + 0.8)
        every = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
        for axes, key in zip(every, keys, strict=False):
            _sensitivity_panel(axes, found[found["key"] == key], methods)
            for name, mean in others.items():
                colour = line_style(methods.index(name))["color"]
                axes.axhline(mean, color=colour, linestyle=":", linewidth=1.8, label=f"{name} (not swept)")
            axes.set_xlabel(key.partition(".")[2] or key, fontsize=10)
            axes.margins(x=0.1)
            axes.grid(alpha=0.25)
        for axes in every[len(keys) :]:
            axes.remove()
        every[0].set_ylabel(score)
        _head(figure, f"{capitalised(score)} by hyperparameter")
        handles = {
            label: handle for axes in every for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        small_print(
            figure,
            notes,
            {"handles": list(handles.values()), "labels": list(handles), "ncols": legend_columns(handles)},
        )
        return figure


def _sensitivity_panel(axes: Axes, found: pd.DataFrame, methods: Sequence[str]) -> None:
    """Numbers along an axis, logarithmic where they span decades; other values side by side, off first."""
    values = [None if _missing(value) else value for value in found["value"]]
    places, ticks, logarithmic = _places(values)
    rows = found.assign(place=[places[value] for value in values])
    for method, mine in rows.groupby("method", sort=False):
        mine = mine.sort_values("place")
        style = line_style(methods.index(str(method)))
        error = np.abs(mine[["low", "high"]].to_numpy().T - mine["center"].to_numpy())
        axes.errorbar(mine["place"], mine["center"], yerr=error, capsize=3, linewidth=1.8, label=str(method), **style)
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    if len(ticks) <= MOST_TICKS:
        axes.set_xticks(list(ticks), list(ticks.values()))
        axes.minorticks_off()


def _missing(value: Any) -> bool:
    return value is None or value != value


def _places(values: Sequence[Any]) -> tuple[dict[Any, float], dict[float, str], bool]:
    """Where each value lies, what its tick is called, and whether the axis is logarithmic."""
    distinct = list(dict.fromkeys(values))
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in distinct)
    if numeric:
        logarithmic = min(distinct) > 0 and max(distinct) >= DECADES * min(distinct)
        return (
            {value: float(value) for value in distinct},
            {float(value): named(value) for value in distinct},
            logarithmic,
        )
    ordered = sorted(distinct, key=lambda value: (value is not None, isinstance(value, str), _sortable(value)))
    places = {value: float(place) for place, value in enumerate(ordered)}
    return places, {place: named(value) for value, place in places.items()}, False


def _sortable(value: Any) -> Any:
    return 0 if value is None else value


def named(value: Any) -> str:
    """A swept value as a reader knows it; None and NaN are "off"."""
    if _missing(value):
        return "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


#: the three correlations of `correlates.predictors`, and what each one compares
KINDS = {
    "pooled": "all replicas and tasks together",
    "over_time": "over a replica's time",
    "across_replicas": "between replicas",
}


def predictors_figure(found: pd.DataFrame, labels: Sequence[str], outcome: str) -> Figure:
    """Rank correlations as points with their intervals: what `correlates.predictors` gives, a label for each row."""
    heights = np.arange(len(found))[::-1]
    with styled():
        figure = new_figure(SIZE[0], 1.7 + 0.45 * len(found))
        axes = figure.subplots()
        for number, (kind, words) in enumerate(KINDS.items()):
            error = np.abs(found[[f"{kind}_low", f"{kind}_high"]].to_numpy().T - found[kind].to_numpy())
            style = line_style(number) | {"linestyle": "none", "label": words}
            axes.errorbar(found[kind], heights + 0.22 * (1 - number), xerr=error, capsize=3, **style)
        axes.axvline(0, color="0.5", linewidth=1)
        axes.set_yticks(heights, list(labels))
        axes.set(xlim=(-1.05, 1.05), ylim=(-0.6, len(found) - 0.4))
        axes.set_xlabel(f"rank correlation with the next task's {outcome}")
        axes.grid(alpha=0.25, axis="x")
        _head(figure, "What predicts how the next task is learned")
        small_print(figure, [], {"ncols": 3})
        return figure


def _head(figure: Figure, title: str) -> None:
    """A title for the whole figure."""
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=13)


def _legend(panels: Sequence[Panel], numbers: Mapping[str, int]) -> dict[str, Any]:
    """What the legend of all panels shows."""
    from matplotlib.lines import Line2D

    labels = list(dict.fromkeys(curve.label for panel in panels for curve in panel.curves))
    handles = [Line2D([], [], linewidth=1.8, label=label, **line_style(numbers[label])) for label in labels]
    return {"handles": handles, "ncols": legend_columns(labels), "handlelength": 4}
