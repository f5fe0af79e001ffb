"""Schedules: the optimizer's hyperparameters as functions of the clock."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

import lopbench
from lopbench.checks import check_bool, check_choice, check_number, is_number
from lopbench.errors import require
from lopbench.protocols import Clock, Schedule


@lopbench.register("schedules")
@dataclass(frozen=True)
class Constant(Schedule):
    """The optimizer's hyperparameters as they are bound, at every step."""

    steps_per_task: int | tuple[int, ...]

    def values(self, hyper: Mapping[str, Tensor], clock: Clock) -> dict[str, Tensor]:
        return dict(hyper)


@lopbench.register("schedules")
@dataclass(frozen=True)
class OneCycle(Schedule):
    """One rise and one fall of the learning rate in each task, as torch.optim.lr_scheduler.OneCycleLR.

    With T the steps of the cycle, the rate goes from max / division at step 0 to max (the optimizer's
    `learning_rate`) at step warmup_fraction * T - 1, and to max / division / final_division at step T - 1.
    With `cycle_momentum` the momentum (of Adam: beta1) goes from `max_momentum` to `base_momentum` and back,
    in place of the optimizer's own, which is then in force at no step. `anneal`: "linear", or "cosine" for
    half a cosine wave in each part. Every task starts a new cycle; after step T - 1 the last values stay.

    `total_steps` is T; None: the steps of the task. `steps_per_task` may be a tuple, where tasks differ.
    Computed in float64, since the last rates are small differences of large ones.
    Source: Smith and Topin 2019.
    """

    steps_per_task: int | tuple[int, ...]
    total_steps: int | None = None
    warmup_fraction: float = 0.3
    division: float = 25.0
    final_division: float = 1e4
    cycle_momentum: bool = True
    max_momentum: float = 0.95
    base_momentum: float = 0.85
    anneal: str = "linear"

    def __post_init__(self) -> None:
        if self.total_steps is not None:
            check_number(self, "total_steps", self.total_steps, at_least=1, integer=True)
        check_number(self, "warmup_fraction", self.warmup_fraction, at_least=0, below=1)
        check_number(self, "division", self.division, at_least=1)
        check_number(self, "final_division", self.final_division, at_least=1)
        check_bool(self, "cycle_momentum", self.cycle_momentum)
        check_number(self, "max_momentum", self.max_momentum, at_least=0, below=1)
        check_number(self, "base_momentum", self.base_momentum, at_least=0, at_most=self.max_momentum)
        check_choice(self, "anneal", self.anneal, ("linear", "cosine"))

    def values(self, hyper: Mapping[str, Tensor], clock: Clock) -> dict[str, Tensor]:
        """`hyper` with the learning rate and the momentum of this step."""
        cycled = dict(hyper)
        lowest = 1 / self.division
        factor = self._cycle(clock, lowest, 1.0, lowest / self.final_division)
        cycled["learning_rate"] = (factor * hyper["learning_rate"].double()).to(hyper["learning_rate"].dtype)
        if self.cycle_momentum:
            known = [field for field in ("momentum", "beta1") if field in hyper]
            require(
                bool(known),
                "schedules.OneCycle.cycle_momentum is True but the optimizer has neither momentum nor beta1: "
                "bind it to False.",
            )
            momentum = self._cycle(clock, self.max_momentum, self.base_momentum, self.max_momentum)
            cycled[known[0]] = momentum.to(hyper[known[0]].dtype).expand_as(hyper[known[0]])
        return cycled

    def _cycle(self, clock: Clock, first: float, middle: float, last: float) -> Tensor:
        """A value that goes from `first` to `middle` and on to `last`, at this step (float64)."""
        total = self._total(clock).double()
        turn, end = self.warmup_fraction * total - 1, total - 1
        step = torch.minimum(clock.step_in_task.double(), end)
        rise = self._anneal(first, middle, step / turn)
        fall = self._anneal(middle, last, (step - turn) / (end - turn))
        return torch.where((step <= turn) & (turn > 0), rise, fall)

    def _anneal(self, start: float, end: float, done: Tensor) -> Tensor:
        return start + (end - start) * (done if self.anneal == "linear" else (1 - torch.cos(math.pi * done)) / 2)

    def _total(self, clock: Clock) -> Tensor:
        """The number of steps of this task's cycle, an int64 scalar."""
        return _length(self.steps_per_task if self.total_steps is None else self.total_steps, clock)


@lopbench.register("schedules")
@dataclass(frozen=True)
class MultiStep(Schedule):
    """A learning rate that falls by a factor at given fractions of each task, as torch.optim.lr_scheduler.MultiStepLR.

    rate(t) = rate * factor^k with k the number of milestones m for which t >= round(m * T), where t counts the steps of
    the task from 0 and T is their number. Every task starts anew at the optimizer's `learning_rate`; momentum goes on.

    milestones: ascending fractions of the task, above 0 and below 1. The defaults are epochs 60, 120 and 160 of 200.
    `steps_per_task` may be a tuple, where tasks differ. Computed in float64.
    Sources: Zagoruyko and Komodakis 2016 (wide residual networks); Dohare et al. 2024 (incremental CIFAR-100).
    """

    steps_per_task: int | tuple[int, ...]
    milestones: Sequence[float] = (0.3, 0.6, 0.8)
    factor: float = 0.2

    def __post_init__(self) -> None:
        listed = isinstance(self.milestones, list | tuple) and all(is_number(m) for m in self.milestones)
        bounds = [0, *self.milestones, 1] if listed else []
        require(
            len(bounds) > 2 and all(a < b for a, b in pairwise(bounds)),
            f"schedules.MultiStep.milestones is {self.milestones!r}: it must be a list of ascending fractions of the "
            "task, above 0 and below 1.",
        )
        check_number(self, "factor", self.factor, above=0)

    def values(self, hyper: Mapping[str, Tensor], clock: Clock) -> dict[str, Tensor]:
        """`hyper` with the learning rate of this step."""
        length, rate = _length(self.steps_per_task, clock).double(), hyper["learning_rate"]
        factor = torch.ones_like(length)
        for milestone in self.milestones:
            reached = clock.step_in_task >= torch.round(milestone * length)
            factor = torch.where(reached, factor * self.factor, factor)
        return {**hyper, "learning_rate": (factor * rate.double()).to(rate.dtype)}


def _length(steps_per_task: int | tuple[int, ...], clock: Clock) -> Tensor:
    """The number of steps of the task at hand, an int64 scalar; tasks past the last of a tuple are as long as that."""
    if isinstance(steps_per_task, int):
        return torch.full_like(clock.task, steps_per_task)
    length = torch.full_like(clock.task, steps_per_task[0])
    for task, steps in enumerate(steps_per_task[1:], start=1):
        length = torch.where(clock.task >= task, steps, length)
    return length
