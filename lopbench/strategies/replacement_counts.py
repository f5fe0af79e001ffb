"""How many units continual backpropagation replaces, and when: simulated by the host.

The numbers do not depend on which units are replaced, so they are known before the run. In a layer of N
units of which n are eligible (older than the maturity threshold m), an update is owed the quota

    q = rate * n    (count "eligible")    or    rate * N as long as n > 0    (count "all")

and replaces r units, by one of two roundings:

    accumulated   credit <- credit + q;  r = floor(credit);  credit <- credit - r
    random        r = 1 with probability q if q < 1, else r = floor(q)

A unit replaced in update t is eligible again from update t + m + 1 on. Arithmetic is that of double
precision, addition by addition. Sources: Dohare et al. 2024 (Nature), Algorithm 1, and its code.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch

from lopbench.keyed_random import uniforms

NEVER = 2**62  # an update that no run reaches


class Rounding(Protocol):
    """Turns quotas into numbers of units."""

    def advance(self, quota: float, most: int) -> tuple[int, int]:
        """Updates until one replaces something, and how many units; (most, 0) if none of the next `most` does."""


class Accumulated:
    """r = floor(credit), with the quota of every update added to the credit."""

    def __init__(self) -> None:
        self._credit = 0.0

    def advance(self, quota: float, most: int) -> tuple[int, int]:
        updates, self._credit = add_repeatedly(self._credit, quota, most)
        whole = math.floor(self._credit)
        self._credit -= whole
        return updates, whole


def add_repeatedly(credit: float, quota: float, most: int) -> tuple[int, float]:
    """`credit += quota` until credit >= 1, at most `most` times: how often, and the credit, to the last bit.

    Between two powers of two floating-point numbers are evenly spaced. There every addition but the first (which
    may break a tie) rounds to the same multiple of the spacing, so that all but the last are taken at once.
    """
    added = 0
    while credit < 1 and added < most:
        before, credit = credit, credit + quota
        added += 1
        spacing = math.ulp(credit)
        if math.ulp(before) != spacing or credit >= 1:
            continue
        step = round((credit + quota - credit) / spacing)
        if step == 0:  # the quota is below the credit's resolution: it never grows again
            return most, credit
        room = round((2.0 ** math.frexp(credit)[1] - credit) / spacing)  # up to the next power of two
        skipped = min((room - 1) // step, most - added)
        credit += skipped * step * spacing
        added += skipped
    return added, credit


class Chance:
    """r = 1 with probability q, or floor(q) from q = 1 on, independently in every update.

    The wait for the next success is geometric, P(wait > k) = (1 - q)^k: one uniform a wait, and after a change of q
    the wait begins anew.
    """

    def __init__(self, seed: int, purpose: str) -> None:
        self._uniforms = uniform_sequence(seed, purpose)

    def advance(self, quota: float, most: int) -> tuple[int, int]:
        if quota >= 1:
            return 1, math.floor(quota)
        if quota == 0:
            return most, 0
        wait = math.log(next(self._uniforms)) / math.log1p(-quota)
        return (math.ceil(wait), 1) if wait <= most else (most, 0)


def uniform_sequence(seed: int, purpose: str, chunk: int = 1024) -> Iterator[float]:
    """Uniforms on (0, 1) keyed by (seed, purpose): element k % chunk of step k // chunk is the k-th."""
    for step in itertools.count():
        yield from uniforms(torch.tensor([seed]), purpose, torch.tensor(step), chunk, torch.float64)[0].tolist()


@dataclass(frozen=True)
class Layer:
    """One layer of one replica: all that its numbers depend on. `draws`: (seed, purpose) if rounding is "random"."""

    rate: float
    maturity: int
    units: int
    count: str
    draws: tuple[int, str] | None = None

    def replacements(self) -> Iterator[tuple[int, int]]:
        """(update number from 1, units to replace), ascending, without end; nothing if the rate is NaN or 0.

        What a quota owes beyond the eligible units (count "all" only) is dropped, not owed on.
        """
        if not self.rate > 0:
            return
        rounding: Rounding = Accumulated() if self.draws is None else Chance(*self.draws)
        update, eligible = 0, 0
        growing = deque([(self.maturity + 1, self.units)])  # (update from which on they are eligible, units)
        while True:
            while growing and growing[0][0] <= update + 1:
                eligible += growing.popleft()[1]
            unchanged = growing[0][0] - update - 1 if growing else NEVER
            quota = self.rate * (self.units if self.count == "all" else eligible) if eligible else 0.0
            waited, replaced = rounding.advance(quota, unchanged)
            update += waited
            if update >= NEVER:
                return
            replaced = min(replaced, eligible)
            if replaced:
                yield update, replaced
                eligible -= replaced
                growing.append((update + self.maturity + 1, replaced))
