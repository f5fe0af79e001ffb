"""A match played: all sides in turns, after it has been asserted that they do the same work."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch

from benchmarks.counting import Work, kernels_a_step, work_of
from benchmarks.matches import PLAIN, Match
from benchmarks.naive import Loop
from benchmarks.ours import Ours, Setting, host_bytes, peak_memory, single_step_share
from benchmarks.timing import Contender, interleave, seconds
from lopbench.population import Population
from lopbench.precision import multiplying

LOADER, TENSORS, JAX = "the loop with a loader", "the loop on tensors", "JAX"
BASELINES = (LOADER, TENSORS, JAX)
#: Strategies that do nothing within a task, so that the losses of its first steps are those of plain SGD.
IDLE_WITHIN_A_TASK = ("Baseline", "Reset", "RestoreBest")


class Other(Protocol):
    """Another side."""

    def advance(self, steps: int) -> float:
        """Take so many steps, and wait; their mean loss in replica 0."""

    def first_losses(self, steps: int) -> list[float]:
        """The losses of replica 0 in the first steps; to be asked for before anything else."""


@dataclass(frozen=True)
class Row:
    """One population's results. Arrays hold a value a round; times are microseconds a step of all replicas."""

    network: str
    method: str
    replicas: int
    executor: str
    per_step: np.ndarray  #: rare work and tables included, each in its share
    baselines: Mapping[str, np.ndarray]  #: microseconds a step: of one network, or (JAX) of as many replicas
    hot: np.ndarray  #: a step without rare work
    plain: np.ndarray | None = None  #: `per_step` of plain SGD in the same match, if it was in it
    rare: np.ndarray | None = None  #: a step that runs singly, with rare work
    rare_share: float = 0.0  #: how many of the steps do
    tables: float = 0.0  #: of a step's time, what making an epoch's or a task's tables takes
    compile_seconds: float = math.nan
    memory: float | None = None  #: bytes at the peak
    work: Work | None = None  #: of a step of plain SGD, all replicas
    kernels: float | None = None  #: that a step runs, on a GPU

    @property
    def case(self) -> str:
        return f"{self.network}, {self.method}, R = {self.replicas}"

    def ratio(self, baseline: str) -> np.ndarray | None:
        """Our replica-steps a second over the baseline's, round by round; None where there is no such baseline."""
        theirs = self.baselines.get(baseline)
        if theirs is None:
            return None
        networks = self.replicas if baseline == JAX else 1
        return (theirs / networks) / (self.per_step / self.replicas)

    @property
    def over_plain(self) -> np.ndarray | None:
        """A step over one of plain SGD; None of that itself."""
        return None if self.plain is None or self.method == PLAIN else self.per_step / self.plain


class Entrant:
    """A population of ours, ready to be timed: compiled, its first losses and its memory known."""

    def __init__(self, setting: Setting, population: Population, with_rare_work: bool = True) -> None:
        with peak_memory(population) as peak:
            self.side = Ours(setting, population)
            block = self.side.choice.block_steps
            losses = []
            self.compile_seconds = seconds(lambda: losses.append(self.side.hot(block)))
            losses.append(self.side.hot(block))
            self._has_rare_work = with_rare_work and self.side.has_rare_work
            if self._has_rare_work:
                self.compile_seconds += seconds(partial(self.side.rare, 1))
        self.first_steps, self.first_loss = 2 * block, sum(losses) / 2
        on_host = population.device.type == "cpu" and not setting.quick
        self.memory = host_bytes(self.side) if on_host else peak.get("bytes")

    def contenders(self, name: str) -> dict[str, Contender]:
        """The hot steps under `name`, and those with rare work."""
        most = self.side.steps_per_table
        choice, replicas = self.side.choice, self.side.population.replicas
        found = {name: Contender(self.side.hot, choice.block_steps, most, parts=-(-replicas // choice.together))}
        if self._has_rare_work:
            found[_rare(name)] = Contender(self.side.rare, most=most)
        return found

    def row(self, match: Match, name: str, times: Mapping[str, np.ndarray]) -> Row:
        """The row, without the baselines."""
        side, choice, hot, rare = self.side, self.side.choice, times[name], times.get(_rare(name))
        assert side.all_alive(), f"{name}: a replica turned non-finite while it was timed"
        share = single_step_share(side.population, choice.block_steps)
        tables = 1e6 * side.tables_seconds / side.steps_per_table
        return Row(
            network=match.network,
            method=name,
            replicas=match.replicas,
            executor=side.executor,
            per_step=hot + tables if rare is None else (1 - share) * hot + share * rare + tables,
            baselines={},
            hot=hot,
            rare=rare,
            rare_share=share,
            tables=tables,
            compile_seconds=self.compile_seconds,
            memory=self.memory,
            work=work_of(side.population),
            kernels=kernels_a_step(side),
        )


def _rare(name: str) -> str:
    return f"{name}, rare work"


def has_jax(device: torch.device) -> bool:
    """Whether JAX is installed and sees such a device."""
    if importlib.util.find_spec("jax") is None:
        return False
    from benchmarks import jax_side

    return jax_side.sees(device)


def compare(setting: Setting, match: Match) -> list[Row]:
    """Time the populations of a match and their baselines in turns, torch's on the same number of threads.

    Products are of float32 on all sides, which for convolutions on a GPU is not torch's default.
    """
    with multiplying("float32"):
        return _compared(setting, match)


def _compared(setting: Setting, match: Match) -> list[Row]:
    print(f"{match.network}, R = {match.replicas}: {', '.join(match.populations)}", file=sys.stderr, flush=True)
    entrants = {
        name: Entrant(setting, population, match.with_rare_work) for name, population in match.populations.items()
    }
    threads = {entrant.side.choice.threads for entrant in entrants.values()}
    assert len(threads) == 1, f"the contenders of a match share the number of threads, but would choose {threads}"
    others = others_of(match.any)
    check_same_work(entrants.values(), others)
    contenders = {key: value for name, each in entrants.items() for key, value in each.contenders(name).items()}
    for name, other in others.items():
        contenders[name] = Contender(other.advance, multiple=getattr(other, "steps_of_a_call", 1))
    times = interleave(contenders, setting.rounds, setting.lasting, setting.clock, setting.budget)
    rows = {name: entrant.row(match, name, times) for name, entrant in entrants.items()}
    plain = rows[PLAIN].per_step if PLAIN in rows else None
    baselines = {name: times[name] for name in others}
    return [dataclasses.replace(row, baselines=baselines, plain=plain) for row in rows.values()]


def others_of(population: Population) -> dict[str, Other]:
    """The other sides that there are for a population's network, plain SGD all of them."""
    others: dict[str, Other] = {TENSORS: Loop(population), LOADER: Loop(population, with_loader=True)}
    if has_jax(population.device):
        from benchmarks import jax_side

        if jax_side.writes(population):
            others[JAX] = jax_side.fastest(population)
    return others


def check_same_work(entrants: Iterable[Entrant], others: Mapping[str, Other]) -> None:
    """Refuse sides whose first steps have other losses in replica 0."""
    entrants = list(entrants)
    most = max(entrant.first_steps for entrant in entrants)
    losses = {name: other.first_losses(most) for name, other in others.items()}
    for entrant in entrants:
        steps, ours = entrant.first_steps, entrant.first_loss
        for name, found in losses.items():
            theirs = sum(found[:steps]) / steps
            assert abs(ours - theirs) <= _tolerance(entrant) * abs(theirs), (
                f"mean loss of the first {steps} steps: ours {ours}, that of {name} {theirs}"
            )


def _tolerance(entrant: Entrant) -> float:
    """Of the mean of the first losses: rounding, or what noise, penalties, dropout and augmentation do to them."""
    population = entrant.side.population
    random = population.keys or getattr(population.stream, "augmentations", ())
    plain = all(type(strategy).__name__ in IDLE_WITHIN_A_TASK for strategy in population.strategies)
    if random or not plain:
        return 0.1
    return 1e-4 if entrant.first_steps <= 20 else 1e-2
