"""Executors: how a stretch of steps is run. Eager or compiled, stacked or replica by replica.

A stretch lies between two cuts of the host (a window's end, a task's end, a table's boundary, a probe).
An executor runs it in blocks: a hot block of `block_steps` steps without rare work, and a block of one
step for each event. No part can see which executor runs; bits are promised for the same one only.
"""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from types import FunctionType
from typing import Any, Protocol

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lopbench.errors import UserError, require
from lopbench.events import Event, Events
from lopbench.learner import Block, make_block
from lopbench.population import Population, map_tree, slice_replicas
from lopbench.probing import evaluation_mode
from lopbench.protocols import Clock, Tree

EXECUTORS = ("auto", "eager", "compiled", "looped", "looped_compiled")

#: Fewer steps than this, with fewer multiply-adds in all their forward passes, are not worth the time of compiling.
COMPILE_FROM_STEPS = 4000
COMPILE_FROM_WORK = 4e12
#: So many steps with rare work are worth compiling; it takes the longer the more tensors are reinitialised.
COMPILE_EVENTS_FROM, COMPILE_EVENTS_FROM_A_TENSOR = 200, 50
#: Above this many parameters a CPU is faster replica by replica: matrix products fill it, stacking only adds traffic.
LOOP_FROM_PARAMETERS = 2_000_000

DEFAULT_THREADS = torch.get_num_threads()


Call = tuple[int, Callable[[], Tree]]  #: steps of the stretch made so far, and what gives the state after them


class Executor(Protocol):
    """Runs stretches of steps."""

    def calls(
        self, state: Tree, clock: Clock, steps: int, tables: Tree, events: Sequence[Event], idle: Tree
    ) -> Iterator[Call]:
        """Run `steps` steps from `clock` on, with rare work at the events' positions; yields now and then.

        `idle`: what an event looks like in which nothing is due (see `Events.idle`). Which calls follow depends on
        where the stretch stands and not on where it began, so that one that is broken off after any of them, and begun
        again there with the events that are left, makes the same ones.
        """


def stretch(
    executor: Executor,
    state: Tree,
    clock: Clock,
    steps: int,
    tables: Tree,
    events: Sequence[Event] = (),
    idle: Tree | None = None,
) -> Tree:
    """The state after all calls of a stretch; without `idle` there are no events but those given."""
    idle = map_tree(torch.zeros_like, events[0][1]) if events and idle is None else idle or {}
    calls = deque(executor.calls(state, clock, steps, tables, events, idle), maxlen=1)
    return calls[0][1]() if calls else state


class Stacked:
    """All replicas side by side in one call a block, eager or compiled whole.

    `compiled_events`: the same for the steps with rare work; None: as `compiled`.
    """

    def __init__(
        self, population: Population, block_steps: int, compiled: bool, compiled_events: bool | None = None
    ) -> None:
        self.block_steps = block_steps
        hot, single = make_block(population, block_steps), make_block(population, 1)
        self._hot = _compile(hot) if compiled else hot
        # steps left over before an event share its graph, with nothing due, where it has one
        self._share = compiled if compiled_events is None else compiled_events
        self._event = _compile(single) if self._share else single
        self._rest = self._event if self._share or not compiled else _compile(single)

    def calls(
        self, state: Tree, clock: Clock, steps: int, tables: Tree, events: Sequence[Event], idle: Tree
    ) -> Iterator[Call]:
        """Hot blocks up to each event, single steps for what they leave over and for the events; yields after each."""

        def reached() -> Tree:
            return state

        done = 0
        idle = idle if self._share else {}  # the same wherever the stretch is begun again, for it chooses the graph
        for position, table in (*events, (steps, {})):
            while done < position:
                if done + self.block_steps <= position:
                    state, clock = self._hot(state, clock, tables, {})
                    done += self.block_steps
                else:
                    state, clock = self._rest(state, clock, tables, idle)
                    done += 1
                yield done, reached
            if table:
                state, clock = self._event(state, clock, tables, table)
                done += 1
                yield done, reached


def _compile(block: Block) -> Block:
    """The block compiled whole, as a function of its own.

    The compiler bounds its cache per code object, and all blocks come from one: so each gets a copy.
    """
    code = block.__code__.replace()
    own = FunctionType(code, block.__globals__, block.__name__, block.__defaults__, block.__closure__)
    return torch.compile(own, fullgraph=True, dynamic=False)


class Looped:
    """One replica after another through the same block, each a population of one.

    A replica runs for `TURN` seconds, and the others up to where it got: so all are soon at the same step.
    """

    TURN = 0.25

    def __init__(
        self, population: Population, block_steps: int, compiled: bool, compiled_events: bool | None = None
    ) -> None:
        self._one = Stacked(population, block_steps, compiled, compiled_events)
        self._replicas = population.replicas

    def calls(
        self, state: Tree, clock: Clock, steps: int, tables: Tree, events: Sequence[Event], idle: Tree
    ) -> Iterator[Call]:
        runs = []
        for r in range(self._replicas):
            one = slice(r, r + 1)
            mine = [(position, slice_replicas(table, one)) for position, table in events]
            branch, own, nothing = (slice_replicas(tree, one) for tree in (state, tables, idle))
            runs.append(self._one.calls(branch, clock, steps, own, mine, nothing))
        done = 0
        while done < steps:
            until = time.monotonic() + self.TURN
            for count, (done, first) in enumerate(runs[0], 1):  # noqa: B007
                if time.monotonic() >= until:
                    break
            branches = [first(), *(next(islice(run, count - 1, None))[1]() for run in runs[1:])]
            yield done, partial(_joined, branches)


def _joined(branches: Sequence[Tree]) -> Tree:
    """The state of all replicas, from those of each."""
    return map_tree(lambda *leaves: torch.cat(leaves), *branches)


@dataclass(frozen=True)
class Choice:
    """Which executor runs, in blocks of how many steps, and why."""

    executor: str
    block_steps: int
    threads: int
    reason: str
    compiled_events: bool

    @classmethod
    def of(cls, told: Mapping[str, Any], path: Path) -> Choice:
        """The choice that the file at `path` tells of."""
        try:
            return cls(**told)
        except TypeError as error:
            raise UserError(f"{path} tells of another kind of executor than this version of lopbench has.") from error

    def require_possible(self, device: torch.device) -> None:
        """Refuse to go on with a run that was compiled where nothing can be compiled: its numbers would be others."""
        missing = missing_compiler(device)
        require(
            not self.executor.endswith("compiled") or missing is None,
            f"This run began with run.executor = {self.executor!r}, but {missing}: it can't go on here.",
        )

    def build(self, population: Population) -> Executor:
        """The executor; also sets the number of threads that torch uses from here on."""
        torch.set_num_threads(self.threads)
        kind = Looped if self.executor.startswith("looped") else Stacked
        return kind(population, self.block_steps, self.executor.endswith("compiled"), self.compiled_events)


def choose(population: Population, steps: int, executor: str = "auto", block_steps: int | None = None) -> Choice:
    """The executor for `steps` steps, by rules on sizes (so that the same run chooses the same)."""
    require(executor in EXECUTORS, f"run.executor is {executor!r}: it must be one of {', '.join(EXECUTORS)}.")
    require(
        block_steps is None or (isinstance(block_steps, int) and block_steps >= 1),
        f"run.block_steps is {block_steps!r}: it must be an integer at least 1, or None to let lopbench choose.",
    )
    missing = missing_compiler(population.device)
    parameters = sum(parameter.numel() for parameter in population.module.parameters())
    convolving = convolves(population.module)
    alone = multiply_adds(population) * getattr(population.stream, "batch_size", 1)  # of one replica's forward pass
    reason = "as run.executor says"
    if executor == "auto":
        large = parameters >= LOOP_FROM_PARAMETERS or convolving
        looped = population.device.type == "cpu" and population.replicas > 1 and large
        worth_it = steps >= COMPILE_FROM_STEPS or steps * alone * population.replicas >= COMPILE_FROM_WORK
        compiled = missing is None and worth_it
        executor = {(0, 0): "eager", (0, 1): "compiled", (1, 0): "looped", (1, 1): "looped_compiled"}[looped, compiled]
        why_eager = missing or f"{steps} steps are too few to be worth compiling"
        reason = f"{parameters:,} parameters a replica{', convolutions' if convolving else ''}, "
        reason += f"{steps:,} steps" if compiled else why_eager
    elif executor.endswith("compiled"):
        require(
            missing is None,
            f"run.executor is {executor!r}, but {missing}. Install one, or leave run.executor at 'auto'.",
        )
    work = alone * (1 if executor.startswith("looped") else population.replicas)  # of one call
    if block_steps is None:
        # many steps unrolled in one compiled call where a step is so small that the call would cost more
        block_steps = (5 if work < 1_000_000 else 2 if work < 10_000_000 else 1) if executor.endswith("compiled") else 1
    # two threads meet at the end of every kernel: in a small step they wait for each other longer than they work
    threads = 1 if work < 30_000_000 else DEFAULT_THREADS
    compiled_events = executor.endswith("compiled") and many_events(population, steps)
    return Choice(executor, block_steps, threads, reason, compiled_events)


def many_events(population: Population, steps: int) -> bool:
    """Whether a run of `steps` has so many steps with rare work that compiling these is worth its time."""
    tensors = len(list(population.module.parameters()))
    enough = COMPILE_EVENTS_FROM + COMPILE_EVENTS_FROM_A_TENSOR * tensors
    return Events(population).count(steps, at_most=enough) == enough


def convolves(module: nn.Module) -> bool:
    """Whether a network has convolutions.

    Stacked, they become one convolution of many groups, for which a CPU has only slow kernels.
    """
    return any(isinstance(part, nn.Conv2d) for part in module.modules())


def multiply_adds(population: Population) -> int:
    """Multiply-adds of one network's forward pass on one example, counted by torch."""
    example = torch.zeros(1, *population.stream.problem.input_shape)
    with torch.no_grad(), evaluation_mode(population.module), FlopCounterMode(display=False) as counter:
        population.module(example)
    return counter.get_total_flops() // 2


def missing_compiler(device: torch.device) -> str | None:
    """Why `torch.compile` can't work on this machine; None if it can."""
    if device.type == "cuda":
        return (
            None
            if importlib.util.find_spec("triton")
            else "Triton, which torch.compile needs on a GPU, is not installed"
        )
    default = "clang++" if sys.platform == "darwin" else "g++"
    compiler = os.environ.get("CXX", default)
    return (
        None if shutil.which(compiler) else f"there is no C++ compiler ({compiler}), which torch.compile needs on a CPU"
    )


def memory_bytes(state: Tree) -> int:
    """Bytes held by a state tree."""
    sizes: list[int] = []
    map_tree(lambda leaf: sizes.append(math.prod(leaf.shape) * leaf.element_size()), state)
    return sum(sizes)
