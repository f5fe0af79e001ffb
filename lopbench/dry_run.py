"""The plan that `--dry_run` shows: populations, replicas, steps, parameters, memory, and an estimate of time."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from lopbench.events import Events
from lopbench.executors import Choice, Stacked, memory_bytes, stretch
from lopbench.learner import initial_state
from lopbench.population import Population
from lopbench.probing import measure
from lopbench.protocols import Clock, Metric, Stream, Tree
from lopbench.variants import Group

STEPS = 5
LONG = 2.0  # seconds: where the first step takes so much, it is not repeated


def describe(groups: Sequence[Group], choices: Sequence[Choice]) -> str:
    """Build each population, run a few steps of it eagerly, and say what the run would take.

    Of a population that loops over its replicas only the first one is run, and counted so many times.
    """
    lines = ["Dry run, on generated data of the right shape; nothing is written."]
    seconds = 0.0
    for number, (g, choice) in enumerate(zip(groups, choices, strict=True), 1):
        population = g.population()
        times = population.replicas if choice.executor.startswith("looped") else 1
        run = population.part(slice(0, 1)) if times > 1 else population
        state = initial_state(run)
        eager = times * _seconds_a_step(run, state, g.plan.metrics)
        seconds += eager * g.plan.steps
        sizes = [parameter.numel() for parameter in population.module.parameters()]
        stream, problem = population.stream, population.stream.problem
        lines += [
            f"\nPopulation {number} of {len(groups)}: {', '.join(g.names)}",
            f"  replicas    {len(g.replicas)}, seeds {_listed([replica.seed for replica in g.replicas])}",
            f"  steps       {g.plan.steps:,} in tasks of {_lengths(stream)}",
            f"  stream      {type(stream).__name__}: inputs {problem.input_shape}, {problem.outputs} outputs",
            f"  network     {type(population.module).__name__}, {sum(sizes):,} parameters a replica",
            f"  optimizer   {type(population.optimizer).__name__}; {type(population.schedule).__name__} schedule",
            f"  strategies  {', '.join(type(s).__name__ for s in population.strategies) or 'none'}",
            f"  told of task boundaries: {_told(g)}",
            f"  executor    {choice.executor}, {choice.block_steps} steps a call ({choice.reason})",
            f"  memory      {_bytes(times * memory_bytes(state))} of state, about three times that while training",
            f"  time        {eager * 1e3:.1f} ms a step run eagerly",
        ]
    lines.append(
        f"\nAltogether at most about {_duration(seconds)} if run eagerly; compiled steps take from a half (large "
        "networks) to a fortieth (tiny ones) of that, after some seconds of compiling."
    )
    return "\n".join(lines)


def _seconds_a_step(population: Population, state: Tree, metrics: Sequence[Metric]) -> float:
    clock = Clock(*(torch.tensor(0, device=population.device) for _ in range(3)))
    tables = population.stream.prepare(0)
    executor = Stacked(population, 1, compiled=False)
    start = time.perf_counter()
    stretch(executor, state, clock, 1, tables, Events(population).until(0, 1))["alive"].cpu()
    first = time.perf_counter() - start
    measure(population, state, metrics, 0)
    if first >= LONG:
        return first
    start = time.perf_counter()
    stretch(executor, state, clock, STEPS, tables)["alive"].cpu()
    return (time.perf_counter() - start) / STEPS


def _told(g: Group) -> str:
    told = [type(strategy).__name__ for strategy in g.population().strategies if strategy.needs_task_boundaries]
    return ", ".join(told) or "nobody"


def _lengths(stream: Stream) -> str:
    lengths = stream.steps_per_task
    return f"{lengths:,}" if isinstance(lengths, int) else f"{min(lengths):,} to {max(lengths):,}"


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds)) if len(seeds) <= 6 else f"{seeds[0]}, {seeds[1]}, ..., {seeds[-1]}"


def _bytes(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:,.4g} {unit}"
        count /= 1024
    return f"{count:,.4g} GiB"


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"
