"""How a step of plain SGD grows with replicas, width and batch, and what bounds it at each size."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from benchmarks.counting import Peaks, Work, work_of
from benchmarks.ours import Ours, Setting, chosen, one_population, populations
from benchmarks.tables import number
from benchmarks.timing import Contender, interleave, seconds
from lopbench.memory import free_bytes, guessed_bytes
from lopbench.population import Population
from lopbench.precision import multiplying

#: A curve ends with the first step that takes so many microseconds, or where memory is short.
SLOW_ENOUGH = 2e6
SHARE_OF_MEMORY = 0.5
#: A step that takes so many times as long as its work must is bound by something else.
OVERHEAD_FROM = 4


@dataclass(frozen=True)
class Curve:
    """One quantity that grows while the others stay. `values` are those of a GPU; a CPU takes every other one."""

    name: str
    axis: str
    values: Sequence[int]


DOUBLING = [2**k for k in range(13)]
CURVES = [
    Curve("3 x 100 units, batch 30", "replicas", DOUBLING),
    Curve("20-5-1, batch 1", "replicas", DOUBLING),
    Curve("30 replicas of 3 layers, batch 30", "width", [10, 20, 30, 60, 100, 200, 300, 600, 1000, 1500, 2000]),
    Curve("30 replicas of 3 x 100 units", "batch", DOUBLING[:11]),
]


@dataclass(frozen=True)
class Point:
    """One size of a curve."""

    curve: Curve
    value: int
    executor: str
    microseconds: float  #: a step of all replicas, a median
    replicas: int
    work: Work
    compile_seconds: float

    def bound(self, machine: Peaks) -> str:
        """What the step is bound by."""
        least, what = machine.bound(self.work)
        return what if 1e-6 * self.microseconds < OVERHEAD_FROM * least else "overhead"


def grown(setting: Setting, curves: Sequence[Curve] = CURVES) -> list[Point]:
    """The points of all curves, as far as time and memory allow."""
    points = []
    for curve in curves:
        for value in _values(setting, curve):
            population = _population(setting, curve, value)
            if guessed_bytes(population, chosen(setting, population)) > SHARE_OF_MEMORY * free_bytes(setting.device):
                break
            print(f"{curve.name}, {curve.axis} {value}", file=sys.stderr, flush=True)
            with multiplying("float32"):
                points.append(_point(setting, curve, value, population))
            if points[-1].microseconds > SLOW_ENOUGH:
                break
    return points


def _values(setting: Setting, curve: Curve) -> Sequence[int]:
    if setting.quick:
        return curve.values[:5:4]
    return curve.values if setting.device.type == "cuda" else curve.values[::2]


def _population(setting: Setting, curve: Curve, value: int) -> Population:
    if curve.name.startswith("20-5-1"):
        return populations(setting, "quickstart.gin", value)["sgd"]
    bindings = {
        "width": [f"architectures.MLP.width = {value}"],
        "batch": [f"streams.PermutedInputs.batch_size = {value}"],
    }
    replicas = value if curve.axis == "replicas" else 30
    return one_population(setting, "permuted_mnist/sgd.gin", replicas, bindings.get(curve.axis, []))


def _point(setting: Setting, curve: Curve, value: int, population: Population) -> Point:
    side = Ours(setting, population)
    choice = side.choice
    compiling = seconds(partial(side.hot, choice.block_steps))
    contender = Contender(side.hot, multiple=choice.block_steps, most=side.steps_per_table)
    rounds = min(setting.rounds, 5)
    taken = interleave({"": contender}, rounds, setting.lasting, setting.clock, budget=5.0)[""]
    work = work_of(population)
    return Point(curve, value, side.executor, float(np.median(taken)), population.replicas, work, compiling)


HEADER = ["curve", "size", "executor, block, threads", "a step (µs)", "a replica", "operations", "bytes"]
HEADER += ["GFLOP/s", "GB/s", "least (µs)", "bound by", "compile (s)"]


def cells(points: Sequence[Point], machine: Peaks) -> list[list[str]]:
    """The lines of the table."""
    lines = []
    for point in points:
        work, taken = point.work, point.microseconds
        rates = (work.operations / taken / 1e3, work.traffic / taken / 1e3)  # of 1e9 a second
        numbers = (taken, taken / point.replicas, work.operations, work.traffic, *rates)
        least = 1e6 * machine.bound(work)[0]
        shown = [number(value) for value in (*numbers, least)]
        lines.append([point.curve.name, f"{point.curve.axis} {point.value:,}", point.executor, *shown])
        lines[-1] += [point.bound(machine), f"{point.compile_seconds:.0f}"]
    return lines
