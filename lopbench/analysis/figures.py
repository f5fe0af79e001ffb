"""Figures of a run: is plasticity lost or kept?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lopbench import files
from lopbench.analysis.intervals import FEWEST, bootstrap_interval
from lopbench.analysis.results import load, points
from lopbench.errors import UserError
from lopbench.loggers.records import describe, distinguishing
from lopbench.registry import nearest

if TYPE_CHECKING:
    import pandas as pd

#: colour-blind safe (Okabe and Ito), ordered so that neighbours differ in grey as well; yellow is too pale for lines
COLOURS = ("#000000", "#e69f00", "#0072b2", "#56b4e9", "#d55e00", "#009e73", "#cc79a7", "#808080")
MARKERS = "osD^vPX*"
DASHES = ("-", "--", "-.", ":")
SIZE, DPI = (8.0, 5.0), 150  # inches, dots an inch: 1200 x 750 pixels
LEGEND_COLUMNS = 2
HINTS = {
    "task/online_accuracy": " A line that falls is losing plasticity.",
    "task/online_loss": " A line that rises is losing plasticity.",
}
#: the figures of every run, each of the first of its tags that the run has; plasticity.png there is always
STANDARD = {
    "plasticity": ("task/online_accuracy", "task/online_loss"),
    "test_accuracy": ("task/best_accuracy.test", "evaluation/accuracy.test"),
}
#: what a tag is called, and which values of it are drawn, where its name does not say it well
LABELS = {
    "task/best_accuracy.test": ("test accuracy", ", best epoch of each task"),
    "task/selected_accuracy.test": ("test accuracy", ", epoch of best validation accuracy"),
    "evaluation/accuracy.test": ("test accuracy", ""),
}
MOST_POINTS = 100  # tasks are averaged in bins beyond


@dataclass(frozen=True)
class Curve:
    """One line of the figure: the mean over replicas at the middle of each bin of tasks, and its interval."""

    label: str
    tasks: np.ndarray
    mean: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    replicas: int
    lost: int  #: replicas that ended non-finite


def standard_figures(workdir: str | Path) -> list[Path]:
    """Draw the `STANDARD` figures that a run has the records for; their paths."""
    paths = [plasticity_figure(workdir)]
    for tag in STANDARD["test_accuracy"]:
        if len(load(workdir, [tag])):
            folder = files.make_folder(Path(workdir) / "figures")
            return [*paths, plasticity_figure(workdir, folder / "test_accuracy.png", tag)]
    return paths


def plasticity_figure(workdir: str | Path, path: str | Path | None = None, tag: str | None = None) -> Path:
    """Draw a tag over tasks, one line for each variant (and point, where hyperparameters vary); the PNG's path.

    A line is the mean over replicas, its band the mean's 95% percentile bootstrap interval (none for fewer than three
    replicas). Values within a task are averaged, and so are neighbouring tasks where there are more than
    `MOST_POINTS`. `tag`: "task/online_accuracy" if the run has it, else "task/online_loss". `path`, if None:
    figures/plasticity.png in `workdir`, for a tag that was named plasticity_<tag>.png. Raises `UserError` for a tag
    that the run has not.
    """
    rows, drawn = _records(workdir, tag)
    found, width = curves(rows)
    if path is None:
        name = "plasticity.png" if tag is None else f"plasticity_{tag.replace('/', '.')}.png"
        path = files.make_folder(Path(workdir) / "figures") / name
    files.write_atomically(path, _draw(found, drawn, width))
    return Path(path)


def curves(rows: pd.DataFrame, most_points: int = MOST_POINTS) -> tuple[list[Curve], int]:
    """The lines of a figure of one tag's records, and how many tasks one point stands for."""
    width = -(-int(rows["task"].max() + 1) // most_points)
    names = distinguishing(points(rows))
    found = []
    for point, members in points(rows).items():
        mine = rows[rows["replica"].isin(members)]
        replica, task, value = (mine[name].to_numpy() for name in ("replica", "task", "value"))
        tasks, values = _binned(np.searchsorted(members, replica), task, value, width)
        mean, lower, upper = bootstrap_interval(values)
        lost = len(set(replica[~np.isfinite(value)]))
        label = ", ".join(part for part in (point[0], describe(point, names)) if part)
        found.append(Curve(label, tasks, mean, lower, upper, len(members), lost))
    return found, width


def _binned(replica: np.ndarray, task: np.ndarray, value: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The middle of each bin of `width` tasks, and the means `[replicas, bins]` of the values in it.

    NaN where a replica has no value in a bin, or one that isn't finite: then it is not part of that bin.
    """
    present, bin_ = np.unique(task // width, return_inverse=True)
    shape = (replica.max() + 1, len(present))
    cell = replica * shape[1] + bin_
    with np.errstate(invalid="ignore"):
        means = np.bincount(cell, value, np.prod(shape)) / np.bincount(cell, minlength=np.prod(shape))
    middles = (present * width + np.minimum((present + 1) * width - 1, task.max())) / 2
    return middles, means.reshape(shape)


def _records(workdir: str | Path, tag: str | None) -> tuple[pd.DataFrame, str]:
    """The records to draw, and their tag."""
    for wanted in STANDARD["plasticity"] if tag is None else (tag,):
        rows = load(workdir, [wanted])
        if len(rows):
            return rows, wanted
    known = sorted(load(workdir)["tag"].unique())
    raise UserError(f"{workdir} has no records of {wanted!r}.{nearest(wanted, known)}")


def _draw(found: Sequence[Curve], tag: str, width: int) -> bytes:
    """The PNG's bytes."""
    import io

    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    plain = tag.partition("/")[2].replace("_", " ") or tag
    name, which = LABELS.get(tag, (plain, ", mean over each task" if tag.startswith("task/") else ""))
    beside = _labels_fit(found)
    below = 0 if beside else 0.2 * -(-len(found) // LEGEND_COLUMNS)
    with matplotlib.rc_context({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False}):
        # without pyplot: no window, no global state
        figure = Figure(figsize=(SIZE[0], SIZE[1] + below), layout="constrained")
        axes = figure.subplots()
        for number, curve in enumerate(found):
            _draw_curve(axes, curve, number)
        axes.set_xlabel("task" if width == 1 else f"task (each point is the mean of {width} tasks)")
        axes.set_ylabel(name + which)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
        axes.margins(x=0.02)
        _title(axes, f"{name[:1].upper()}{name[1:]} from task to task", _subtitle(found, tag))
        if beside:
            _label_ends(axes, found)
        else:
            figure.legend(loc="outside lower left", ncols=LEGEND_COLUMNS, fontsize=9, frameon=False, handlelength=4)
        sink = io.BytesIO()
        figure.savefig(sink, format="png", dpi=DPI)
    return sink.getvalue()


def _title(axes: Any, title: str, below: Sequence[str]) -> None:
    axes.set_title(title, loc="left", fontweight="bold", pad=8 + 12 * len(below))
    place = {"xy": (0, 1), "xytext": (0, 6), "xycoords": "axes fraction", "textcoords": "offset points"}
    axes.annotate("\n".join(below), **place, fontsize=9, color="0.3")


def _style(number: int) -> dict[str, Any]:
    """Colour, marker and dashes of line `number`: no two alike among the first 32."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": DASHES[(number // len(COLOURS)) % len(DASHES)],
        "marker": MARKERS[number % len(MARKERS)],
        "markersize": 6,
    }


def _draw_curve(axes: Any, curve: Curve, number: int) -> None:
    style = _style(number)
    every = max(1, len(curve.tasks) // 8)
    axes.fill_between(curve.tasks, curve.lower, curve.upper, color=style["color"], alpha=0.2, linewidth=0)
    axes.plot(curve.tasks, curve.mean, label=curve.label, linewidth=1.8, markevery=(number % every, every), **style)


def _subtitle(found: Sequence[Curve], tag: str) -> list[str]:
    """What a line and its band are, how to read them, and who is missing."""
    counts = sorted({curve.replicas for curve in found})
    count = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    lines = ["Line: one seed." if counts == [1] else f"Line: mean over {count} seeds."]
    if counts[-1] >= FEWEST:
        lines[0] += " Band: its 95% bootstrap interval."
    lines[0] += HINTS.get(tag, "")
    lost = [f"{curve.lost} of {curve.replicas} {curve.label}" for curve in found if curve.lost]
    return lines + [f"Left out where not finite: {', '.join(lost)}."] * bool(lost)


def _labels_fit(found: Sequence[Curve]) -> bool:
    """Whether names fit beside the lines' ends; else they go into a legend below."""
    short = max(len(curve.label) for curve in found) <= 28
    return short and len(found) <= 10 and all(np.isfinite(curve.mean[-1]) for curve in found)


def _label_ends(axes: Any, found: Sequence[Curve]) -> None:
    """Each line's name, with its marker, to the right of its end."""
    low, high = axes.get_ylim()
    left, right = axes.get_xlim()
    beside = right + 0.02 * (right - left)
    places = _spread(np.array([curve.mean[-1] for curve in found]), gap=(high - low) / 20)
    for number, (curve, place) in enumerate(zip(found, places, strict=True)):
        style = _style(number) | {"linestyle": ":", "linewidth": 1}
        axes.plot([curve.tasks[-1], beside], [curve.mean[-1], place], markevery=[1], clip_on=False, **style)
        axes.annotate(
            curve.label, (beside, place), (8, 0), textcoords="offset points", va="center", annotation_clip=False
        )
    axes.set(xlim=(left, right), ylim=(low, high))


def _spread(ends: np.ndarray, gap: float) -> np.ndarray:
    """The heights nearest to `ends` (least squares) in the same order and at least `gap` apart."""
    from scipy.optimize import isotonic_regression

    order = np.argsort(ends, kind="stable")
    steps = gap * np.arange(len(ends))
    places = np.empty(len(ends))
    places[order] = isotonic_regression(ends[order] - steps).x + steps
    return places
