"""When rare work is due: at every multiple of a period, which may differ between replicas."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from lopbench.checks import check_choice, check_number
from lopbench.errors import require

#: (update number, table) pairs, ascending: see `Strategy.events`
Events = Iterator[tuple[int, dict[str, np.ndarray]]]


def due_every(periods: np.ndarray) -> Events:
    """(update number, {"due": bool [R]}) at every multiple of some replica's period, ascending, without end.

    `periods` is `[R]`, in updates, counted from the first update of the run; NaN: never due.
    """
    known = periods[~np.isnan(periods)]
    update = 0
    while known.size:
        update = int(((update // known + 1) * known).min())
        yield update, {"due": update % periods == 0}  # a remainder by NaN is NaN, so not due


def check_when(part: Any, choices: Iterable[str]) -> None:
    """Refuse a `when` that is none of the choices, and a `period` that is wrong or would be ignored."""
    check_choice(part, "when", part.when, choices)
    check_number(part, "period", part.period, at_least=1, integer=True, optional=True)
    require(
        part.when == "period" or part.period is None,
        f"strategies.{type(part).__name__}.period is {part.period!r}, but when is {part.when!r}: "
        "a period is used with when = 'period' only.",
    )
