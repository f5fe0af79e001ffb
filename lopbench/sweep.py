"""Sweeps: a grid over bindings, of which every combination of values makes a variant.

    sweep.grid = {'optimizers.SGD.learning_rate': [0.1, 0.01], 'strategies.L2.l2_weight': [1e-3, 1e-4]}

makes four variants of each variant of the run, named after their values: "learning_rate=0.1 l2_weight=0.001". Points
that differ only in numbers marked PerReplica train side by side in one population (variants.py).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from lopbench.errors import UserError, require
from lopbench.gin_text import Binding, at, render

FORM = "{'kind.Part.parameter': [value, value, ...], ...}"
#: How many points a grid may have. Each is built and checked before any is trained, which takes about 10 ms.
MOST_POINTS = 10_000


def expand(variants: Mapping[str, Sequence[str]], grid: Binding, named: bool) -> dict[str, tuple[str, ...]]:
    """Every variant at every point of `grid`: its lines, then those of the point.

    A name is the variant's, if these have `named` themselves, and the point's values.
    """
    with at(grid.place):
        points = _points(grid)
    return {
        f"{name} {label}" if named else label: (*lines, *point)
        for name, lines in variants.items()
        for label, point in points.items()
    }


def checked(grid: Binding) -> dict[str, Sequence[Any]]:
    """The grid's values by key, or `UserError`."""
    name, axes = grid.key, grid.value
    if not isinstance(axes, dict) or not axes:
        raise UserError(f"{name} is {axes!r}: it must be {FORM}.")
    for key, values in axes.items():
        if not isinstance(key, str) or not isinstance(values, (list, tuple)) or not values:
            raise UserError(f"{name}[{key!r}] is {values!r}: it must be a list of values, as in {FORM}.")
        if len({repr(value) for value in values}) < len(values):
            raise UserError(f"{name}[{key!r}] is {values!r}: it names a value twice.")
    return axes


def _points(grid: Binding) -> dict[str, tuple[str, ...]]:
    """The gin lines of every combination of values, by what names it."""
    axes = checked(grid)
    count = math.prod(map(len, axes.values()))
    require(count <= MOST_POINTS, f"{grid.key} makes {count:,} variants: at most {MOST_POINTS:,} are taken.")
    labels = _labels(list(axes))
    points = {}
    for values in itertools.product(*axes.values()):
        label = " ".join(f"{labels[key]}={_shown(value)}" for key, value in zip(axes, values, strict=True))
        if label in points:
            raise UserError(f"{grid.key} makes two variants named {label!r}: leave one of the values out.")
        points[label] = tuple(render(dict(zip(axes, values, strict=True))))
    return points


def _labels(keys: list[str]) -> dict[str, str]:
    """The shortest endings of the keys that tell them apart: mostly the parameters' names."""
    short = {key: key.rpartition(".")[2] for key in keys}
    return {key: name if list(short.values()).count(name) == 1 else key for key, name in short.items()}


def _shown(value: Any) -> str:
    """A value as it is shown in a variant's name, which holds no slash."""
    short = f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
    return short.replace("/", "|").replace("\\", "|")
