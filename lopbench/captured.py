"""Captured blocks: a block recorded once as a CUDA graph, and replayed with a single launch.

A graph replays the same kernels on the same memory. So the state, the clock and the tables get buffers that stay
where they are, and the recorded block writes its results back into them: the clock counts on the device, and between
two calls nothing moves. What comes from elsewhere (a window's zeroed sums, what a hook at a task's end left, a new
epoch's tables) is copied in before the next replay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from lopbench.learner import Block
from lopbench.population import map_tree
from lopbench.protocols import Clock, Tree

#: Calls before the recording: kernels are compiled and loaded, and libraries make their workspaces.
WARM_UP = 3

InPlace = Callable[[Tree, Clock, Tree, Tree], None]


def in_place(block: Block) -> InPlace:
    """The block as a function that leaves the new state and clock in the tensors of the old."""

    def advance(state: Tree, clock: Clock, tables: Tree, event: Tree) -> None:
        new, later = block(state, clock, tables, event)
        map_tree(_put, state, new)
        for old, value in zip(clock, later, strict=True):
            _put(old, value)

    return advance


def _put(old: Tensor, new: Tensor) -> None:
    if old is not new:
        old.copy_(new)


class Capturing:
    """The buffers that the captured blocks of one executor share, so that the state need not move between them."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        self._buffers: dict[str, Tree] = {}
        self._loaded: dict[str, Tree] = {}

    def load(self, name: str, tree: Tree) -> Tree:
        """The buffers called `name`, which hold the values of `tree` from here on; made at the first call."""
        if name not in self._buffers:
            self._buffers[name] = map_tree(torch.clone, tree)
        elif tree is not self._buffers[name] and tree is not self._loaded.get(name):
            self._copy(self._buffers[name], tree)
        # tables stay as they were loaded, but the state and the clock go on in their buffers
        self._loaded[name] = self._buffers[name] if name in ("state", "clock") else tree
        return self._buffers[name]

    def _copy(self, buffers: Tree, tree: Tree) -> None:
        moving = [(old, new) for old, new in zip(_leaves(buffers), _leaves(tree), strict=True) if old is not new]
        if not moving:
            return
        mine = {_place(leaf) for each in self._buffers.values() for leaf in _leaves(each)}
        # what lies in another buffer (a strategy keeps the parameters of now) must be read before that is written
        values = [new.clone() if _place(new) in mine else new for _, new in moving]
        for (old, _), value in zip(moving, values, strict=True):
            old.copy_(value)


class Captured:
    """A block that is recorded at its first call. The state that it returns is overwritten by the next call.

    advance: the block `in_place`, compiled: what is recorded must not copy constants from the host.
    """

    def __init__(self, advance: InPlace, capturing: Capturing, name: str) -> None:
        self._advance, self._capturing, self._name = advance, capturing, name
        self._replay: Callable[[], Any] | None = None

    def __call__(self, state: Tree, clock: Clock, tables: Tree, event: Tree) -> tuple[Tree, Clock]:
        load = self._capturing.load
        clocks = clock._asdict()

        def loaded() -> tuple[Tree, Clock, Tree, Tree]:
            return (
                load("state", state),
                Clock(**load("clock", clocks)),
                load("tables", tables),
                load(f"event of {self._name}", event),
            )

        arguments = loaded()
        if self._replay is None:
            self._replay = self._recorded(arguments)
        self._replay()
        return arguments[0], arguments[1]

    def _recorded(self, arguments: tuple[Tree, Clock, Tree, Tree]) -> Callable[[], Any]:
        """What repeats the block on the same tensors, whose values are those of before."""

        def advance() -> None:
            self._advance(*arguments)

        device = self._capturing.device
        if device.type != "cuda":  # no graphs here: the same buffers, and the call itself again and again
            return advance
        state, clock, _, _ = arguments
        before = map_tree(torch.clone, {"state": state, "clock": clock._asdict()})
        with torch.cuda.device(device):
            beside = torch.cuda.Stream()
            beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(beside):
                for _ in range(WARM_UP):
                    advance()
            torch.cuda.current_stream().wait_stream(beside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._capturing.pool):
                advance()
        map_tree(_put, {"state": state, "clock": clock._asdict()}, before)
        return graph.replay


def _leaves(tree: Tree) -> Iterator[Tensor]:
    for value in tree.values():
        if isinstance(value, dict):
            yield from _leaves(value)
        else:
            yield value


def _place(leaf: Tensor) -> int:
    return leaf.untyped_storage().data_ptr()
