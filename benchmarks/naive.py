"""The other side: the loop that one writes by hand for one network, in plain PyTorch.

It starts from the same weights, sees the same examples in the same order, and sums its loss; nothing else is
recorded. `advance(steps)` trains on and returns the mean loss of those steps.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lopbench.learner import initial_state
from lopbench.population import Population
from lopbench.protocols import Clock

Batches = Iterator[tuple[Tensor, Tensor]]


class Loop:
    """`torch.optim.SGD` on an `nn.Sequential`, batch after batch."""

    def __init__(self, network: nn.Module, loss: nn.Module, learning_rate: float, batches: Batches) -> None:
        self.network, self.loss, self.batches = network, loss, batches
        self.optimizer = torch.optim.SGD(network.parameters(), lr=learning_rate)

    def advance(self, steps: int) -> float:
        total = torch.zeros((), device=next(self.network.parameters()).device)
        for inputs, targets in itertools.islice(self.batches, steps):
            loss = self.loss(self.network(inputs), targets)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total += loss.detach()
        return total.item() / steps


def loop_for(population: Population, loader: bool = False) -> Loop:
    """The loop that does what replica 0 of a population of ReLU networks under plain SGD does."""
    stream = population.stream
    regresses = stream.problem.loss == "squared_error"
    batches = generated_rows(population) if regresses else loaded_images(population) if loader else images(population)
    loss = nn.MSELoss() if regresses else nn.CrossEntropyLoss()
    return Loop(network_of(population), loss, float(population.hyper["optimizer"]["learning_rate"][0]), batches)


def network_of(population: Population) -> nn.Sequential:
    """Linear layers with ReLU between them, with the first weights of replica 0."""
    first = {name: stacked[0] for name, stacked in initial_state(population)["parameters"].items()}
    layers: list[nn.Module] = []
    for name in [name.removesuffix(".weight") for name in first if name.endswith(".weight")]:
        outputs, inputs = first[f"{name}.weight"].shape
        layers += [nn.Linear(inputs, outputs, device=population.device), nn.ReLU()]
    network = nn.Sequential(*layers[:-1])
    for parameter, value in zip(network.parameters(), first.values(), strict=True):
        parameter.data.copy_(value)
    return network


def images(population: Population) -> Batches:
    """Permuted MNIST: rows of uint8 images on the training device, gathered, permuted and scaled batch by batch."""
    data, tables = population.stream.data, population.stream.prepare(0)
    pixels, permutation = data.inputs["train"].flatten(1), tables["permutation"][0]
    order, labels = tables["examples"][0], data.labels["train"]
    for batch in itertools.cycle(range(len(order))):
        rows = order[batch]
        yield pixels[rows].index_select(1, permutation).float() / 255, labels[rows]


def loaded_images(population: Population) -> Batches:
    """The same with a `DataLoader` over the examples, without worker processes, as most published code has it."""
    data, tables = population.stream.data, population.stream.prepare(0)
    permutation, order = tables["permutation"][0], tables["examples"][0]
    examples = TensorDataset(data.inputs["train"].flatten(1).cpu(), data.labels["train"].cpu())
    loader = DataLoader(examples, batch_size=order.shape[1], sampler=order.flatten().tolist())
    while True:
        for pixels, labels in loader:
            yield pixels.to(population.device).index_select(1, permutation).float() / 255, labels.to(population.device)


def generated_rows(population: Population, examples: int = 1000) -> Batches:
    """Slowly-changing regression: the first examples, made beforehand, again and again."""
    clock = Clock(*(torch.tensor(0, device=population.device) for _ in range(3)))
    inputs, targets = population.stream.batches(population.stream.prepare(0), clock, examples)
    rows = list(zip(inputs[:, 0].unbind(), targets[:, 0].unbind(), strict=True))
    return itertools.cycle(rows)
