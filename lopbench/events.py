"""Events: the strategies' rare work, which the host knows beforehand, in the order of steps."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from lopbench.population import Population, map_tree
from lopbench.protocols import Tree, overrides

Event = tuple[int, Tree]  #: (position in a stretch of steps, from 0; table)


class Events:
    """The strategies' rare work in the order of steps: merged, and turned into tensors.

    `after`: what is due in the first `after` updates is passed over. `ahead` is the next event, (update number,
    tables), or None; `idle` the tables of one in which nothing is due, empty if there is none in the whole run.
    """

    def __init__(self, population: Population, after: int = 0) -> None:
        self._device, self._after = population.device, after
        self._streams: dict[str, Iterator[tuple[int, dict[str, np.ndarray]]]] = {}
        self._next: dict[str, tuple[int, dict[str, np.ndarray]]] = {}
        self._idle: Tree = {}
        for index, strategy in enumerate(population.strategies):
            if not overrides(strategy, "events"):
                continue
            key = str(index)
            hyper = population.hyper.get(f"strategies.{key}", {})
            self._streams[key] = strategy.events(population, hyper)
            if self._advance(key):
                self._idle[key] = map_tree(np.zeros_like, self._next[key][1])
        self.idle: Tree = map_tree(self._as_tensor, self._idle)
        self._following = self._each()
        self.ahead = next(self._following, None)

    def _advance(self, key: str) -> bool:
        following = next(self._streams[key], None)
        if following is None:
            self._next.pop(key, None)
        else:
            self._next[key] = following
        return following is not None

    def _each(self) -> Iterator[tuple[int, Tree]]:
        """Every event from here on: (update number, tables as tensors)."""
        while self._next:
            number = min(number for number, _ in self._next.values())
            tables = dict(self._idle)
            for key in [key for key, (due, _) in self._next.items() if due == number]:
                tables[key] = self._next[key][1]
                self._advance(key)
            if number > self._after:
                yield number, map_tree(self._as_tensor, tables)

    def _as_tensor(self, table: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(table, device=self._device)

    def count(self, stop: int, at_most: int) -> int:
        """How many events there are in the updates up to `stop`, counted up to `at_most`; uses them up."""
        counted = 0
        while counted < at_most and self.ahead is not None and self.ahead[0] <= stop:
            self.ahead = next(self._following, None)
            counted += 1
        return counted

    def until(self, start: int, stop: int) -> list[Event]:
        """The events of the updates start+1 ... stop, by their position from `start`; call with growing spans."""
        found: list[Event] = []
        while self.ahead is not None and self.ahead[0] <= stop:
            if self.ahead[0] > start:
                found.append((self.ahead[0] - start - 1, self.ahead[1]))
            self.ahead = next(self._following, None)
        return found
