"""Executors: how a stretch of steps is run. Eager, compiled or captured; all replicas at once, or some at a time.

A stretch lies between two cuts of the host (a window's end, a task's end, a table's boundary, a probe).
An executor runs it in blocks: a hot block of `block_steps` steps without rare work, and a block of one
step for each event. No part can see which executor runs; bits are promised for the same one only.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from types import FunctionType
from typing import Any, Protocol

import torch

from lopbench.captured import Captured, Capturing, in_place
from lopbench.events import Event
from lopbench.learner import Block, make_block
from lopbench.population import Population, map_tree, slice_replicas
from lopbench.protocols import Clock, Tree

Call = tuple[int, Callable[[], Tree]]  #: steps of the stretch made so far, and what gives the state after them


class Stopwatch:
    """Sums the seconds of first calls: of what compiles or records itself then."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def of(self, block: Block) -> Block:
        """The block, with its first call timed."""
        called = False

        def timed(*arguments: Any) -> tuple[Tree, Clock]:
            nonlocal called
            if called:
                return block(*arguments)
            called, start = True, time.perf_counter()
            result = block(*arguments)
            self.seconds += time.perf_counter() - start
            return result

        return timed


class Executor(Protocol):
    """Runs stretches of steps. `preparing`: how long compiling and recording took so far."""

    preparing: Stopwatch

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
    """All replicas side by side in one call a block.

    block: how a block is run: "eager"; "compiled" whole; "captured", compiled and recorded as a CUDA graph.
    compiled_events: whether the steps with rare work are run so, too, or eagerly; None: they are.
    """

    def __init__(
        self, population: Population, block_steps: int, block: str = "eager", compiled_events: bool | None = None
    ) -> None:
        self.block_steps = block_steps
        self.preparing = Stopwatch()
        hot, single = make_block(population, block_steps), make_block(population, 1)
        prepared = self._prepare(block, population.device)
        self._hot = prepared(hot, "hot")
        # steps left over before an event share its graph, with nothing due, where it has one
        self._share = block != "eager" if compiled_events is None else compiled_events
        self._event = prepared(single, "event") if self._share else single
        self._rest = self._event if self._share or block == "eager" else prepared(single, "rest")

    def _prepare(self, block: str, device: torch.device) -> Callable[[Block, str], Block]:
        """What makes a block ready to run; its first call, which compiles or records it, is timed."""
        if block == "eager":
            return lambda made, name: made
        if block == "compiled":
            return lambda made, name: self.preparing.of(compiled(made))
        # not compiled, a block copies constants from the host, which no graph can; without a GPU there is no graph
        capturing, ready = Capturing(device), compiled if device.type == "cuda" else lambda made: made
        return lambda made, name: self.preparing.of(Captured(ready(in_place(made)), capturing, name))

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


def compiled(block: Callable[..., Any]) -> Callable[..., Any]:
    """The block compiled whole, as a function of its own.

    The compiler bounds its cache per code object, and all blocks come from one: so each gets a copy. Before every call
    it checks what it took for granted; see `_guards`.
    """
    code = block.__code__.replace()
    own = FunctionType(code, block.__globals__, block.__name__, block.__defaults__, block.__closure__)
    return torch.compile(own, fullgraph=True, dynamic=False, options={"guard_filter_fn": _guards})


def _guards(entries: Sequence[Any]) -> list[bool]:
    """Which of the compiler's checks are made before each call: of what comes in, and of torch's modes.

    Two thousand others look at modules, configuration and code, all of which a population fixes for good; they took
    longer than a step of a tiny network.
    """
    return [entry.guard_type == "GLOBAL_STATE" or bool(_ARGUMENT.match(entry.name)) for entry in entries]


#: how the compiler calls what is reached from a block's arguments: L['state']['seeds'], or state['seeds']
_ARGUMENT = re.compile(r"(L\[')?(state|clock|tables|event)\b")


class Looped:
    """`together` replicas after another through the same block, each part a population of its own.

    A part runs for `TURN` seconds, and the others up to where it got: so all are soon at the same step. What one part
    works on stays in the processor's caches meanwhile.
    """

    TURN = 0.25

    def __init__(
        self,
        population: Population,
        block_steps: int,
        block: str = "eager",
        compiled_events: bool | None = None,
        together: int = 1,
    ) -> None:
        self._one = Stacked(population, block_steps, block, compiled_events)
        self.preparing = self._one.preparing
        self._parts = [slice(r, r + together) for r in range(0, population.replicas, together)]

    def calls(
        self, state: Tree, clock: Clock, steps: int, tables: Tree, events: Sequence[Event], idle: Tree
    ) -> Iterator[Call]:
        runs = []
        for part in self._parts:
            mine = [(position, slice_replicas(table, part)) for position, table in events]
            branch, own, nothing = (slice_replicas(tree, part) for tree in (state, tables, idle))
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
