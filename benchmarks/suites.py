"""The suites: what `benchmarks.run` can be asked for, and what each gives."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import growth, growth_figure, matches, projection
from benchmarks.comparing import BASELINES, Row, compare
from benchmarks.counting import peaks
from benchmarks.ours import Setting
from benchmarks.projection import Projection
from benchmarks.tables import markdown, mebibytes, number, spread


@dataclass(frozen=True)
class Measured:
    """What a suite gives: numbers, and the text of its section."""

    rows: Sequence[Row]
    text: str
    projections: Sequence[Projection] = ()


Suite = Callable[[Setting, Path], Measured]  #: a figure goes into the folder


def of_matches(found: matches.Matches) -> Suite:
    """A suite that compares."""

    def suite(setting: Setting, folder: Path) -> Measured:
        rows = [row for match in found(setting) for row in compare(setting, match)]
        return Measured(rows, text_of(rows))

    return suite


def vision(setting: Setting, folder: Path) -> Measured:
    """Steps against the baselines, and the whole of swr_vit.gin projected; a first look on a CPU compiles nothing."""
    if setting.quick and setting.device.type == "cpu":
        setting = dataclasses.replace(setting, executor="eager")
    measured = of_matches(matches.vision)(setting, folder)
    found = projection.projections(setting)
    table = markdown(projection.HEADER, projection.cells(found), texts=3)
    text = f"{measured.text}\n\nSWR's rare work, due once in 128 updates, is left out, also of the whole of "
    text += f"`swr_vit.gin`, projected from its steps and evaluations:\n\n{table}"
    return Measured(measured.rows, text, found)


def grown(setting: Setting, folder: Path) -> Measured:
    """Step time against replicas, width and batch, and the figure."""
    points, machine = growth.grown(setting), peaks(setting.device)
    path = folder / f"growth_{setting.device.type}.png"
    growth_figure.draw(points, machine, path)
    text = f"![A step's time against replicas, width and batch]({path.name})\n\n"
    text += "Dashed: the least time that a step's operations and bytes take at the rates that this process measured: "
    text += f"{number(machine.operations / 1e9)} GFLOP/s in a product of large float32 matrices, "
    text += f"{number(machine.traffic / 1e9)} GB/s in a copy. A step of {growth.OVERHEAD_FROM} times that is bound by "
    text += "neither: overhead.\n\n" + markdown(growth.HEADER, growth.cells(points, machine), texts=3)
    return Measured([], text)


def text_of(rows: Sequence[Row]) -> str:
    """Two tables: times, memory and ratios; and what the times are made of."""
    return f"{markdown(HEADER, map(_cells, rows), texts=2)}\n\n{markdown(DETAILS, map(_details, rows), texts=1)}"


HEADER = ["case", "executor, block, threads", "a step (µs)", "a replica", "memory (MiB)"]
HEADER += [f"over {name}" for name in BASELINES]
DETAILS = ["case", "hot", "rare", "share", "tables", "over plain SGD", "compile (s)"]
DETAILS += [f"{name} (µs)" for name in BASELINES] + ["MFLOP", "MB", "GFLOP/s", "kernels"]


def _cells(row: Row) -> list[str]:
    ratios = [row.ratio(name) for name in BASELINES]
    return [
        row.case,
        row.executor,
        spread(row.per_step),
        number(np.median(row.per_step) / row.replicas),
        mebibytes(row.memory),
        *("" if ratio is None else spread(ratio) for ratio in ratios),
    ]


def _details(row: Row) -> list[str]:
    taken = float(np.median(row.per_step))
    baselines = [row.baselines.get(name) for name in BASELINES]
    operations, traffic = (row.work.operations, row.work.traffic) if row.work else (math.nan, math.nan)
    return [
        row.case,
        number(np.median(row.hot)),
        "" if row.rare is None else number(np.median(row.rare)),
        "" if row.rare is None else f"{row.rare_share:.2%}",
        number(row.tables),
        "" if row.over_plain is None else spread(row.over_plain),
        f"{row.compile_seconds:.0f}",
        *("" if times is None else number(np.median(times)) for times in baselines),
        number(operations / 1e6),
        number(traffic / 1e6),
        number(operations / taken / 1e3),
        "" if row.kernels is None else number(row.kernels),
    ]


SUITES: dict[str, Suite] = {
    "permuted_mnist": of_matches(matches.permuted_mnist),
    "tiny_mnist": of_matches(matches.tiny_mnist),
    "wide_mnist": of_matches(matches.wide_mnist),
    "regression": of_matches(matches.regression),
    "continual_imagenet": of_matches(matches.continual_imagenet),
    "vision": vision,
    "growth": grown,
}
