"""Our side: a population of the shipped gin files under the executor that a run would choose."""

from __future__ import annotations

import dataclasses
import functools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from benchmarks.timing import seconds
from lopbench import config
from lopbench.events import Events
from lopbench.executors import Choice, Event, choose, stretch
from lopbench.experiment import Loader, imitation
from lopbench.learner import initial_state
from lopbench.population import Population
from lopbench.protocols import Clock, Tree, overrides
from lopbench.variants import Surroundings, populate, run


@dataclass(frozen=True)
class Setting:
    """Where and how long: the flags of `benchmarks.run`."""

    device: torch.device
    data_dir: str | None = None  # None: generated images of MNIST's shape
    executor: str = "compiled"
    rounds: int = 11
    lasting: float = 0.2  # seconds of one sample
    clock: str = "wall"
    threads: int | None = None  # None: as many as a run would choose
    quick: bool = False

    @functools.cached_property
    def surroundings(self) -> Surroundings:
        made = imitation(self.device) if self.data_dir is None else Loader(self.data_dir, self.device)
        return Surroundings(self.device, functools.cache(made))


@functools.cache
def populations(setting: Setting, gin_file: str, replicas: int) -> dict[str, Population]:
    """The population of every variant that a gin file names, with so many seeds."""
    request = config.read([gin_file], [f"run.seeds = {replicas}"])
    found = {}
    for name in request.variants:
        with request.variant(name):
            found[name] = populate([run(setting.surroundings)])
    return found


class Ours:
    """A population that is trained stretch by stretch, as a run does it; each call waits for its end."""

    def __init__(self, setting: Setting, population: Population) -> None:
        self.population = population
        choice = choose(population, 1_000_000, setting.executor)
        self.choice: Choice = dataclasses.replace(choice, threads=setting.threads or choice.threads)
        self._executor = self.choice.build(population)  # from here on torch has the choice's number of threads
        self._state = initial_state(population)
        self._step = 0
        self.tables_seconds = statistics.median(seconds(partial(self._prepare, i), setting.clock) for i in (2, 1, 0))
        due = Events(population).until(0, 10_000)
        self._event = due[0][1] if due else None

    def _prepare(self, number: int) -> None:
        self._tables = self.population.stream.prepare(number * self.steps_per_table)
        self._tables["start" if "start" in self._tables else "inputs"].cpu()  # on a GPU: wait

    @property
    def steps_per_table(self) -> int:
        return self.population.stream.next_boundary(0)

    @property
    def has_rare_work(self) -> bool:
        return self._event is not None

    def hot(self, steps: int) -> float:
        """Steps without rare work; their mean loss in replica 0."""
        return self._stretch(steps, [])

    def rare(self, steps: int) -> float:
        """Steps with rare work in each."""
        return self._stretch(steps, [(position, self._event) for position in range(steps)])

    def _stretch(self, steps: int, events: Sequence[Event]) -> float:
        if self._step + steps > self.steps_per_table:
            self._step = 0  # the task's first batches again
        clock = Clock(*(torch.tensor(at, device=self.population.device) for at in (self._step, 0, self._step)))
        before = self._loss()
        self._state = stretch(self._executor, self._state, clock, steps, self._tables, events)
        self._step += steps
        return (self._loss() - before) / steps

    def _loss(self) -> float:
        return float(self._state["online"]["loss"][0])

    @property
    def state(self) -> Tree:
        """The state as it stands."""
        return self._state

    def all_alive(self) -> bool:
        return bool(self._state["alive"].all())


def single_step_share(population: Population, block_steps: int, window_steps: int = 1000, windows: int = 100) -> float:
    """The share of steps that run singly, with rare work or before it where a block does not fit, in a long run."""
    if not any(overrides(strategy, "events") for strategy in population.strategies):
        return 0.0
    events, single = Events(population), 0
    for start in range(0, windows * window_steps, window_steps):
        done = 0
        for position, _ in events.until(start, start + window_steps):
            single += (position - done) % block_steps + 1
            done = position + 1
        single += (window_steps - done) % block_steps
    return single / (windows * window_steps)
