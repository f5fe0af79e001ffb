"""The figure of growth: microseconds a step against replicas, width and batch, on logarithmic axes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.counting import Peaks
from benchmarks.growth import CURVES, Curve, Point

#: of the curves in turn; neighbours differ in grey too
MARKERS, COLOURS = "osD^", ("#000000", "#e69f00", "#000000", "#000000")


def draw(points: Sequence[Point], machine: Peaks, path: Path) -> None:
    """One panel an axis; dashed: the least time that a step's operations and bytes take on this machine."""
    axes = list(dict.fromkeys(curve.axis for curve in CURVES))
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    for panel, axis in zip(figure.subplots(1, len(axes), sharey=True), axes, strict=True):
        for curve in (curve for curve in CURVES if curve.axis == axis):
            _draw_curve(panel, curve, [point for point in points if point.curve is curve], machine)
        panel.set(xscale="log", yscale="log", xlabel=axis)
        panel.grid(which="major", color="0.9")
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False, fontsize="small")
    figure.axes[0].set_ylabel("microseconds a step, all replicas")
    figure.savefig(path, dpi=110)


def _draw_curve(panel: Axes, curve: Curve, points: Sequence[Point], machine: Peaks) -> None:
    which = CURVES.index(curve)
    colour, values = COLOURS[which], [point.value for point in points]
    taken = [point.microseconds for point in points]
    panel.plot(values, taken, color=colour, marker=MARKERS[which], label=curve.name)
    least = [1e6 * machine.bound(point.work)[0] for point in points]
    panel.plot(values, least, "--", color=colour, linewidth=1)
