"""The console: one progress line for the whole run, and the summary at its end.

On a terminal the line is a bar that stays in place; elsewhere (a log file, a cluster job) it becomes a plain line at
1% and at every 5% of the run, so that logs stay small.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np
from tqdm import tqdm

from lopbench.analysis.intervals import student_interval
from lopbench.analysis.results import load, points
from lopbench.loggers import manifest
from lopbench.loggers.records import Record, Replica, describe, distinguishing

if TYPE_CHECKING:
    import pandas as pd

#: in the summary, where a run has them
SHOWN = ("task/online_accuracy", "task/online_loss", "task/best_accuracy.test", "task/selected_accuracy.test")
WATCHED = ("online/accuracy", "online/loss")  # in the progress line: the first that there is


class Progress:
    """The progress line: percent, time left, variant, task and the latest online mean over replicas.

    `total_steps`: the sum over all populations of the updates that each will make. `clock` gives seconds, for the
    time left.
    """

    def __init__(
        self, total_steps: int, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = stream or sys.stderr
        self._total, self._done, self._done_before = total_steps, 0, 0
        self._population_at = 0
        self._clock, self._began = clock, clock()
        self._printed = 0
        self._status = ""
        self._bar: tqdm | None = None
        if self._stream.isatty():
            shape = {"unit": " steps", "unit_scale": True, "dynamic_ncols": True}
            self._bar = tqdm(total=total_steps, file=self._stream, **shape)

    def start(self, variants: Sequence[str], steps: int, note: str, done: int = 0) -> None:
        """Announce the next population, of `steps` updates; `done` of them were made before a resume."""
        already = f", going on after {done:,}" if done else ""
        self.say(f"{_together(variants)}: {steps:,} steps{already}; {note}")
        self._population_at = done
        self.pass_by(done)

    def pass_by(self, steps: int) -> None:
        """Count steps that were made before a resume."""
        self._done += steps
        self._done_before += steps
        self._printed = self._lines_due()
        if self._bar is not None:
            self._bar.initial += steps
            self._bar.n += steps

    def advance(self, step: int) -> None:
        """Note that the population has now made `step` updates."""
        more, self._population_at = step - self._population_at, step
        self._done += more
        if self._bar is not None:
            self._bar.update(more)
        elif self._lines_due() > self._printed:
            self._printed = self._lines_due()
            self.say(self._line())

    def write(self, replicas: Sequence[Replica], records: Sequence[Record]) -> None:
        """Take variant, task and online mean from the latest records of a population."""
        found = {record.tag: record for record in records}
        for tag in WATCHED:
            if tag in found:
                self._status = _status(replicas, found[tag])
                if self._bar is not None:
                    self._bar.set_postfix_str(self._status, refresh=False)
                return

    def say(self, line: str) -> None:
        """Print a line of its own."""
        if self._bar is not None:
            self._bar.write(line, file=self._stream)
        else:
            print(line, file=self._stream, flush=True)

    def flush(self) -> None:
        self._stream.flush()

    def close(self) -> None:
        """Leave the line as it stands."""
        if self._bar is not None:
            self._bar.close()
        self.flush()

    def _lines_due(self) -> int:
        """How many lines are due by now: one at 1%, one at every 5%."""
        percent = self._percent()
        return percent // 5 + (percent >= 1)

    def _percent(self) -> int:
        return self._done * 100 // max(self._total, 1)

    def _line(self) -> str:
        rate = (self._done - self._done_before) / max(self._clock() - self._began, 1e-9)
        left = tqdm.format_interval((self._total - self._done) / rate)
        line = f"{self._percent():3d}%  {self._done:,}/{self._total:,} steps, {rate:,.0f} a second, {left} left"
        return f"{line}; {self._status}" if self._status else line


def _together(variants: Sequence[str]) -> str:
    return ", ".join(variants) if len(variants) <= 3 else f"{len(variants)} variants"


def _status(replicas: Sequence[Replica], record: Record) -> str:
    who = _together(list(dict.fromkeys(replica.variant for replica in replicas)))
    finite = record.values[np.isfinite(record.values)]
    mean = _number(finite.mean()) if len(finite) else "non-finite in all replicas"
    return f"{who}: task {record.task}, {record.tag} {mean}"


def summary(workdir: str | Path) -> str:
    """The table at the end of a run, from its results; "" if no task has ended.

    One row for each variant and point: the mean over replicas in the first and in the last task, with half
    the width of its 95% interval (Student's t; from three replicas on). Replicas that turned non-finite (run.json's
    `frozen_replicas`, `{index: updates completed}`) are named, and not part of later means.
    """
    frame = load(workdir, SHOWN)
    blocks = [_block(tag, frame[frame["tag"] == tag]) for tag in SHOWN if (frame["tag"] == tag).any()]
    named = _frozen(frame, manifest.read(workdir).get("frozen_replicas", {}))
    return "\n\n".join(block for block in (*blocks, named) if block)


def _block(tag: str, rows: pd.DataFrame) -> str:
    names = distinguishing(points(rows))
    head = ["variant", *(["what varies"] if any(names.values()) else []), "replicas", "first task", "last task"]
    lines = []
    for point, members in points(rows).items():
        mine = rows[rows["replica"].isin(members)]
        tasks = mine["task"].min(), mine["task"].max()
        ends = [mine.loc[mine["task"] == task, "value"].to_numpy() for task in tasks]
        finite = int(np.isfinite(ends[1]).sum())
        count = str(len(members)) if finite == len(members) else f"{finite} of {len(members)}"
        cells = [f"{_mean(values)} (task {task})" for values, task in zip(ends, tasks, strict=True)]
        lines.append([point[0], *([describe(point, names)] if any(names.values()) else []), count, *cells])
    return f"{tag}: mean over replicas ± half the width of its 95% interval\n{_aligned([head, *lines])}"


def _frozen(rows: pd.DataFrame, died: Mapping[str, int]) -> str:
    """One line for each replica that turned non-finite."""
    names = distinguishing(points(rows))
    lines = []
    for point, members in points(rows).items():
        who = ", ".join(part for part in (point[0], describe(point, names)) if part)
        for index in members:
            if str(index) in died:
                seed = rows.loc[rows["replica"] == index, "seed"].iloc[0]
                lines.append(
                    f"Frozen when it turned non-finite: {who}, seed {seed}, after {died[str(index)]:,} updates."
                )
    return "\n".join(lines)


def _mean(values: np.ndarray) -> str:
    mean, half = map(float, student_interval(values))
    if not np.isfinite(mean):
        return "non-finite"
    return _number(mean) + (f" ± {_number(half)}" if np.isfinite(half) else "")


def _number(value: float) -> str:
    return f"{value:.4f}" if abs(value) >= 0.001 or value == 0 else f"{value:.3g}"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    return "\n".join("  ".join(row).rstrip() for row in padded)
