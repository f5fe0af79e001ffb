"""What loggers are handed: who was measured (`Replica`), what was measured (`Record`), and their contract."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

Value = float | int | str | bool | None


@dataclass(frozen=True)
class Replica:
    """One learner of the run.

    `index` counts over all populations of the run. `hyper` holds what this replica's variant has of the swept values,
    and of the hyperparameters that vary within the run, keyed "optimizers.SGD.learning_rate"; None: switched off.
    """

    index: int
    variant: str
    seed: int
    hyper: dict[str, Value] = field(default_factory=dict)

    @property
    def point(self) -> Point:
        """What this replica shares with those that differ from it in the seed alone."""
        return self.variant, tuple(self.hyper.items())


Point = tuple[str, tuple[tuple[str, Value], ...]]  # a variant, and the values of what varies


@dataclass(frozen=True)
class Record:
    """One quantity of all replicas of a population at one time.

    `step`: updates completed; `task`: index from 0 of the task it belongs to; `tag`: `group/name`, layers
    after a dot; `values`: float64 `[R]`, not finite where a replica is frozen.
    """

    step: int
    task: int
    tag: str
    values: np.ndarray


class Logger(Protocol):
    """Takes the records of one population at a time; `flush` and `close` leave everything on disk."""

    def write(self, replicas: Sequence[Replica], records: Sequence[Record]) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


def by_point(replicas: Sequence[Replica]) -> dict[Point, list[int]]:
    """The positions in `replicas` of each point's seeds, in order of first appearance."""
    groups: dict[Point, list[int]] = {}
    for position, replica in enumerate(replicas):
        groups.setdefault(replica.point, []).append(position)
    return groups


def varying(replicas: Sequence[Replica]) -> tuple[str, ...]:
    """The keys of everything that is swept or varies in the run, in order of first appearance."""
    return tuple(dict.fromkeys(name for replica in replicas for name in replica.hyper))


def distinguishing(points: Iterable[Point]) -> dict[str, tuple[str, ...]]:
    """For each variant the hyperparameters in which its points differ; between variants the name tells enough."""
    found: dict[str, dict[str, set[Value]]] = {}
    for variant, values in points:
        own = found.setdefault(variant, {})
        for name, value in values:
            own.setdefault(name, set()).add(value)
    return {variant: tuple(name for name, values in own.items() if len(values) > 1) for variant, own in found.items()}


def describe(point: Point, distinguishing: Mapping[str, Sequence[str]], between: str = ", ") -> str:
    """What tells a point from the others of its variant, "learning_rate=0.01, reinit_factor=off"; "" if nothing does.

    A name is cut to its last part where that is unambiguous.
    """
    names = distinguishing[point[0]]
    last = [name.rpartition(".")[2] for name in names]
    short = {name: end if last.count(end) == 1 else name for name, end in zip(names, last, strict=True)}
    return between.join(f"{short[name]}={_number(value)}" for name, value in point[1] if name in short)


def holds_numbers(values: Iterable[Value]) -> bool:
    """Whether a column of these values is one of numbers; else it is one of texts."""
    return all(value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)) for value in values)


def _number(value: Value) -> str:
    """The shortest usual form that reads back as the same value."""
    if value is None:
        return "off"
    if isinstance(value, (bool, str)):
        return str(value)
    return f"{value:g}" if float(f"{value:g}") == value else repr(float(value))


def name_of(replica: Replica) -> str:
    """A replica as messages name it."""
    hyper = "".join(f", {name}={value}" for name, value in replica.hyper.items())
    return f"replica {replica.index} ({replica.variant}, seed {replica.seed}{hyper})"
