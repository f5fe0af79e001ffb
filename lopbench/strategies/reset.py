"""Resets of the whole network or of a part of it, at task changes or periodically."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

import lopbench
from lopbench.checks import check_bool, check_choice
from lopbench.errors import require
from lopbench.learner import Learner
from lopbench.periods import Events, check_when, due_every
from lopbench.population import Population, along, select
from lopbench.protocols import PerReplica, Strategy
from lopbench.roles import head_parameters, kinds, norm_prefixes

#: the parts that are kinds of layers: what roles.py calls them, and what a network without any lacks
KINDS = {
    "norms": ("norms", "normalisation"),
    "attention": ("attention", "attention layer"),
    "mlp_blocks": ("mlp", "MLP block"),
}
PARTS = ("network", "head", "new_outputs", *KINDS, "momentum")


@lopbench.register("strategies")
@dataclass(frozen=True)
class Reset(Strategy):
    """Draws the network or some of its layers anew, and clears momentum, at task changes or periodically.

    parts: any of the following; an empty list resets nothing
        "network": every parameter from its initial distribution, and the norms' running statistics;
        "head": the parameters of the last layer (see roles.py);
        "new_outputs": of the head those rows whose outputs begin to count in this task, where streams add classes;
            until then weight decay and noise have acted on them alone;
        "norms": the parameters and running statistics of the normalisations;
        "attention", "mlp_blocks": the parameters of a transformer's attention layers and of its MLP blocks, each
            without the norms (see roles.py);
        "momentum": the optimizer's whole state starts afresh.
    when: "task": before the first step of every task but the first; "period": after every `period`-th update.
    period: in updates, with when="period" only; None: never.
    clear_optimizer: whether the optimizer's state of the parameters drawn anew starts afresh too
        (published for the head: no; for the network: with "momentum" among the parts).
    keep_running_statistics: True leaves the running statistics of norms alone, as the code of Dohare et al. did
        when it retrained the network.

    A new network in each task (parts = ["network", "momentum"]) is what plasticity is measured against. Sources:
    Dohare et al. 2024 (Nature): head resetting, retraining; Hernandez-Garcia et al. 2025 (CoLLAs): reset_network,
    reset_head, reset_layer_norm, reset_attention_layers, reset_mlp_blocks, reset_momentum.
    """

    parts: Sequence[str] = ("network", "momentum")
    when: str = "task"
    period: PerReplica[int | None] = None
    clear_optimizer: bool = False
    keep_running_statistics: bool = False

    reports: ClassVar[tuple[str, ...]] = ("reinitialized_weights",)

    def __post_init__(self) -> None:
        listed = isinstance(self.parts, list | tuple)
        require(listed, f"strategies.Reset.parts is {self.parts!r}: it must be a list with some of {', '.join(PARTS)}.")
        for part in self.parts:
            check_choice(self, "parts", part, PARTS)
        object.__setattr__(self, "parts", tuple(self.parts))
        check_when(self, ("task", "period"))
        check_bool(self, "clear_optimizer", self.clear_optimizer)
        check_bool(self, "keep_running_statistics", self.keep_running_statistics)

    @property
    def needs_task_boundaries(self) -> bool:  # type: ignore[override]
        return self.when == "task" and bool(self.parts)

    def check(self, population: Population) -> None:
        if {"head", "new_outputs"} & set(self.parts):
            head_parameters(population.module)
        stream = population.stream
        require(
            "new_outputs" not in self.parts or (self.when == "task" and len(stream.added_outputs(1)) > 0),
            f'strategies.Reset.parts has "new_outputs", which come with the tasks of streams that add classes: when is '
            f"{self.when!r}, the stream streams.{type(stream).__name__}.",
        )
        known, name = kinds(population.module), type(population.module).__name__
        for part, (kind, what) in KINDS.items():
            lacking = part in self.parts and kind not in known
            require(not lacking, f'strategies.Reset.parts has "{part}", but {name} has no {what}.')

    def events(self, population: Population, hyper: Mapping[str, np.ndarray]) -> Events:
        return due_every(hyper["period"]) if self.when == "period" else iter(())

    def after_update(self, learner: Learner) -> None:
        if learner.event is not None:
            self._reset(learner, learner.event["due"])

    def begin_task(self, learner: Learner) -> None:
        if self.when == "task":
            self._reset(learner, torch.ones_like(learner.seeds, dtype=torch.bool))

    def _reset(self, learner: Learner, due: Tensor) -> None:
        """Reset the replicas chosen by bool `[R]`."""
        entries = 0
        names, statistics = self._chosen(learner.population.module)
        chosen = {name: slice(None) for name in names} | self._new_outputs(learner)
        for name, rows in chosen.items():
            mask = torch.zeros_like(learner.parameters[name], dtype=torch.bool)
            mask[:, rows] = along(due, mask)
            learner.reinitialize(name, mask)
            if self.clear_optimizer:
                learner.clear_optimizer(name, mask)
            entries += learner.parameters[name][0, rows].numel()
        for name, first in statistics.items():
            old = learner.buffers[name]
            learner.buffers[name] = torch.where(along(due, old), first.to(old), old)
        if "momentum" in self.parts:
            old_state, first_state = learner.optimizer_state, learner.population.optimizer.init(learner.parameters)
            learner.optimizer_state = select(due, {slot: first_state[slot] for slot in old_state}, old_state)
        learner.report("reinitialized_weights", due * entries)

    def _new_outputs(self, learner: Learner) -> dict[str, slice]:
        """The rows of the head's parameters, by name, that the task which begins adds."""
        if "new_outputs" not in self.parts or {"network", "head"} & set(self.parts):
            return {}
        assert learner.task is not None
        added = learner.population.stream.added_outputs(learner.task)
        return {name: slice(added.start, added.stop) for name in head_parameters(learner.population.module)}

    def _chosen(self, module: nn.Module) -> tuple[list[str], dict[str, Tensor]]:
        """The names of the parameters to draw anew, and the running statistics to set back, with their first values."""
        names, prefixes = [name for name, _ in module.named_parameters()], norm_prefixes(module)
        statistics = {name: first for name, first in module.named_buffers() if name.startswith(prefixes)}
        if self.keep_running_statistics or not {"network", "norms"} & set(self.parts):
            statistics = {}
        if "network" not in self.parts:
            chosen = set(head_parameters(module)) if "head" in self.parts else set()
            known = kinds(module)
            chosen.update(*(known[kind] for part, (kind, _) in KINDS.items() if part in self.parts))
            names = [name for name in names if name in chosen]
        return names, statistics
