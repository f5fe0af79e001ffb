"""Variants: `run`, the gin root, builds the parts of one; `group` packs them into populations.

The one place where the parts meet. Variants whose parts differ only in numbers marked `PerReplica` train side
by side in one population; what differs in structure makes another, trained after it.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gin
import numpy as np
import torch
from torch import nn

from lopbench.checks import is_integer, is_number
from lopbench.choosing import EXECUTORS, Choice, choose
from lopbench.errors import require
from lopbench.keeping import Rule
from lopbench.loggers.records import Replica
from lopbench.metrics.evaluation import Evaluation
from lopbench.optimizers.schedules import Constant
from lopbench.population import Population, initial_records, stack_parts
from lopbench.precision import check_precision
from lopbench.probing import require_probe, splits_of
from lopbench.protocols import Dataset, Metric, Optimizer, PerReplica, Schedule, Source, Strategy, Stream
from lopbench.registry import kind_of, per_replica_fields
from lopbench.strategies.baseline import Baseline
from lopbench.sweep import Point, Value
from lopbench.training import Plan

DTYPES = {"float32": torch.float32, "float64": torch.float64}
ON_NONFINITE = ("freeze", "stop")
#: Seeds are 64-bit keys; a gin file may name any of these.
SEED_BOUND = 2**63
#: More replicas of a variant must be a slip of a key.
MOST_SEEDS = 100_000


@dataclass(frozen=True)
class Surroundings:
    """Where a variant is built: the device, and how a source's data are had (once each)."""

    device: torch.device
    data: Callable[[Source], Dataset]


@dataclass(frozen=True)
class Variant:
    """One variant's parts, built and checked; its replicas differ in the seed alone."""

    source: Source | None
    stream: Stream
    module: nn.Module
    optimizer: Optimizer
    schedule: Schedule
    strategies: tuple[Strategy, ...]
    seeds: tuple[int, ...]
    dtype: torch.dtype
    max_gradient_norm: float | None
    plan: Plan
    executor: str
    block_steps: int | None
    replicas_together: int | None
    precision: str
    deterministic: bool
    on_nonfinite: str
    checkpoints: Rule

    def only(self, places: Sequence[int]) -> Variant:
        """This variant with those of its seeds that stand at these places."""
        stream = dataclasses.replace(self.stream, seeds=self.stream.seeds[list(places)])  # type: ignore[type-var]
        return dataclasses.replace(self, seeds=tuple(self.seeds[place] for place in places), stream=stream)

    def structure(self) -> tuple[Any, ...]:
        """What must be equal for two variants to share a population."""
        module = (type(self.module), repr(self.module), tuple(sorted(initial_records(self.module).items())))
        parts = (self.optimizer, self.schedule, *self.strategies, *self.plan.metrics)
        return (
            self.source,
            structure_of(self.stream, leave_out=("data", "seeds")),
            module,
            tuple(structure_of(part) for part in parts),
            (self.dtype, self.max_gradient_norm is None, self.plan.steps, self.plan.window_steps),
            (self.executor, self.block_steps, self.replicas_together, self.precision, self.deterministic),
        )

    def numbers(self) -> dict[str, float | None]:
        """Every PerReplica field's value, keyed "optimizers.SGD.learning_rate"."""
        found: dict[str, float | None] = {"run.max_gradient_norm": self.max_gradient_norm}
        for part in (self.optimizer, *self.strategies):
            for field in per_replica_fields(type(part)):
                found[f"{kind_of(type(part))}.{type(part).__name__}.{field}"] = getattr(part, field)
        return found


def structure_of(part: Any, leave_out: Sequence[str] = ()) -> tuple[Any, ...]:
    """A part's class and all fields that it was built with but those that may differ within a population."""
    free = {*per_replica_fields(type(part)), *leave_out}
    bound = [f.name for f in dataclasses.fields(part) if f.init and f.name not in free]
    return type(part), tuple((name, getattr(part, name)) for name in bound)


@gin.configurable("run", module="lopbench", denylist=["surroundings"])
def run(
    surroundings: Surroundings,
    stream: type,
    architecture: type,
    optimizer: type,
    source: type | None = None,
    schedule: type = Constant,
    strategies: Sequence[type] = (Baseline,),
    metrics: Sequence[type] = (),
    seeds: int | Sequence[int] = 1,
    max_tasks: int | None = None,
    max_steps: int | None = None,
    window_steps: int = 1000,
    dtype: str = "float32",
    max_gradient_norm: PerReplica[float | None] = None,
    executor: str = "auto",
    block_steps: int | None = None,
    replicas_together: int | None = None,
    precision: str = "float32",
    deterministic: bool = False,
    on_nonfinite: str = "freeze",
    checkpoint_minutes: float | None = 10.0,
    checkpoint_steps: int | None = None,
    checkpoint_tasks: int | None = None,
    keep_checkpoints: int = 2,
    keep_tasks: int | None = None,
) -> Variant:
    """Build the parts of one variant, in this order: source, stream, architecture, the others.

    stream, architecture, optimizer, source, schedule, strategies, metrics: the parts' classes.
    seeds: how many (0, 1, ...), or a list of them; one replica each.
    max_tasks, max_steps: stop there; None: where the stream ends.
    window_steps: updates whose mean makes one point of `online/...`; a window also ends with its task.
    dtype: "float32" or "float64", of parameters and inputs.
    max_gradient_norm: a replica's gradient is scaled down to this norm; None: never.
    executor: "auto", or one of choosing.EXECUTORS; block_steps: updates in one call of it, None: chosen.
    replicas_together: replicas that one call trains side by side, the others wait; None: chosen.
    precision: of matrix products, and of nothing else: "float32" as it is, or on a GPU "tf32" (factors rounded to 10
        bits) or "bfloat16" (factors and results to 7 bits, and what layers hand on).
    deterministic: use algorithms only that repeat to the bit on a GPU, too, which may be slower.
    on_nonfinite: "freeze" a replica that turns non-finite and go on with the others, or "stop" the run.
    checkpoint_minutes, checkpoint_steps, checkpoint_tasks: write a checkpoint after so many minutes, at multiples of so
        many updates, as every n-th task begins; None: not so.
    keep_checkpoints: how many to keep, of those to go on from.
    keep_tasks: also keep, for good, those written as every n-th task begins; None: none.
    """
    for name, value in (("max_tasks", max_tasks), ("max_steps", max_steps)):
        _check_run(name, value, value is None or is_integer(value, 1), "an integer at least 1, or None for no limit")
    _check_run("window_steps", window_steps, is_integer(window_steps, 1), "an integer at least 1")
    _check_run("dtype", dtype, dtype in [*DTYPES], f"one of {', '.join(DTYPES)}")
    _check_run("executor", executor, executor in EXECUTORS, f"one of {', '.join(EXECUTORS)}")
    _check_run(
        "block_steps", block_steps, block_steps is None or is_integer(block_steps, 1), "an integer at least 1, or None"
    )
    together = replicas_together is None or is_integer(replicas_together, 1)
    _check_run("replicas_together", replicas_together, together, "an integer at least 1, or None")
    _check_run("deterministic", deterministic, isinstance(deterministic, bool), "True or False")
    _check_run("on_nonfinite", on_nonfinite, on_nonfinite in ON_NONFINITE, f"one of {', '.join(ON_NONFINITE)}")
    checkpoints = _rule(checkpoint_minutes, checkpoint_steps, checkpoint_tasks, keep_checkpoints, keep_tasks)
    positive = is_number(max_gradient_norm) and max_gradient_norm > 0  # type: ignore[operator]
    _check_run(
        "max_gradient_norm", max_gradient_norm, max_gradient_norm is None or positive, "a number above 0, or None"
    )
    check_precision(precision, DTYPES[dtype], surroundings.device)
    seeds = check_seeds(seeds)
    twice = sorted({metric.__name__ for metric in metrics if metrics.count(metric) > 1})
    require(not twice, f"run.metrics names {', '.join(twice)} twice: both would measure the same.")

    twice = sorted({strategy.__name__ for strategy in strategies if list(strategies).count(strategy) > 1})
    require(not twice, f"run.strategies names {', '.join(twice)} twice, and gin has one set of values for both.")

    built_source = source() if source else None
    if stream.needs_source:  # type: ignore[attr-defined]
        require(
            built_source is not None,
            f"streams.{stream.__name__} needs data: bind run.source, for example to @sources.MNIST.",
        )
    else:
        require(
            built_source is None,
            f"streams.{stream.__name__} makes its own data: run.source must be None, not {source}.",
        )
    data = surroundings.data(built_source) if built_source else None
    keys = torch.tensor(seeds, dtype=torch.int64, device=surroundings.device)
    built_stream: Stream = stream(data=data, seeds=keys, dtype=DTYPES[dtype])
    variant = Variant(
        source=built_source,
        stream=built_stream,
        module=architecture(problem=built_stream.problem),
        optimizer=optimizer(),
        schedule=schedule(steps_per_task=built_stream.steps_per_task),
        strategies=tuple(strategy() for strategy in strategies),
        seeds=seeds,
        dtype=DTYPES[dtype],
        max_gradient_norm=max_gradient_norm,
        plan=Plan(
            planned_steps(built_stream, max_tasks, max_steps), window_steps, tuple(metric() for metric in metrics)
        ),
        executor=executor,
        block_steps=block_steps,
        replicas_together=replicas_together,
        precision=precision,
        deterministic=deterministic,
        on_nonfinite=on_nonfinite,
        checkpoints=checkpoints,
    )
    population = populate([variant])
    for strategy in population.strategies:
        strategy.check(population)
    for metric in variant.plan.metrics:
        metric.check(population)
        require_probe(population, metric)
    for strategy in population.strategies:
        _check_evaluations(strategy, variant.plan.metrics)
    return variant


def _check_evaluations(strategy: Strategy, metrics: Sequence[Metric]) -> None:
    """Refuse a strategy that acts on evaluations which nothing makes."""
    at_epochs = [m for m in metrics if isinstance(m, Evaluation) and m.every == "epoch_end"]
    measured = {split for metric in at_epochs for split in splits_of(metric)}
    for split in strategy.needs_evaluations:
        require(
            split in measured,
            f"strategies.{type(strategy).__name__} needs the accuracy on {split!r} examples after each epoch, and "
            "nothing measures it: list @metrics.Evaluation in run.metrics, and bind metrics.Evaluation.every = "
            f"'epoch_end' and metrics.Evaluation.probe_split = ['test', '{split}'].",
        )


def _rule(minutes: float | None, steps: int | None, tasks: int | None, last: int, keep_tasks: int | None) -> Rule:
    """When checkpoints are written, and which are kept."""
    positive = minutes is None or (is_number(minutes) and minutes > 0)
    _check_run("checkpoint_minutes", minutes, positive, "a number above 0, or None")
    for name, value in (("checkpoint_steps", steps), ("checkpoint_tasks", tasks), ("keep_tasks", keep_tasks)):
        _check_run(name, value, value is None or is_integer(value, 1), "an integer at least 1, or None")
    _check_run("keep_checkpoints", last, is_integer(last, 1), "an integer at least 1")
    return Rule(minutes, steps, tasks, last, keep_tasks)


def _check_run(name: str, value: Any, right: bool, what: str) -> None:
    require(right, f"run.{name} is {value!r}: it must be {what}.")


def check_seeds(seeds: Any) -> tuple[int, ...]:
    """A count n means 0 ... n-1; a list must hold different integers of 64 bits."""
    if is_integer(seeds, 1):
        _check_run("seeds", seeds, seeds <= MOST_SEEDS, f"at most {MOST_SEEDS:,}")
        return tuple(range(seeds))
    listed = isinstance(seeds, (list, tuple)) and len(seeds) > 0
    integers = listed and all(is_integer(seed, -SEED_BOUND) and seed < SEED_BOUND for seed in seeds)
    _check_run("seeds", seeds, integers, "a count at least 1, or a list of 64-bit integers")
    twice = sorted(seed for seed, count in Counter(seeds).items() if count > 1)
    require(
        not twice, f"run.seeds names {', '.join(map(str, twice))} twice: two replicas of one seed are the same replica."
    )
    return tuple(seeds)


def planned_steps(stream: Stream, max_tasks: int | None, max_steps: int | None) -> int:
    """How many updates the run takes: the stream's length, cut by `max_tasks` and `max_steps`."""
    tasks = [tasks for tasks in (stream.tasks, max_tasks) if tasks is not None]
    limits = [stream.task_start(min(tasks))] if tasks else []
    limits += [max_steps] if max_steps is not None else []
    require(bool(limits), f"streams.{type(stream).__name__} never ends: set run.max_tasks or run.max_steps.")
    return min(limits)


def populate(variants: Sequence[Variant]) -> Population:
    """The population of all replicas of variants of equal structure, in order."""
    first = variants[0]
    each = [variant for variant in variants for _ in variant.seeds]
    optimizer, hyper = stack_parts([variant.optimizer for variant in each], "optimizer")
    hypers = {"optimizer": hyper}
    strategies = []
    for index in range(len(first.strategies)):
        strategy, hyper = stack_parts([variant.strategies[index] for variant in each], "strategies")
        strategies.append(strategy)
        hypers[f"strategies.{index}"] = hyper
    limits = np.array([np.nan if v.max_gradient_norm is None else v.max_gradient_norm for v in each], dtype=np.float64)
    seeds = torch.cat([variant.stream.seeds for variant in variants])
    return Population(
        stream=dataclasses.replace(first.stream, seeds=seeds),  # type: ignore[type-var]
        module=first.module,
        optimizer=optimizer,
        schedule=first.schedule,
        strategies=tuple(strategies),
        hyper=hypers,
        seeds=seeds,
        dtype=first.dtype,
        precision=first.precision,
        max_gradient_norm=None if np.isnan(limits).all() else limits,
    )


@dataclass(frozen=True)
class Group:
    """Variants that train as one population, and the replicas they make."""

    variants: tuple[Variant, ...]
    replicas: tuple[Replica, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(replica.variant for replica in self.replicas))

    @property
    def plan(self) -> Plan:
        return self.first.plan

    @property
    def first(self) -> Variant:
        """Stands for all where they are equal."""
        return self.variants[0]

    def population(self) -> Population:
        return populate(self.variants)

    def choice(self) -> Choice:
        """The executor that the variants ask for, or that is chosen."""
        asked = self.first
        return choose(self.population(), self.plan.steps, asked.executor, asked.block_steps, asked.replicas_together)


def group(
    variants: Mapping[str, Variant], points: Mapping[str, Point] | None = None, most_replicas: int | None = None
) -> list[Group]:
    """Variants of equal structure together, in order of their first; replicas are numbered over all.

    points: where each variant lies in a sweep: values that its replicas are known by. most_replicas: those that are
    more make several populations, of as equal sizes as can be.
    """
    known_by = hypers(variants, points or {})
    index = 0
    groups = []
    for names in together(variants).values():
        count = sum(len(variants[name].seeds) for name in names)
        for pieces in split({name: len(variants[name].seeds) for name in names}, -(-count // (most_replicas or count))):
            parts = {name: variants[name].only(range(first, last)) for name, first, last in pieces}
            seeds = [(name, seed) for name, part in parts.items() for seed in part.seeds]
            replicas = tuple(Replica(index + k, name, seed, known_by[name]) for k, (name, seed) in enumerate(seeds))
            index += len(replicas)
            groups.append(Group(tuple(parts.values()), replicas))
    return groups


def together(variants: Mapping[str, Variant]) -> dict[int, list[str]]:
    """The names of the variants of each structure, which could share a population."""
    found: dict[int, list[str]] = {}
    structures: list[tuple[Any, ...]] = []
    for name, variant in variants.items():
        structure = variant.structure()
        if structure not in structures:
            structures.append(structure)
        found.setdefault(structures.index(structure), []).append(name)
    return found


def split(counts: Mapping[str, int], parts: int) -> list[list[tuple[str, int, int]]]:
    """Cut the replicas of several variants, one variant after another, into so many parts of as equal sizes as can be.

    counts: replicas of each variant. A part is `[(variant, first, last), ...]`, the places from `first` up to `last`.
    """
    total = sum(counts.values())
    cuts = [total * part // parts for part in range(parts + 1)]
    found = []
    for low, high in itertools.pairwise(cuts):
        pieces, start = [], 0
        for name, count in counts.items():
            first, last = max(low - start, 0), min(high - start, count)
            pieces += [(name, first, last)] if first < last else []
            start += count
        found.append(pieces)
    return found


def hypers(variants: Mapping[str, Variant], points: Mapping[str, Point]) -> dict[str, dict[str, Value]]:
    """What a variant's replicas are known by: the values of its point, and the numbers that vary within the run."""
    numbers = {name: variant.numbers() for name, variant in variants.items()}
    swept = list(dict.fromkeys(key for point in points.values() for key in point.values))
    varying = [
        key
        for key in dict.fromkeys(key for values in numbers.values() for key in values)
        if key not in swept and len({values[key] for values in numbers.values() if key in values}) > 1
    ]
    found: dict[str, dict[str, Value]] = {}
    for name in variants:
        values = points[name].values if name in points else {}
        found[name] = {key: values[key] for key in swept if key in values}
        found[name] |= {key: numbers[name][key] for key in varying if key in numbers[name]}
    return found
