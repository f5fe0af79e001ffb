"""The table of a study under way: one line a population, the totals, and what failed."""

from __future__ import annotations

import collections
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

HEAD = ("population", "variants", "replicas", "state", "done", "steps/s", "left", "where")
#: what is shown first, and so stays in sight where the terminal is too low for all of it
ORDER = ("failed", "running", "stopped", "queued", "waiting", "finished")
VARIANTS_SHOWN = 40  # characters


@dataclass(frozen=True)
class Line:
    """A population as far as can be told.

    methods: the method of each variant. state: one of `ORDER`. step: updates that results tell of; steps: all that it
    makes, None: not known. rate: updates a second while it runs, None: not known yet. where: its host or job. error:
    what it failed of. log: where its output is.
    """

    name: str
    methods: tuple[str, ...]
    replicas: int
    state: str
    step: int
    steps: int | None
    rate: float | None = None
    where: str = ""
    error: str = ""
    log: str = ""

    @property
    def done(self) -> int:
        """Updates made."""
        return self.steps if self.state == "finished" and self.steps is not None else self.step

    @property
    def left(self) -> float | None:
        """Seconds that it still takes while it runs, at its rate."""
        return None if self.steps is None or not self.rate else (self.steps - self.done) / self.rate

    def cells(self) -> tuple[str, ...]:
        rate = "" if self.rate is None else f"{self.rate:,.0f}" if self.rate >= 10 else f"{self.rate:.2g}"
        done = f"{self.done:,} steps" if self.steps is None else percent(self.done, self.steps)
        shown = ("100%" if self.state == "finished" else done, rate, duration(self.left), self.where)
        return (self.name, described(self.methods), str(self.replicas), self.state, *shown)


def table(lines: Sequence[Line], size: os.terminal_size | None = None) -> str:
    """All of it; `size`: of the terminal that it is to fit into, where what matters least is left out and cut off."""
    tail, shown = [total(lines), *failures(lines)], list(lines)
    if size is not None:
        room = max(1, size.lines - len(tail) - 3)  # besides: the head, what is left out, and the cursor
        if len(lines) > room:
            first = sorted(range(len(lines)), key=lambda i: ORDER.index(lines[i].state))[:room]
            shown = [lines[i] for i in sorted(first)]
            tail.insert(0, f"and {len(lines) - room} more")
    text = [*aligned([HEAD, *(line.cells() for line in shown)]), *tail]
    if size is not None:
        text = [line[: size.columns - 1] for line in text[: size.lines - 1]]
    return "\n".join(text)


def total(lines: Sequence[Line]) -> str:
    """The last line: how many are in which state, and how long all of it still takes at the rate of those that run."""
    counts = collections.Counter(line.state for line in lines)
    states = ", ".join(f"{counts[state]} {state}" for state in reversed(ORDER) if counts[state])
    replicas = sum(line.replicas for line in lines)
    parts = [f"{count(len(lines), 'population')}, {count(replicas, 'replica')}: {states}"]
    steps = [line.steps for line in lines if line.steps is not None]
    if lines and len(steps) == len(lines):
        parts.append(percent(sum(line.done for line in lines), sum(steps)))
        if rate := sum(line.rate or 0.0 for line in lines):
            left = sum((line.steps or 0) - line.done for line in lines if line.state != "failed")
            parts.append(f"{rate:,.0f} steps/s, about {duration(left / rate)} left")
    return "; ".join(parts)


def failures(lines: Iterable[Line]) -> list[str]:
    """One line for each population that failed: of what, and where its output is."""
    return [
        f"{line.name} failed: {line.error or 'for no reason that it could tell'} (see {line.log})"
        for line in lines
        if line.state == "failed"
    ]


def described(methods: Iterable[str]) -> str:
    """The methods of some variants, with how many each has: "sgd, swr (9)"."""
    counts = collections.Counter(methods)
    text = ", ".join(method if number == 1 else f"{method} ({number})" for method, number in counts.items())
    return text if len(text) <= VARIANTS_SHOWN else f"{text[: VARIANTS_SHOWN - 3]}..."


def percent(step: int, steps: int) -> str:
    """Rounded down, so that 100% is all of it."""
    return f"{100 * step // max(steps, 1)}%"


def duration(seconds: float | None) -> str:
    """As hours, minutes and seconds: "1:02:03", "2:03"; from a hundred hours on in days."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 100:
        return f"{hours / 24:.0f} days"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def count(number: int, of: str) -> str:
    """ "1 population", "2 populations"."""
    return f"{number:,} {of}{'' if number == 1 else 's'}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table; columns that nothing is in are left out, and numbers end at the right, but for names."""
    columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in columns]
    texts = [i == 0 or any(cell and not cell[0].isdigit() for cell in column[1:]) for i, column in enumerate(columns)]
    return [
        "  ".join(
            cell.ljust(width) if text else cell.rjust(width)
            for cell, width, text in zip(row, widths, texts, strict=True)
        ).rstrip()
        for row in zip(*columns, strict=True)
    ]
