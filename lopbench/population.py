"""A population: R replicas of one structure, their stacked state, and what freezing means."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lopbench.errors import UserError, require
from lopbench.initializers import Initial
from lopbench.keyed_random import Random
from lopbench.protocols import Optimizer, Schedule, Strategy, Stream, Tree
from lopbench.registry import per_replica_fields
from lopbench.units import UnitGroup


@dataclass(frozen=True, eq=False)
class Population:
    """The unchanging half of a population: its parts, and what its replicas have in common.

    `optimizer` and `strategies` stand for all replicas: fields that may differ are in `hyper`,
    `{"optimizer": {field: [R]}, "strategies.0": ...}`, float64 on the host.
    """

    stream: Stream
    module: nn.Module  # the architecture, for one network; its own parameter values are not used
    optimizer: Optimizer
    schedule: Schedule
    strategies: tuple[Strategy, ...]
    hyper: dict[str, dict[str, np.ndarray]]
    seeds: Tensor  # int64 [R], on the device
    dtype: torch.dtype = torch.float32
    precision: str = "float32"  # of the network's products: see precision.py
    max_gradient_norm: np.ndarray | None = None  # [R]; NaN: not clipped
    #: the initial record of every parameter, in the module's order (law 3)
    records: dict[str, Initial] = field(init=False)
    #: the unit groups that the architecture declares; none if it declares none
    groups: tuple[UnitGroup, ...] = field(init=False)
    #: the buffers `key` of modules that draw (dropout): (seed, step) of each replica, set anew in every step
    keys: tuple[str, ...] = field(init=False)

    @property
    def replicas(self) -> int:
        return self.seeds.shape[0]

    @property
    def device(self) -> torch.device:
        return self.seeds.device

    def __post_init__(self) -> None:
        declared = getattr(self.module, "unit_groups", None)
        object.__setattr__(self, "records", initial_records(self.module))
        object.__setattr__(self, "groups", declared() if declared else ())
        object.__setattr__(self, "keys", key_buffers(self.module))

    def part(self, replicas: slice) -> Population:
        """The population of some of the replicas."""
        seeds, limits = self.seeds[replicas], self.max_gradient_norm
        return dataclasses.replace(
            self,
            stream=dataclasses.replace(self.stream, seeds=seeds),  # type: ignore[type-var]
            seeds=seeds,
            hyper=map_tree(lambda values: values[replicas], self.hyper),
            max_gradient_norm=None if limits is None else limits[replicas],
        )

    def reports(self) -> tuple[str, ...]:
        """Every tag that some strategy reports, once each, in order."""
        return tuple(dict.fromkeys(tag for strategy in self.strategies for tag in strategy.reports))

    def random(self, owner: str, step: Tensor, seeds: Tensor | None = None) -> Random:
        """Keyed random numbers for `owner` ("initial", "strategies.0", ...) at `step`."""
        return Random(self.seeds if seeds is None else seeds, step, f"{owner}/", self.dtype)

    def keys_at(self, step: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        """The key buffers `[R, 2]` at `step`."""
        if not self.keys:
            return {}
        key = torch.stack((seeds, step.expand_as(seeds)), dim=-1)
        return dict.fromkeys(self.keys, key)

    def initial_parameters(self) -> dict[str, Tensor]:
        """`{name: [R, *shape]}`, drawn from the records at step 0."""
        random = self.random("initial", torch.zeros((), dtype=torch.int64, device=self.device))
        shapes = dict(self.module.named_parameters())
        return {name: record.draw(random, name, tuple(shapes[name].shape)) for name, record in self.records.items()}

    def initial_buffers(self) -> dict[str, Tensor]:
        """`{name: [R, *shape]}` from the module's values (batch norm's statistics), floats in the run's dtype.

        Without the `keys`, which are no state.
        """

        def stacked(buffer: Tensor) -> Tensor:
            dtype = self.dtype if buffer.is_floating_point() else buffer.dtype
            return buffer.to(self.device, dtype).expand(self.replicas, *buffer.shape).clone()

        return {name: stacked(buffer) for name, buffer in self.module.named_buffers() if name not in self.keys}


def key_buffers(module: nn.Module) -> tuple[str, ...]:
    """The names of the non-persistent buffers called `key`."""
    saved = module.state_dict().keys()
    return tuple(name for name, _ in module.named_buffers() if name.split(".")[-1] == "key" and name not in saved)


def initial_records(module: nn.Module) -> dict[str, Initial]:
    """The records that the architecture declares, or, for a module from elsewhere, its own values."""
    declared = getattr(module, "initial_records", None)
    parameters = dict(module.named_parameters())
    if declared is None:
        return {name: Initial("fixed", fixed=value.detach()) for name, value in parameters.items()}
    records: dict[str, Initial] = declared()
    missing = sorted(set(parameters) ^ set(records))
    require(
        not missing, f"{type(module).__name__}.initial_records() and its parameters differ in {', '.join(missing)}."
    )
    return {name: records[name] for name in parameters}


def stack_parts(parts: Sequence[Any], what: str) -> tuple[Any, dict[str, np.ndarray]]:
    """One part for all replicas, and `{field: float64 [R]}` of its PerReplica fields (None becomes NaN).

    Raises `UserError` if the parts differ in anything else: that makes another population.
    """
    first = parts[0]
    free = per_replica_fields(type(first))
    for other in parts[1:]:
        require(
            type(other) is type(first),
            f"{what}: {type(first).__name__} and {type(other).__name__} can't share a population.",
        )
        for part_field in dataclasses.fields(first):
            name = part_field.name
            a, b = getattr(first, name), getattr(other, name)
            if name not in free and a is not b and a != b:
                raise UserError(
                    f"{what}: {type(first).__name__}.{name} is {a!r} in one replica and {b!r} in another; "
                    f"within one population only {', '.join(free) or 'nothing'} may differ."
                )
    columns = {name: [getattr(part, name) for part in parts] for name in free}
    return first, {
        name: np.array([np.nan if value is None else value for value in values], dtype=np.float64)
        for name, values in columns.items()
    }


def map_tree(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """Apply `function` to the leaves of nested dicts of the same keys; a leaf is whatever is no dict."""
    if isinstance(tree, dict):
        return {key: map_tree(function, value, *(other[key] for other in others)) for key, value in tree.items()}
    return function(tree, *others)


def along(values: Tensor, like: Tensor) -> Tensor:
    """`[R]` values shaped to multiply a stacked tensor `[R, ...]`."""
    return values.reshape(-1, *[1] * (like.dim() - 1))


def select(chosen: Tensor, new: Tree, old: Tree) -> Tree:
    """`new` for the replicas chosen by bool `[R]`, `old` for the others; what did not change costs nothing."""
    return map_tree(lambda a, b: a if a is b else torch.where(along(chosen, a), a, b), new, old)


def slice_replicas(tree: Tree, replicas: slice) -> Tree:
    """The branch of some replicas: every leaf leads with R."""
    return map_tree(lambda leaf: leaf[replicas], tree)


def all_finite(tree: Tree) -> Tensor | bool:
    """Bool `[R]`: whether every floating-point entry of a replica is finite.

    Told from the sum of absolute values: a plain sum is what compilers vectorise best.
    """
    finite: Tensor | bool = True
    for leaf in tree.values():
        if isinstance(leaf, dict):
            finite = all_finite(leaf) & finite
        elif leaf.is_floating_point():
            finite = torch.isfinite(leaf.abs().reshape(leaf.shape[0], -1).sum(dim=1)) & finite
    return finite
