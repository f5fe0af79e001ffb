"""Our side: a population of the shipped gin files under the executor that a run would choose."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from benchmarks.timing import seconds
from lopbench import config
from lopbench.choosing import Choice, choose, multiply_adds
from lopbench.events import Event, Events
from lopbench.executors import stretch
from lopbench.experiment import Loader, imitation
from lopbench.learner import initial_state
from lopbench.memory import data_bytes, step_bytes
from lopbench.population import Population
from lopbench.protocols import Clock, Tree, overrides
from lopbench.variants import Surroundings, populate, run

#: Steps of the run that a choice of executor is made for.
STEPS_OF_A_RUN = 1_000_000
#: Multiply-adds of one network's forward pass: with more of them its memory on a CPU is not measured.
MOST_WORK_OF_EAGER_STEPS = 1e10


@dataclass(frozen=True)
class Setting:
    """Where and how long: the flags of `benchmarks.run`."""

    device: torch.device
    data_dir: str | None = None  # None: generated images of each data set's shape
    executor: str = "auto"
    rounds: int = 11
    lasting: float = 0.2  # seconds of one sample
    budget: float = 40.0  # seconds after which contenders that take turns begin no further round
    clock: str = "wall"
    threads: int | None = None  # None: as many as a run would choose
    quick: bool = False
    cold: bool = False

    @functools.cached_property
    def surroundings(self) -> Surroundings:
        made = imitation(self.device) if self.data_dir is None else Loader(self.data_dir, self.device)
        return Surroundings(self.device, functools.cache(made))


def populations(setting: Setting, gin_file: str, replicas: int, bindings: Sequence[str] = ()) -> dict[str, Population]:
    """The population of every variant that a gin file names, with so many seeds."""
    request = config.read([gin_file], [*bindings, f"run.seeds = {replicas}"])
    found = {}
    for name in request.variants:
        with request.variant(name):
            found[name] = populate([run(setting.surroundings)])
    return found


def one_population(setting: Setting, gin_file: str, replicas: int, bindings: Sequence[str] = ()) -> Population:
    """The same of a file that makes one."""
    (found,) = populations(setting, gin_file, replicas, bindings).values()
    return found


def chosen(setting: Setting, population: Population) -> Choice:
    """The executor of a long run, on the number of threads that the flags say."""
    choice = choose(population, STEPS_OF_A_RUN, setting.executor)
    return dataclasses.replace(choice, threads=setting.threads or choice.threads)


class Ours:
    """A population that is trained stretch by stretch, as a run does it; each call waits for its end."""

    def __init__(self, setting: Setting, population: Population) -> None:
        self.population = population
        self.choice = chosen(setting, population)
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
    def executor(self) -> str:
        """Executor, steps a call, threads, and how many replicas go together where some wait."""
        told = f"{self.choice.executor}, {self.choice.block_steps}, {self.choice.threads}"
        return f"{told}; {self.choice.together} together" if self.choice.loops(self.population) else told

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
        assert self._event is not None, "nothing is ever due"
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


@contextlib.contextmanager
def peak_memory(population: Population) -> Iterator[dict[str, float]]:
    """Fills in "bytes" at the end, on a GPU: at most allocated within this context, and the data set."""
    peak: dict[str, float] = {}
    device, before = population.device, 0
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    yield peak
    if device.type == "cuda":
        peak["bytes"] = torch.cuda.max_memory_allocated(device) - before + data_bytes(population.stream.data)


def host_bytes(side: Ours) -> float | None:
    """What a population takes on a CPU, as a dry run would tell: tensors alive at the peak of eager steps.

    None where such steps take minutes.
    """
    work = multiply_adds(side.population) * getattr(side.population.stream, "batch_size", 1)
    if work > MOST_WORK_OF_EAGER_STEPS:
        return None
    return step_bytes(side.population, side.choice).of(side.population.replicas)


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
