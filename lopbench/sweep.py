"""Sweeps: points drawn over bindings, each of which makes a variant of every variant of the run.

    sweep.grid = {'optimizers.SGD.learning_rate': [0.1, 0.01], 'strategies.L2.l2_weight': [1e-3, 1e-4]}

is every combination of values, here four points. Instead of listing values they can be drawn:

    sweep.sobol = {
        'optimizers.SGD.learning_rate': ('log_uniform', 1e-3, 1e-1),
        'architectures.MLP.activation': ['relu', 'tanh'],
    }
    sweep.samples = 16
    sweep.seed = 0

by `sweep.random` independently, by `sweep.sobol` from a scrambled Sobol sequence (Sobol 1967; Owen 1998; SciPy's),
which fills the space more evenly. An axis is ('uniform', low, high), ('log_uniform', low, high), ('integer', low,
high), both ends included, or a list of values, equally likely. Drawn numbers are rounded to four digits, so that a
name says exactly what was run. More samples keep those before: the first n points follow from the seed and the axes
alone (of `sweep.random` those of an axis from that axis alone). A grid beside is combined with every sample.

A variant is named after the point's values, "swr learning_rate=0.1 reinit_factor=0.01"; a method that does not use a
key has no such axis. Points that differ only in numbers marked PerReplica train side by side in one population
(variants.py), of at most `sweep.most_replicas` replicas.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lopbench.checks import is_integer, is_number
from lopbench.errors import UserError, require
from lopbench.gin_text import Binding, at
from lopbench.loggers.records import Value

GRID, RANDOM, SOBOL = "sweep.grid", "sweep.random", "sweep.sobol"
SAMPLES, SEED, MOST_REPLICAS, POINTS = "sweep.samples", "sweep.seed", "sweep.most_replicas", "sweep.points"
#: what a gin file may bind of a sweep; `run` never sees these
KEYS = (GRID, RANDOM, SOBOL, SAMPLES, SEED, MOST_REPLICAS, POINTS)
#: those that hold axes
AXES = (GRID, RANDOM, SOBOL)

FORM = "{'kind.Part.parameter': [value, value, ...], ...}"
DRAWN_FORM = "{'kind.Part.parameter': ('log_uniform', low, high), ...}"
#: how an axis may be drawn, besides from a list
DISTRIBUTIONS = ("uniform", "log_uniform", "integer")
#: How many points a sweep may have. Each is built and checked before any is trained, which takes about 10 ms.
MOST_POINTS = 10_000
DIGITS = 4  #: of a drawn number

Axes = dict[str, Sequence[Any]]


@dataclass(frozen=True)
class Point:
    """What a variant is in the study: one point of a method.

    method: the variant of the gin file that it is made of, before any sweep. values: of the swept bindings that it
    uses, by key, as columns of a table hold them: numbers, texts, or None (off).
    """

    method: str
    values: Mapping[str, Value] = field(default_factory=dict)

    def told(self) -> dict[str, Any]:
        """As `sweep.points` and JSON have it."""
        return {"method": self.method, "values": dict(self.values)}


def points(plans: Mapping[str, Binding]) -> list[dict[str, Any]]:
    """The points of what `plans` binds of `KEYS`, `{key: value}` each; one empty point without a sweep.

    Raises `UserError` for a sweep that is malformed, empty or too large.
    """
    _check_numbers(plans)
    factors = []
    if GRID in plans:
        with at(plans[GRID].place):
            axes = checked(plans[GRID])
            _check_count(GRID, math.prod(map(len, axes.values())))
            factors.append([dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())])
    if drawn := [plans[key] for key in (RANDOM, SOBOL) if key in plans]:
        with at(drawn[-1].place):
            require(len(drawn) == 1, f"Both {RANDOM} and {SOBOL} are bound: points are drawn by one of them.")
            factors.append(_drawn(drawn[0], plans))
    count = math.prod(map(len, factors))
    _check_count(" and ".join(key for key in AXES if key in plans), count)
    return [{key: value for part in parts for key, value in part.items()} for parts in itertools.product(*factors)]


def checked(binding: Binding) -> Axes:
    """The axes that `sweep.grid`, `sweep.random` or `sweep.sobol` binds, by key, or `UserError`."""
    name, axes = binding.key, binding.value
    form = FORM if name == GRID else DRAWN_FORM
    if not isinstance(axes, dict) or not axes:
        raise UserError(f"{name} is {axes!r}: it must be {form}.")
    for key, values in axes.items():
        if name != GRID and isinstance(values, tuple):
            _check_distribution(f"{name}[{key!r}]", values)
        elif not isinstance(key, str) or not isinstance(values, (list, tuple)) or not values:
            raise UserError(f"{name}[{key!r}] is {values!r}: it must be a list of values, as in {form}.")
        elif len(set(map(_identity, values))) < len(values):
            raise UserError(f"{name}[{key!r}] is {values!r}: it names a value twice.")
    return axes


def _identity(value: Any) -> Any:
    """What is equal for values that are the same: 1 and 1.0 are, 1 and True are not."""
    return value if is_number(value) else repr(value)


def label(values: Mapping[str, Any]) -> str:
    """What names a point: "learning_rate=0.1 l2_weight=0.001". Keys are cut to what tells them apart."""
    short = {key: key.rpartition(".")[2] for key in values}
    names = {key: name if list(short.values()).count(name) == 1 else key for key, name in short.items()}
    return " ".join(f"{names[key]}={_shown(value)}" for key, value in values.items())


def as_value(value: Any) -> Value:
    """A binding's value as a column of a table holds it: what is no number, text or None as gin writes it."""
    return value if value is None or isinstance(value, (bool, int, float, str)) else repr(value)


def told(binding: Binding) -> dict[str, Point]:
    """The points that `sweep.points` tells by variant, as a run writes them down for itself."""
    value = binding.value
    entries = value.values() if isinstance(value, dict) else [None]
    right = all(
        isinstance(entry, dict)
        and entry.keys() == {"method", "values"}
        and isinstance(entry["method"], str)
        and isinstance(entry["values"], dict)
        and all(isinstance(key, str) for key in entry["values"])
        and all(value is None or isinstance(value, (bool, int, float, str)) for value in entry["values"].values())
        for entry in entries
    )
    form = "{'variant': {'method': 'name', 'values': {'kind.Part.parameter': value}}, ...}"
    with at(binding.place):
        require(right, f"{POINTS} is {_cut(repr(value))}: it must be {form}.")
    return {name: Point(entry["method"], entry["values"]) for name, entry in value.items()}


def _check_numbers(plans: Mapping[str, Binding]) -> None:
    """The bindings that are numbers, and whether those that draw have what they need."""
    least = {SAMPLES: 1, SEED: 0, MOST_REPLICAS: 1}
    for key, smallest in least.items():
        if key in plans and not (key == MOST_REPLICAS and plans[key].value is None):
            value = plans[key].value
            with at(plans[key].place):
                require(is_integer(value, smallest), f"{key} is {value!r}: it must be an integer at least {smallest}.")
    for key in (SAMPLES, SEED):
        if key in plans and not {RANDOM, SOBOL} & plans.keys():
            raise plans[key].place.error(f"{key} is bound, and nothing is drawn: bind {SOBOL} or {RANDOM}, too.")
    for key in (RANDOM, SOBOL):
        if key in plans and SAMPLES not in plans:
            raise plans[key].place.error(f"How many points shall {key} draw? Bind {SAMPLES}.")


def _check_count(who: str, count: int) -> None:
    require(count <= MOST_POINTS, f"{who} makes {count:,} variants: at most {MOST_POINTS:,} are taken.")


def _check_distribution(name: str, axis: tuple[Any, ...]) -> None:
    form = "('uniform', low, high), ('log_uniform', low, high), ('integer', low, high) or a list of values"
    right = len(axis) == 3 and axis[0] in DISTRIBUTIONS and is_number(axis[1]) and is_number(axis[2])
    require(right, f"{name} is {axis!r}: it must be {form}.")
    kind, low, high = axis
    require(low < high, f"{name} is {axis!r}: its low end must be below its high one.")
    require(kind != "log_uniform" or low > 0, f"{name} is {axis!r}: the ends of 'log_uniform' must be above 0.")
    whole = is_integer(low, -(2**53)) and is_integer(high, -(2**53))
    require(kind != "integer" or whole, f"{name} is {axis!r}: the ends of 'integer' must be integers.")


# Drawing -------------------------------------------------------------------------------------------


def _drawn(binding: Binding, plans: Mapping[str, Binding]) -> list[dict[str, Any]]:
    """The points of `sweep.random` or `sweep.sobol`; one that is drawn twice counts once."""
    axes, count = checked(binding), plans[SAMPLES].value
    seed = plans[SEED].value if SEED in plans else 0
    _check_count(binding.key, count)
    fractions = (_sobol if binding.key == SOBOL else _random)(list(axes), count, seed)
    found = ({key: _at(axes[key], u) for key, u in zip(axes, row, strict=True)} for row in fractions)
    return list({repr(point): point for point in found}.values())


def _random(keys: Sequence[str], count: int, seed: int) -> np.ndarray:
    """Independent uniform numbers in [0, 1), `[count, axes]`; those of an axis follow from its key and the seed."""
    return np.stack([np.random.default_rng([seed, *key.encode()]).random(count) for key in keys], axis=1)


def _sobol(keys: Sequence[str], count: int, seed: int) -> np.ndarray:
    """The first points of a scrambled Sobol sequence in [0, 1), `[count, axes]`."""
    from scipy.stats import qmc

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a count that is no power of 2, and so not perfectly balanced
        return qmc.Sobol(len(keys), scramble=True, rng=np.random.default_rng(seed)).random(count)


def _at(axis: Sequence[Any], u: float) -> Any:
    """The value at the fraction `u` in [0, 1) of an axis: its quantile function."""
    if isinstance(axis, list):
        return axis[int(u * len(axis))]
    kind, low, high = axis
    if kind == "integer":
        return low + int(u * (high - low + 1))
    value = low * (high / low) ** u if kind == "log_uniform" else low + u * (high - low)
    return min(max(float(f"{value:.{DIGITS}g}"), float(low)), float(high))


# Expanding -----------------------------------------------------------------------------------------


def not_bound_twice(plans: Mapping[str, Binding], others: Sequence[Binding]) -> None:
    """Refuse a swept key that is named twice, or that `others` bind: the command line's and variants' own lines.

    (Over what a file binds, such as a fragment that a variant takes, the sweep wins.) Keys are written out in full.
    """
    owner: dict[str, str] = {}
    for name in AXES:
        for key in plans[name].value if name in plans else ():
            if key in owner:
                raise plans[name].place.error(f"{name} names {key}, and so does {owner[key]}.")
            owner[key] = name
    for binding in others:
        if binding.key in owner:
            name = owner[binding.key]
            form = FORM if name == GRID else DRAWN_FORM
            raise binding.place.error(f"{binding.key} is swept by {name}: bind {name} instead, as in {form}.")


def _shown(value: Any) -> str:
    """A value as it is shown in a variant's name, which holds no slash."""
    short = f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
    return short.replace("/", "|").replace("\\", "|")


def _cut(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:197]}..."
