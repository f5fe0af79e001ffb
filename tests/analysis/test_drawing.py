"""What figures show: lines with their names, published numbers, swept values in their order."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from lopbench.analysis.lines import Curve, Mark, Words, line_figure
from lopbench.analysis.panels import Panel, panels_figure, predictors_figure, sensitivity_figure
from lopbench.analysis.style import COLOURS, encoded, line_style


def curve(label, mean, tasks=None):
    values = np.asarray(mean, float)
    return Curve(label, np.arange(len(values)) if tasks is None else tasks, values, values - 0.1, values + 0.1, 5, 0)


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


WORDS = Words("accuracy", "task", "accuracy", ["Line: mean."])


def test_the_first_lines_differ_in_colour_and_neighbours_in_grey():
    assert len({tuple(map(str, line_style(number).values())) for number in range(32)}) == 32
    grey = [np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) @ [0.299, 0.587, 0.114] for colour in COLOURS]
    assert min(abs(np.diff(grey))) > 255 / 20


def test_a_style_follows_the_variant_through_every_figure():
    numbers = {"a": 0, "b": 1, "c": 2}
    drawn = line_figure([curve("c", [1, 2])], WORDS, (), numbers)
    assert to_hex(drawn.axes[0].lines[0].get_color()) == COLOURS[2]
    panels = panels_figure([Panel("x", [curve("b", [1, 2])]), Panel("y", [curve("c", [1])])], "t", "task", numbers)
    assert [to_hex(axes.lines[0].get_color()) for axes in panels.axes] == [COLOURS[1], COLOURS[2]]


def test_published_numbers_lie_at_their_tasks_with_their_bands():
    marks = [Mark("a", 0, 3, 0.5, 0.4, 0.6), Mark("a", 2, 2, 0.7, 0.6, 0.9)]
    axes = line_figure([curve("a", [0.1, 0.2, 0.3, 0.4])], WORDS, marks).axes[0]
    span = next(line for line in axes.lines if list(line.get_ydata()) == [0.5, 0.5])
    assert list(span.get_xdata()) == [0, 3]
    (point,) = axes.containers
    assert point.lines[0].get_xydata().tolist() == [[2, 0.7]]
    bar = point.lines[2][0].get_segments()[0]
    np.testing.assert_allclose(bar[:, 1], [0.6, 0.9])


def test_long_names_make_a_legend_below_and_notes_stand_over_it():
    words = Words("accuracy", "task", "accuracy", [], ["Source: somebody."])
    long = "a method with a long name that goes on and on, factor=0.1"
    figure = line_figure([curve(long, [1, 2]), curve("b", [2, 1])], words)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [long, "b"]
    assert legend.get_title().get_text() == "Source: somebody."
    assert line_figure([curve("b", [2, 1])], words).get_supxlabel() == "Source: somebody."


def test_dollar_signs_of_names_are_not_formulas():
    assert encoded(line_figure([curve("$\\nonsense{$", [1, 2])], WORDS), "png").startswith(b"\x89PNG")


@pytest.mark.parametrize("kind", ["png", "pdf", "svg"])
def test_the_same_figure_gives_the_same_bytes(kind):
    first, second = (encoded(line_figure([curve("a", [1, 2])], WORDS), kind) for _ in range(2))
    assert first == second


def swept(values, method="swr", key="strategies.S.factor"):
    number = np.linspace(0.5, 0.8, len(values))
    found = pd.DataFrame({"method": method, "key": key, "center": number, "low": number - 0.1, "high": number + 0.1})
    return found.assign(value=pd.Series(list(values), dtype=object))


def ticks(axes):
    return [label.get_text() for label in axes.get_xticklabels()]


@pytest.mark.parametrize(
    ("values", "scale", "labels"),
    [
        ([1e-5, 1e-3, 0.1], "log", ["1e-05", "0.001", "0.1"]),  # decades
        ([1, 2, 3], "linear", ["1", "2", "3"]),
        ([0.0, 0.1, 10.0], "linear", ["0", "0.1", "10"]),  # 0 has no logarithm
        ([None, 0.1, 0.5], "linear", ["off", "0.1", "0.5"]),
        (["mean", "resample"], "linear", ["mean", "resample"]),
        ([False, True], "linear", ["False", "True"]),
    ],
)
def test_swept_values_have_an_axis_of_their_kind(values, scale, labels):
    axes = sensitivity_figure(swept(values), "accuracy", ["base", "swr"], {"base": 0.4}, []).axes[0]
    assert axes.get_xscale() == scale
    assert ticks(axes) == labels
    assert [list(line.get_ydata()) for line in axes.lines if list(line.get_ydata()) == [0.4, 0.4]]  # base: across


def test_many_values_of_decades_have_plain_numbers_on_the_axis():
    axes = sensitivity_figure(swept(np.geomspace(1e-6, 1, 13)), "accuracy", ["swr"], {}, []).axes[0]
    assert "0.01" in ticks(axes)


def test_every_correlation_has_its_point_and_its_interval():
    columns = {"pooled": [0.5, -0.2], "over_time": [0.1, np.nan], "across_replicas": [-1.0, 0.0]}
    bounds = {
        f"{name}_{end}": np.array(values) + shift
        for name, values in columns.items()
        for end, shift in (("low", -0.1), ("high", 0.2))
    }
    drawn = predictors_figure(pd.DataFrame({**columns, **bounds}), ["dead units", "ranks"], "accuracy")
    points = [container.lines[0].get_xdata().tolist() for container in drawn.axes[0].containers]
    np.testing.assert_array_equal(points, list(columns.values()))
    assert [label.get_text() for label in drawn.axes[0].get_yticklabels()] == ["dead units", "ranks"]
    segment = drawn.axes[0].containers[0].lines[2][0].get_segments()[0]
    np.testing.assert_allclose(segment[:, 0], [0.4, 0.7])
