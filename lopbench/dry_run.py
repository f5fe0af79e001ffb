"""The plan that `--dry_run` shows: populations, replicas, steps, parameters, memory, and an estimate of time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lopbench.choosing import Choice
from lopbench.events import Events
from lopbench.executors import Stacked, stretch
from lopbench.learner import initial_state
from lopbench.memory import StepBytes, data_bytes, readable
from lopbench.population import Population
from lopbench.probing import measure
from lopbench.protocols import Clock, Metric, Stream
from lopbench.shortage import checked_bytes, counted, fits, room
from lopbench.variants import Group

STEPS = 5
TRIED_BYTES = 2**28  # what the replicas take whose steps are timed: others of a large population are not made
LONG = 2.0  # seconds: where the first step takes so much, it is not repeated


@dataclass(frozen=True)
class Measured:
    """What a population takes: bytes; the part of it whose steps were timed; seconds of an eager step of all of it."""

    taken: StepBytes
    tried: Population
    seconds: float


def describe(
    groups: Sequence[Group], choices: Sequence[Choice], processes: int = 1, folders: Sequence[str] = ()
) -> str:
    """Say what each population is, what memory it takes, and how long a few steps of it last, run eagerly.

    Of a population that loops over its replicas, or is large, only a part is made, and what it takes multiplied; of
    several of equal structure and size the first is measured. `processes`: that train populations at the same time;
    `folders`: of each population, in a study.
    Raises `UserError` for one that does not fit into memory.
    """
    lines = ["Dry run, on generated data of the right shape; nothing is written."]
    most, seconds = 0.0, []
    known: list[tuple[Any, Measured]] = []
    for number, (g, choice) in enumerate(zip(groups, choices, strict=True), 1):
        population = g.population()
        kind = (g.first.structure(), population.replicas)
        measured = next((found for other, found in known if other == kind), None) or _measured(g, population, choice)
        known.append((kind, measured))
        eager = measured.seconds
        most = max(most, measured.taken.of(population.replicas))
        seconds.append(eager * g.plan.steps)
        where = f" ({folders[number - 1]})" if folders else ""
        lines += [f"\nPopulation {number} of {len(groups)}{where}: {', '.join(g.names)}", *_parts(g, population)]
        lines += [
            f"  executor    {choice.executor}, {_steps(choice)} a call ({choice.reason})",
            *_memory(population, measured.taken),
            f"  time        {eager * 1e3:.1f} ms a step run eagerly{_on(measured.tried, population)}",
        ]
    beside = min(processes, len(groups))
    longest = max(sum(seconds) / beside, *seconds) if seconds else 0.0
    return "\n".join([*lines, *_altogether(groups[0].population().device, len(groups), most, longest, beside)])


def _measured(g: Group, population: Population, choice: Choice) -> Measured:
    taken = checked_bytes(population, choice, g.names)
    tried = _tried(population, choice, taken)
    return Measured(taken, tried, population.replicas / tried.replicas * _seconds_a_step(tried, g.plan.metrics))


def _parts(g: Group, population: Population) -> list[str]:
    sizes = [parameter.numel() for parameter in population.module.parameters()]
    stream, problem = population.stream, population.stream.problem
    return [
        f"  replicas    {len(g.replicas):,}, seeds {_listed([replica.seed for replica in g.replicas])}",
        f"  steps       {g.plan.steps:,} in tasks of {_lengths(stream)}",
        f"  stream      {type(stream).__name__}: inputs {problem.input_shape}, {problem.outputs} outputs",
        f"  network     {type(population.module).__name__}, {sum(sizes):,} parameters a replica",
        f"  optimizer   {type(population.optimizer).__name__}; {type(population.schedule).__name__} schedule",
        f"  strategies  {', '.join(type(s).__name__ for s in population.strategies) or 'none'}",
        f"  told of task boundaries: {_told(population)}",
    ]


def _memory(population: Population, taken: StepBytes) -> list[str]:
    """What a population takes while it trains, and how many replicas of its kind there is room for."""
    data, most = data_bytes(population.stream.data), fits(population, taken)
    shared = [f"{readable(data)} for the data set"] * (data > 0) + [f"{readable(taken.fixed - data)} besides"]
    doubt = "" if population.replicas <= most else "; these many may be too many"
    return [
        f"  memory      {readable(taken.of(population.replicas))}: {readable(taken.replica)} for each replica, "
        + " and ".join(shared),
        f"  room for    {counted(most)}{doubt}",
    ]


def _altogether(device: torch.device, populations: int, most: float, seconds: float, beside: int) -> list[str]:
    order, many = ", as they train one after another" if populations > 1 else "", ""
    if beside > 1:
        order, many = f" in each of {beside} processes", f" in {beside} processes"
    return [
        "\nAltogether",
        f"  memory      at most {readable(most)} at once{order}",
        f"              {room(device)}",
        f"  time        at most about {_duration(seconds)}{many} if run eagerly; compiled steps take from a half",
        "              (large networks) to a fortieth (tiny ones) of that, after some seconds of compiling",
    ]


def _tried(population: Population, choice: Choice, taken: StepBytes) -> Population:
    """The part of a population whose steps are timed: those that one call takes, or as many of them as are small."""
    small = max(1, taken.fits(TRIED_BYTES + data_bytes(population.stream.data)))
    some = min(choice.together, small)
    return population if population.replicas <= some else population.part(slice(0, some))


def _on(tried: Population, population: Population) -> str:
    if tried.replicas == population.replicas:
        return ""
    return f", told from {tried.replicas:,} of the {counted(population.replicas)}"


def _seconds_a_step(population: Population, metrics: Sequence[Metric]) -> float:
    state = initial_state(population)
    clock = Clock(*(torch.tensor(0, device=population.device) for _ in range(3)))
    tables = population.stream.prepare(0)
    executor = Stacked(population, 1)
    start = time.perf_counter()
    stretch(executor, state, clock, 1, tables, Events(population).until(0, 1))["alive"].cpu()
    first = time.perf_counter() - start
    measure(population, state, metrics, 0)
    if first >= LONG:
        return first
    start = time.perf_counter()
    stretch(executor, state, clock, STEPS, tables)["alive"].cpu()
    return (time.perf_counter() - start) / STEPS


def _steps(choice: Choice) -> str:
    return f"{choice.block_steps} steps" if choice.block_steps > 1 else "1 step"


def _told(population: Population) -> str:
    told = [type(strategy).__name__ for strategy in population.strategies if strategy.needs_task_boundaries]
    return ", ".join(told) or "nobody"


def _lengths(stream: Stream) -> str:
    lengths = stream.steps_per_task
    return f"{lengths:,}" if isinstance(lengths, int) else f"{min(lengths):,} to {max(lengths):,}"


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds)) if len(seeds) <= 6 else f"{seeds[0]}, {seeds[1]}, ..., {seeds[-1]}"


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"
