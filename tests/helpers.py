"""Small populations and learners for tests of strategies: real parts, tiny shapes, no files.

`tiny_population` is a population that trains (use `run`); `learner_for` is the learner of one step, with
parameters, gradients and features that the test chooses, and `call` calls a hook of its strategy
as the step would: with its draws, and with its event when one is due.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lopbench.initializers import Initial, constant, uniform
from lopbench.keyed_random import integers, normals
from lopbench.learner import Learner, call_task_hook, initial_state, make_block
from lopbench.optimizers.schedules import Constant
from lopbench.optimizers.sgd import SGD
from lopbench.population import Population, map_tree, stack_parts
from lopbench.protocols import Clock, Optimizer, Problem, Strategy, Stream, Tree
from lopbench.units import Link, UnitGroup


class TinyNet(nn.Module):
    """inputs - hidden (ReLU, layer norm) - outputs, with records and one unit group named "hidden"."""

    def __init__(self, problem: Problem, hidden: int = 5):
        super().__init__()
        self.hidden = nn.Linear(problem.input_shape[0], hidden)
        self.norm = nn.LayerNorm(hidden)
        self.output = nn.Linear(hidden, problem.outputs)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        features = torch.relu(self.hidden(x))
        return self.output(self.norm(features)), {"hidden": features}

    def initial_records(self) -> dict[str, Initial]:
        return {
            "hidden.weight": uniform(self.hidden.in_features**-0.5),
            "hidden.bias": uniform(self.hidden.in_features**-0.5),
            "norm.weight": constant(1.0),
            "norm.bias": constant(0.0),
            "output.weight": uniform(self.output.in_features**-0.5),
            "output.bias": constant(0.0),
        }

    def unit_groups(self) -> tuple[UnitGroup, ...]:
        return (
            UnitGroup(
                name="hidden",
                units=self.hidden.out_features,
                feature="hidden",
                feature_axis=1,
                activation="relu",
                weight=Link("hidden.weight", 0),
                bias=Link("hidden.bias", 0),
                readers=(Link("output.weight", 1),),
                norm_weight=Link("norm.weight", 0),
                norm_bias=Link("norm.bias", 0),
            ),
        )


class Tensors(nn.Module):
    """A module that only holds parameters of the given shapes and initial records; its output is 0."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], records: Mapping[str, Initial] | None = None):
        super().__init__()
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape)))
        self.records = dict(records or {})

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return sum(p.sum() for p in self.parameters()) * 0 + x * 0, {}

    def initial_records(self) -> dict[str, Initial]:
        return {name: self.records.get(name, uniform(0.5)) for name, _ in self.named_parameters()}


@dataclass(frozen=True)
class TinyStream(Stream):
    """Normal inputs and random labels, new ones each step."""

    seeds: Tensor
    data: None = None
    dtype: torch.dtype = torch.float32
    tasks: int | None = None
    steps_per_task: int = 1_000_000
    batch_size: int = 8
    inputs: int = 4
    classes: int = 3

    @property
    def problem(self) -> Problem:
        return Problem((self.inputs,), self.classes, "cross_entropy")

    def next_boundary(self, step: int) -> int:
        return (step // self.steps_per_task + 1) * self.steps_per_task

    def prepare(self, step: int) -> Tree:
        return {"seeds": self.seeds}

    def _draw(self, seeds: Tensor, purpose: str, steps: Tensor, size: int) -> tuple[Tensor, Tensor]:
        x = normals(seeds, f"{purpose}/x", steps, size * self.inputs, self.dtype).unflatten(-1, (size, self.inputs))
        return x, integers(seeds, f"{purpose}/y", steps, size, self.classes)

    def batches(self, tables: Tree, clock: Clock, n: int) -> tuple[Tensor, Tensor]:
        return self._draw(tables["seeds"], "batch", clock.step + torch.arange(n), self.batch_size)

    def probe(self, split: str, size: int, task: int, step: int = 0) -> tuple[Tensor, Tensor]:
        return self._draw(self.seeds, f"probe/{split}", torch.tensor(task), size)


def tiny_population(
    strategies: Sequence[Strategy | Sequence[Strategy]] = (),
    *,
    module: nn.Module | None = None,
    replicas: int | None = None,
    seeds: Sequence[int] | None = None,
    dtype: torch.dtype = torch.float32,
    optimizer: Optimizer | None = None,
    steps_per_task: int = 1_000_000,
) -> Population:
    """A population of TinyNet (or `module`) on TinyStream, by default under SGD with momentum.

    An entry of `strategies` is one strategy for all replicas, or a list with one for each replica (which may
    then differ in PerReplica fields). R is the length of such a list, of `seeds`, or `replicas` (default 2).
    """
    columns = [list(entry) if isinstance(entry, Sequence) else [entry] for entry in strategies]
    longest = max([len(column) for column in columns], default=1)
    count = len(seeds) if seeds is not None else replicas or (longest if longest > 1 else 2)
    keys = torch.tensor(list(seeds) if seeds is not None else [11 + 7 * i for i in range(count)], dtype=torch.int64)
    stream = TinyStream(keys, dtype=dtype, steps_per_task=steps_per_task)
    chosen, hyper = [], {}
    for index, column in enumerate(columns):
        part, hyper[f"strategies.{index}"] = stack_parts(column * count if len(column) == 1 else column, "test")
        chosen.append(part)
    rule, hyper["optimizer"] = stack_parts([optimizer or SGD(learning_rate=0.1, momentum=0.9)] * count, "test")
    module = TinyNet(stream.problem) if module is None else module
    population = Population(stream, module, rule, Constant(steps_per_task), tuple(chosen), hyper, keys, dtype)
    for strategy in population.strategies:
        strategy.check(population)
    return population


def run(population: Population, updates: int, state: Tree | None = None, done: int = 0) -> Tree:
    """The state after `updates` further updates, one a block, with events and task hooks as a run has them."""
    state = initial_state(population) if state is None else state
    block = make_block(population, 1)
    for step in range(done, done + updates):
        task, step_in_task = population.stream.locate(step)
        clock = Clock(*(torch.tensor(value) for value in (step, task, step_in_task)))
        if step and step_in_task == 0:
            state = call_task_hook(population, state, clock, "begin_task", task)
        events = {str(i): event_at(population, i, step + 1) for i in range(len(population.strategies))}
        event = {key: table for key, table in events.items() if table is not None}
        state, _ = block(state, clock, population.stream.prepare(step), event)
        if step_in_task + 1 == population.stream.task_length(task):
            state = call_task_hook(population, state, clock.later(1), "end_task", task)
    return state


def event_at(population: Population, index: int, update: int) -> dict[str, Tensor] | None:
    """What strategy number `index` is due in update number `update` (from 1), or None."""
    for number, table in population.strategies[index].events(population, population.hyper[f"strategies.{index}"]):
        if number == update:
            return {name: torch.as_tensor(values) for name, values in table.items()}
        if number > update:
            break
    return None


def learner_for(
    module: nn.Module | None = None,
    strategies: Strategy | Sequence[Strategy] = (),
    *,
    parameters: Mapping[str, Tensor] | None = None,
    gradients: Mapping[str, Tensor] | None = None,
    features: Mapping[str, Tensor] | None = None,
    buffers: Mapping[str, Tensor] | None = None,
    **population: Any,
) -> Learner:
    """The learner of one step as its strategy sees it, with that strategy's first state.

    `strategies`: one strategy, or a list with one for each replica. Given `parameters`, `gradients`,
    `features` and `buffers` lead with R; parameters not given are drawn from their records, gradients are 0.
    Other arguments are those of `tiny_population`.
    """
    values = {**(parameters or {}), **(gradients or {}), **(features or {})}
    if values and "replicas" not in population and "seeds" not in population:
        population["replicas"] = next(iter(values.values())).shape[0]
    if parameters:
        population.setdefault("dtype", next(iter(parameters.values())).dtype)
    made = tiny_population([strategies] if strategies else [], module=module, **population)
    start = initial_state(made)
    learner = Learner(
        made,
        {**start["parameters"], **(parameters or {})},
        {**start["buffers"], **(buffers or {})},
        start["optimizer"],
        Clock(*[torch.zeros((), dtype=torch.int64)] * 3),
        start["seeds"],
        hyper=start["hyper"].get("strategies.0", {}),
        owner="strategies.0",
        features=dict(features or {}),
    )
    learner.gradients = {**{name: torch.zeros_like(p) for name, p in learner.parameters.items()}, **(gradients or {})}
    if strategies:
        learner.state = made.strategies[0].init(learner)
    return learner


def call(learner: Learner, hook: str, update: int = 1) -> Any:
    """Call a hook of the learner's strategy as update number `update` (from 1) would; its result."""
    strategy = learner.population.strategies[0]
    learner.clock = Clock(*[torch.tensor(update - 1)] * 3)
    learner.event = event_at(learner.population, 0, update)
    learner.draw = map_tree(lambda leaf: leaf[0], strategy.draws(learner, 1))
    return getattr(strategy, hook)(learner)
