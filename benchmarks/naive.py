"""The loop that one writes by hand: one network in plain PyTorch, a `torch.optim` optimizer, batch after batch.

It starts from the weights of replica 0 and is shown that replica's examples in their order. `advance(steps)` trains on
and returns the mean loss of those steps; nothing else is recorded.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.augmenting import augmented
from benchmarks.plain_networks import plain_network
from benchmarks.shown import Shown, shown
from lopbench.optimizers import SGDW
from lopbench.optimizers.schedules import MultiStep, OneCycle
from lopbench.population import Population
from lopbench.streams.epochs import EpochStream
from lopbench.streams.scaling import Scaling

Batches = Iterator[tuple[Tensor, Tensor]]


class Loop:
    """Plain PyTorch for replica 0 of a population; with a `DataLoader`, or on tensors that are on the device."""

    def __init__(self, population: Population, with_loader: bool = False) -> None:
        found = shown(population)
        self._batches = loaded(population, found) if with_loader else gathered(population, found)
        self._network = plain_network(population)
        self._loss = nn.MSELoss() if population.stream.problem.loss == "squared_error" else nn.CrossEntropyLoss()
        self._optimizer = optimizer_of(population, self._network)
        self._scheduler = scheduler_of(population, self._optimizer)

    def advance(self, steps: int) -> float:
        """Take so many steps; their mean loss."""
        total = torch.zeros((), device=next(self._network.parameters()).device)
        for inputs, targets in itertools.islice(self._batches, steps):
            loss = self._loss(self._network(inputs), targets)
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
            if self._scheduler:
                self._scheduler.step()
            total += loss.detach()
        return total.item() / steps

    def first_losses(self, steps: int) -> list[float]:
        """The losses in the first steps, of a loop that has taken none."""
        return [self.advance(1) for _ in range(steps)]


def optimizer_of(population: Population, network: nn.Module) -> torch.optim.SGD:
    """`torch.optim.SGD` with the hyperparameters of replica 0."""
    hyper = {name: float(values[0]) for name, values in population.hyper["optimizer"].items()}
    decoupled = isinstance(population.optimizer, SGDW)
    assert not (decoupled and hyper["weight_decay"]), "torch.optim.SGD has no decoupled weight decay"
    return torch.optim.SGD(
        network.parameters(), lr=hyper["learning_rate"], momentum=hyper["momentum"], weight_decay=hyper["weight_decay"]
    )


def scheduler_of(population: Population, optimizer: torch.optim.SGD) -> lr_scheduler.LRScheduler | None:
    """Torch's own for the schedules that it has, over the first task."""
    schedule, steps = population.schedule, population.stream.task_length(0)
    if isinstance(schedule, OneCycle):
        return lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=optimizer.param_groups[0]["lr"],
            total_steps=steps,
            pct_start=schedule.warmup_fraction,
            anneal_strategy="linear" if schedule.anneal == "linear" else "cos",
            cycle_momentum=schedule.cycle_momentum,
            base_momentum=schedule.base_momentum,
            max_momentum=schedule.max_momentum,
            div_factor=schedule.division,
            final_div_factor=schedule.final_division,
        )
    if isinstance(schedule, MultiStep):
        milestones = [round(fraction * steps) for fraction in schedule.milestones]
        return lr_scheduler.MultiStepLR(optimizer, milestones, schedule.factor)
    return None


def gathered(population: Population, found: Shown) -> Batches:
    """Batches gathered from tensors on the training device."""
    inputs, targets, prepared = found.inputs_of(0), found.targets_of(0), preparation(population, found)
    for rows in itertools.cycle(found.rows[0]):
        yield prepared(inputs[rows]), targets[rows]


def loaded(population: Population, found: Shown) -> Batches:
    """The same from a `DataLoader` on the host, without worker processes, as most published code has it."""
    prepared, device = preparation(population, found), population.device
    examples = TensorDataset(found.inputs_of(0).cpu(), found.targets_of(0).cpu())
    loader = DataLoader(examples, batch_size=found.rows.shape[2], sampler=found.rows[0].flatten().tolist())
    while True:
        for inputs, targets in loader:
            yield prepared(inputs.to(device)), targets.to(device)


def preparation(population: Population, found: Shown) -> Callable[[Tensor], Tensor]:
    """What is done to a batch of replica 0: permuting, scaling and augmenting, where its stream has it."""
    stream = population.stream
    if not isinstance(stream, EpochStream):
        return lambda inputs: inputs
    scaling = Scaling(stream.scaling, stream.data, population.dtype)
    if found.permutation is not None:
        permutation = found.permutation[0]
        return lambda inputs: scaling(inputs.flatten(1).index_select(1, permutation))

    def scaled(inputs: Tensor) -> Tensor:
        return scaling(inputs.flatten(1)).view_as(inputs)

    if stream.augmentations:
        return lambda inputs: augmented(scaled(inputs), stream.augmentations)
    return scaled
