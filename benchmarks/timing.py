"""Timing on a machine that does other things too: short samples of all contenders, interleaved, many rounds.

Contenders run A B C A B C ..., so that a slow spell of the machine hits all of them, and two are compared round by
round: the median of their ratios is steadier than the ratio of their medians.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

Advance = Callable[[int], object]  #: takes so many steps, and waits until they are done


#: "process" counts the processor's time, which others on the machine do not lengthen; it wants one thread
CLOCKS = {"wall": time.perf_counter, "process": time.process_time}


def seconds(call: Callable[[], object], clock: str = "wall") -> float:
    """The time of one call."""
    start = CLOCKS[clock]()
    call()
    return CLOCKS[clock]() - start


@dataclass(frozen=True)
class Contender:
    """Something that takes steps: in multiples of `multiple`, and at most `most` at a time.

    parts: that take turns in it, in long ones in a real run: so each shall last as long as a sample.
    """

    advance: Advance
    multiple: int = 1
    most: int = 1_000_000
    parts: int = 1

    def sample_steps(self, lasting: float) -> int:
        """How many steps take about `lasting` seconds, found by doubling; warms up on the way."""
        steps = self.multiple
        while 2 * steps <= self.most and seconds(partial(self.advance, steps)) < self.parts * lasting / 2:
            steps *= 2
        return steps


#: Of fewer samples a median says little.
FEWEST_ROUNDS = 3


def interleave(
    contenders: Mapping[str, Contender],
    rounds: int,
    lasting: float,
    clock: str = "wall",
    budget: float = math.inf,
) -> dict[str, np.ndarray]:
    """Microseconds a step of every contender in every round, `[rounds]`; a sample lasts about `lasting` seconds
    (a part).

    After `budget` seconds no further round begins, but there are three at least (or `rounds`, if these are fewer).
    """
    steps = {name: contender.sample_steps(lasting) for name, contender in contenders.items()}
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    start = time.perf_counter()
    for done in range(rounds):
        if done >= FEWEST_ROUNDS and time.perf_counter() - start > budget:
            break
        for name, contender in contenders.items():
            sample = seconds(partial(contender.advance, steps[name]), clock)
            taken[name].append(1e6 * sample / steps[name])
    return {name: np.array(values) for name, values in taken.items()}
