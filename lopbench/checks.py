"""Checks of constructor arguments, with one wording for all parts."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from lopbench.errors import UserError, require
from lopbench.registry import kind_of, nearest


def _where(part: Any, field: str) -> str:
    cls = type(part)
    try:
        return f"{kind_of(cls)}.{cls.__name__}.{field}"
    except UserError:  # a class that nobody registered
        return f"{cls.__name__}.{field}"


def check_number(
    part: Any,
    field: str,
    value: Any,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    integer: bool = False,
    optional: bool = False,
) -> None:
    """Refuse a value that is no (finite) number, or lies outside the bounds; None passes if `optional`."""
    if value is None and optional:
        return
    bounds = [("at least", at_least), ("above", above), ("at most", at_most), ("below", below)]
    range_ = " and ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)
    kind = "an integer" if integer else "a number"
    right = f"it must be {kind}" + (f" {range_}" if range_ else "") + (", or None to switch it off" if optional else "")
    number = (
        isinstance(value, int if integer else (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    )
    inside = number and (
        (at_least is None or value >= at_least)
        and (above is None or value > above)
        and (at_most is None or value <= at_most)
        and (below is None or value < below)
    )
    require(inside, f"{_where(part, field)} is {value!r}: {right}.")


def check_choice(part: Any, field: str, value: Any, choices: Iterable[str]) -> None:
    """Refuse a value that is none of the named choices, and suggest the nearest."""
    known = list(choices)
    require(
        value in known,
        f"{_where(part, field)} is {value!r}: it must be one of {', '.join(known)}.{_hint(value, known)}",
    )


def _hint(value: Any, known: list[str]) -> str:
    hint = nearest(str(value), known)
    return hint if "Did you mean" in hint else ""


def check_bool(part: Any, field: str, value: Any) -> None:
    """Refuse anything but True and False."""
    require(isinstance(value, bool), f"{_where(part, field)} is {value!r}: it must be True or False.")


def check_probe(metric: Any) -> None:
    """Refuse a metric's `every`, and its `probe_size` and `probe_split` where these are its fields."""
    every = metric.every
    period = isinstance(every, int) and not isinstance(every, bool) and every >= 1
    require(
        period or every in ("task_start", "task_end"),
        f"{_where(metric, 'every')} is {every!r}: it must be 'task_start', 'task_end' or a period in updates.",
    )
    if "probe_size" in metric.__dataclass_fields__:
        check_number(metric, "probe_size", metric.probe_size, at_least=1, integer=True)
        check_choice(metric, "probe_split", metric.probe_split, ("train", "test"))


def is_number(value: Any) -> bool:
    """Whether a value is a finite number (True and False are none)."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_integer(value: Any, at_least: int) -> bool:
    """Whether a value is an integer (True and False are none) of at least `at_least`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= at_least
