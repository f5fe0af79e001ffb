"""Probes: the networks of a population on a fixed batch, in evaluation mode, and the metrics that look at them.

Nothing here touches the run: the state is read, never written, and no random number is drawn.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from lopbench.errors import require
from lopbench.learner import forward, per_example_loss
from lopbench.population import Population, map_tree, slice_replicas
from lopbench.protocols import Metric, Probe, Tree

#: Bound on the bytes of inputs and features that a probe holds at once: more replicas than fit are measured one
#: part after another. What the network and the metrics hold besides is a small multiple of it (gradients: some
#: six times). One replica's features must fit, unless no metric asks for them (`needs_features`).
MEMORY_BYTES = 2**29


def measure(population: Population, state: Tree, metrics: Sequence[Metric], task: int) -> dict[str, Tensor]:
    """What `metrics` give on `task`: `{tag: [R]}`. Those with the same probe batch share one forward pass."""
    results: dict[str, Tensor] = {}
    for (size, split), sharing in _by_batch(metrics).items():
        parts = [
            [_checked(metric, seen) for metric in sharing]
            for seen in _probes(population, state, size, split, task, sharing)
        ]
        for metric, values in zip(sharing, zip(*parts, strict=True), strict=True):
            for tag in values[0]:
                twice = f"{_name(metric)} measures {tag!r}, and so does another metric: leave one of them out."
                require(tag not in results, twice)
                results[tag] = torch.cat([part[tag] for part in values])
    return results


def probe(population: Population, state: Tree, size: int, split: str, task: int, gradients: bool = False) -> Probe:
    """The whole population on the first `size` examples of a split of `task`; `size` 0: its parameters only."""
    if not size:
        return _without_batch(population, state)
    return _look(population, state, *population.stream.probe(split, size, task), gradients)


def require_probe(population: Population, split: str, size: int) -> None:
    """Raise the stream's `UserError` if it has no such probe batch: that of one replica is quickly asked for."""
    if size:
        dataclasses.replace(population.stream, seeds=population.seeds[:1]).probe(split, size, 0)  # type: ignore[type-var]


def _by_batch(metrics: Sequence[Metric]) -> dict[tuple[int, str], list[Metric]]:
    sharing: dict[tuple[int, str], list[Metric]] = {}
    for metric in metrics:
        key = (metric.probe_size, metric.probe_split if metric.probe_size else "")
        sharing.setdefault(key, []).append(metric)
    return sharing


def _probes(
    population: Population, state: Tree, size: int, split: str, task: int, metrics: Sequence[Metric]
) -> Iterator[Probe]:
    """Probes of as many replicas at a time as `MEMORY_BYTES` allows."""
    if not size:
        yield _without_batch(population, state)
        return
    gradients = any(metric.needs_gradients for metric in metrics)
    features = any(metric.needs_features for metric in metrics)
    inputs, targets = population.stream.probe(split, size, task)
    examples = max(1, MEMORY_BYTES // _bytes_an_example(population, state, inputs))
    at_once = max(1, examples // size)
    for start in range(0, population.replicas, at_once):
        some = slice(start, min(start + at_once, population.replicas))
        branches = {key: slice_replicas(state[key], some) for key in ("parameters", "buffers")}
        piece = None if features else examples
        yield _look(_some(population, some), branches, inputs[some], targets[some], gradients, piece)


def _some(population: Population, replicas: slice) -> Population:
    """The population of some of the replicas; its stream remains that of all."""
    return dataclasses.replace(
        population,
        seeds=population.seeds[replicas],
        hyper=map_tree(lambda values: values[replicas], population.hyper),
        max_gradient_norm=None if population.max_gradient_norm is None else population.max_gradient_norm[replicas],
    )


def _without_batch(population: Population, state: Tree) -> Probe:
    return Probe(population, dict(state["parameters"]), {}, {}, None, None, None)


def _look(
    population: Population, state: Tree, inputs: Tensor, targets: Tensor, gradients: bool, piece: int | None = None
) -> Probe:
    """One pass in evaluation mode. `piece`: keep no features, and take that many examples at a time."""
    parameters, buffers = state["parameters"], state["buffers"]
    gradient: Tree = {}
    with evaluation_mode(population.module):
        if gradients:
            gradient, loss, outputs, features, _ = forward(population, parameters, buffers, inputs, targets)
        elif piece is None:
            outputs, features = _outputs(population, parameters, buffers, inputs)
        else:
            pieces = torch.split(inputs, piece, dim=1)
            outputs = torch.cat([_outputs(population, parameters, buffers, x)[0] for x in pieces], dim=1)
            features = {}
        if not gradients:
            loss = vmap(lambda o, y: per_example_loss(population.stream.problem.loss, o, y))(outputs, targets)
    return Probe(population, dict(parameters), gradient, dict(features), outputs, targets, loss)


@torch.no_grad()
def _outputs(population: Population, parameters: Tree, buffers: Tree, inputs: Tensor) -> tuple[Tensor, Tree]:
    """Outputs and features of every replica on its own batch."""

    def network(parameters: Tree, buffers: Tree, x: Tensor) -> tuple[Tensor, Tree]:
        buffers = {name: buffer.clone() for name, buffer in buffers.items()}  # the state's stay as they are
        outputs, features = functional_call(population.module, (parameters, buffers), (x,))
        return outputs, dict(features)

    return vmap(network)(parameters, buffers, inputs)


def _bytes_an_example(population: Population, state: Tree, inputs: Tensor) -> int:
    """Bytes of one example's inputs and features, found by running the first replica on it."""
    one = slice(0, 1)
    parameters, buffers = (slice_replicas(state[key], one) for key in ("parameters", "buffers"))
    with evaluation_mode(population.module):
        _, features = _outputs(population, parameters, buffers, inputs[one, one])
    return sum(tensor.numel() * tensor.element_size() for tensor in (inputs[one, one], *features.values()))


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """`module.eval()` for a while: every submodule that was training is training again afterwards."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def _checked(metric: Metric, seen: Probe) -> dict[str, Tensor]:
    values = metric.measure(seen)
    wrong = [tag for tag, value in values.items() if value.shape != seen.population.seeds.shape]
    require(not wrong, f"{_name(metric)} must give one value a replica, but {', '.join(wrong)} has another shape.")
    return values


def _name(metric: Metric) -> str:
    return f"metrics.{type(metric).__name__}"
