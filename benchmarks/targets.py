"""What it must reach: each target, judged by what a suite has measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.comparing import JAX, LOADER, TENSORS, Row
from benchmarks.matches import CBP, PLAIN, SWR
from benchmarks.suites import Measured
from benchmarks.tables import number

LEVEL = 0.9  # within a tenth
ANY = "any method"

#: the number that counts (the worst one, if there are several); None: it was not measured
Value = Callable[[Measured], float | None]


@dataclass(frozen=True)
class Target:
    """`value` is to be at least, or at most, the bound."""

    device: str
    suite: str
    text: str
    value: Value
    at_least: float = 0
    at_most: float = math.inf

    @property
    def key(self) -> str:
        """What its line in the table begins with."""
        return f"| {self.text} | {self.suite} on {self.device} |"

    def line(self, measured: Measured) -> str | None:
        """Its line in the table; None: the suite was run without what it takes."""
        value = self.value(measured)
        if value is None:
            return None
        met = self.at_least <= value <= self.at_most
        return f"{self.key} {number(value)} | {'met' if met else 'not met'} |"


def _ratio(baseline: str, replicas: int | None = None, method: str = PLAIN) -> Value:
    """The smallest median of our replica-steps a second over the baseline's; replicas None: whatever their number."""

    def value(measured: Measured) -> float | None:
        found = [row.ratio(baseline) for row in _chosen(measured.rows, replicas, method)]
        return min((float(np.median(ratio)) for ratio in found if ratio is not None), default=None)

    return value


def _microseconds(replicas: int, method: str = PLAIN) -> Value:
    def value(measured: Measured) -> float | None:
        return max((float(np.median(row.per_step)) for row in _chosen(measured.rows, replicas, method)), default=None)

    return value


def _strategy(method: str) -> Value:
    """The largest median of a method's step over one of plain SGD."""

    def value(measured: Measured) -> float | None:
        found = [row.over_plain for row in _chosen(measured.rows, None, method)]
        return max((float(np.median(ratio)) for ratio in found if ratio is not None), default=None)

    return value


def _chosen(rows: Sequence[Row], replicas: int | None, method: str) -> list[Row]:
    return [row for row in rows if replicas in (None, row.replicas) and method in (ANY, row.method)]


def _growth(few: int, many: int) -> Value:
    """A step of many replicas over one of few."""

    def value(measured: Measured) -> float | None:
        low, high = (_microseconds(count)(measured) for count in (few, many))
        return None if low is None or high is None else high / low

    return value


def _whole_run(measured: Measured) -> float | None:
    """Minutes of one replica of swr_vit.gin, in the fastest precision but float32."""
    found = [each.total / 60 for each in measured.projections if each.replicas == 1 and each.precision != "float32"]
    return min(found, default=None)


COMPARING = ("permuted_mnist", "tiny_mnist", "wide_mnist", "regression", "continual_imagenet", "vision")
WITH_JAX = COMPARING[:-1]

TARGETS = [
    *(
        Target("cpu", suite, "R = 1, any method: over the loop on tensors, at least 1", _ratio(TENSORS, 1, ANY), 1)
        for suite in COMPARING
    ),
    Target("cpu", "permuted_mnist", "R = 30: over the loop with a loader, at least 5", _ratio(LOADER, 30), at_least=5),
    Target("cpu", "permuted_mnist", "R = 30: over JAX, at least 0.9", _ratio(JAX, 30), at_least=LEVEL),
    Target("cpu", "tiny_mnist", "R = 30: over the loop with a loader, at least 12", _ratio(LOADER, 30), at_least=12),
    Target("cpu", "tiny_mnist", "R = 30: over JAX, at least 0.9", _ratio(JAX, 30), at_least=LEVEL),
    Target("cpu", "regression", "R = 100: over JAX, at least 2", _ratio(JAX, 100), at_least=2),
    *(
        Target(device, suite, f"{method}: a step over one of plain SGD, at most 1.15", _strategy(method), at_most=1.15)
        for device in ("cpu", "cuda")
        for suite in ("permuted_mnist", "tiny_mnist")
        for method in (SWR, CBP)
    ),
    Target("cuda", "permuted_mnist", "R = 30: microseconds a step, at most 60", _microseconds(30), at_most=60),
    Target("cuda", "permuted_mnist", "R = 180: microseconds a step, at most 200", _microseconds(180), at_most=200),
    *(
        Target("cuda", suite, "all R: plain SGD over JAX, at least 0.9", _ratio(JAX), at_least=LEVEL)
        for suite in WITH_JAX
    ),
    Target("cuda", "continual_imagenet", "a step of R = 30 over one of R = 1, at most 3", _growth(1, 30), at_most=3),
    Target("cuda", "vision", "swr_vit.gin, R = 1: minutes of the whole run, at most 40", _whole_run, at_most=40),
]
