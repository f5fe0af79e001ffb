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
    range_ = " and ".join(f"{word} {_shown(bound)}" for word, bound in bounds if bound is not None)
    kind = "an integer" if integer else "a number"
    right = f"it must be {kind}" + (f" {range_}" if range_ else "") + (", or None to switch it off" if optional else "")
    number = is_number(value) and (isinstance(value, int) or not integer)
    inside = number and (
        (at_least is None or value >= at_least)
        and (above is None or value > above)
        and (at_most is None or value <= at_most)
        and (below is None or value < below)
    )
    require(inside, f"{_where(part, field)} is {value!r}: {right}.")


def _shown(bound: float) -> str:
    return f"{bound:,}" if isinstance(bound, int) else f"{bound:g}"


def check_count(part: Any, field: str, value: Any, most: int) -> None:
    """Refuse what is no integer at least 1, and one that is so large that it must be a slip."""
    check_number(part, field, value, at_least=1, integer=True)
    require(value <= most, f"{_where(part, field)} is {value}: it must be at most {most:,}.")


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
    """Refuse a metric's `every`, and its `probe_size`, `probe_split`, `batch_statistics` where these are its fields."""
    every, fields = metric.every, metric.__dataclass_fields__
    require(
        is_integer(every, at_least=1) or every in ("task_start", "task_end", "epoch_end"),
        f"{_where(metric, 'every')} is {every!r}: it must be 'task_start', 'task_end', 'epoch_end' or a period in "
        "updates.",
    )
    if "probe_size" in fields:
        size, split = metric.probe_size, metric.probe_split
        require(
            size is None or is_integer(size, at_least=1),
            f"{_where(metric, 'probe_size')} is {size!r}: it must be an integer at least 1, or None for the whole "
            "split.",
        )
        splits = [split] if isinstance(split, str) else split
        named = isinstance(splits, list | tuple) and all(isinstance(name, str) and name for name in splits)
        require(
            named and len(splits) == len(set(splits)) > 0,
            f"{_where(metric, 'probe_split')} is {split!r}: it must be the name of a split, such as 'train' or 'test', "
            "or a list of different ones.",
        )
    if "batch_statistics" in fields:
        check_bool(metric, "batch_statistics", metric.batch_statistics)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number (True and False are none)."""
    return (isinstance(value, int) and not isinstance(value, bool)) or (
        isinstance(value, float) and math.isfinite(value)
    )


def is_integer(value: Any, at_least: int) -> bool:
    """Whether a value is an integer (True and False are none) of at least `at_least`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= at_least
