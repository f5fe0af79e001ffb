"""Figures of a run: is plasticity lost or kept?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lopbench import files
from lopbench.analysis.cells import averaged
from lopbench.analysis.curves import MOST_POINTS
from lopbench.analysis.intervals import bootstrap_interval
from lopbench.analysis.lines import Curve, Words, counted, line_figure
from lopbench.analysis.results import load, points
from lopbench.analysis.style import encoded
from lopbench.analysis.tags import label
from lopbench.errors import UserError
from lopbench.loggers.records import describe, distinguishing
from lopbench.registry import nearest

if TYPE_CHECKING:
    import pandas as pd

HINTS = {
    "task/online_accuracy": " A line that falls is losing plasticity.",
    "task/online_loss": " A line that rises is losing plasticity.",
}
#: the figures of every run, each of the first of its tags that the run has; plasticity.png there is always
STANDARD = {
    "plasticity": ("task/online_accuracy", "task/online_loss"),
    "test_accuracy": ("task/best_accuracy.test", "evaluation/accuracy.test"),
}


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
        name = ", ".join(part for part in (point[0], describe(point, names)) if part)
        found.append(Curve(name, tasks, mean, lower, upper, len(members), lost))
    return found, width


def _binned(replica: np.ndarray, task: np.ndarray, value: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The middle of each bin of `width` tasks, and the means `[replicas, bins]` of the values in it.

    NaN where a replica has no value in a bin, or one that isn't finite: then it is not part of that bin.
    """
    present, bin_ = np.unique(task // width, return_inverse=True)
    means, _ = averaged(replica, bin_, value, (replica.max() + 1, len(present)))
    middles = (present * width + np.minimum((present + 1) * width - 1, task.max())) / 2
    return middles, means


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
    name = label(tag)
    below = counted(found)
    below[0] += HINTS.get(tag, "")
    along = "task" if width == 1 else f"task (each point is the mean of {width} tasks)"
    return encoded(line_figure(found, Words(f"{name.partition(',')[0]} from task to task", along, name, below)), "png")
