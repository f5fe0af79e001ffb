"""Probes: the networks of a population on a fixed batch, in evaluation mode, and the metrics that look at them.

Nothing here touches the run: the state is read, never written, and no random number is drawn.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import vmap

from lopbench.errors import require
from lopbench.learner import forward, network, per_example_loss
from lopbench.population import Population, slice_replicas
from lopbench.protocols import Metric, Probe, Stream, Tree

#: Bound on the bytes of inputs and features that a probe holds at once: more replicas than fit are measured one
#: part after another. What the network and the metrics hold besides is a small multiple of it (gradients: some
#: six times). One replica's features must fit, unless no metric asks for them (`needs_features`).
MEMORY_BYTES = 2**29

DEFAULT_THREADS = torch.get_num_threads()


#: A stream's tasks may differ in how many examples they have; this many are looked at before a run.
CHECKED_TASKS = 50


class Batch(NamedTuple):
    """What is probed: a split, how many of its examples (None: all; 0: no batch), and whose statistics norms use.

    `features`: whether those of all examples are kept. Of a whole split they may be too many, so that metrics that
    need none have a pass of their own, piece by piece.
    """

    split: str
    size: int | None
    batch_statistics: bool
    features: bool = True


def measure(
    population: Population, state: Tree, metrics: Sequence[Metric], task: int, step: int = 0
) -> dict[str, Tensor]:
    """What `metrics` give on `task` after `step` updates: `{tag: [R]}`. Those with the same batch share one pass.

    A metric on a split that has no examples in this task gives nothing.
    """
    results: dict[str, Tensor] = {}
    for batch, sharing in _by_batch(metrics).items():
        if batch.size != 0 and population.stream.probe_count(batch.split, task) == 0:
            continue
        probes = _probes(population, state, batch, task, step, sharing)
        parts = [(seen.population.seeds, [_checked(metric, seen) for metric in sharing]) for seen in probes]
        for index, metric in enumerate(sharing):
            for tag, whole in _joined([(seeds, values[index]) for seeds, values in parts]).items():
                name = _with_split(metric, batch.split, tag)
                twice = f"{_name(metric)} measures {name!r}, and so does another metric: leave one of them out."
                require(name not in results, twice)
                results[name] = whole
    return results


def _joined(parts: Sequence[tuple[Tensor, dict[str, Tensor]]]) -> dict[str, Tensor]:
    """The values of all replicas from those of some (seeds, values); NaN where a part lacks a tag (a class, say)."""
    tags = dict.fromkeys(tag for _, part in parts for tag in part)

    def of(tag: str, seeds: Tensor, part: dict[str, Tensor]) -> Tensor:
        return part[tag] if tag in part else torch.full_like(seeds, torch.nan, dtype=torch.float64)

    return {tag: torch.cat([of(tag, seeds, part) for seeds, part in parts]) for tag in tags}


def splits_of(metric: Metric) -> tuple[str, ...]:
    """The splits that a metric is measured on."""
    return (metric.probe_split,) if isinstance(metric.probe_split, str) else tuple(metric.probe_split)


def probe(population: Population, state: Tree, size: int, split: str, task: int, gradients: bool = False) -> Probe:
    """The whole population on the first `size` examples of a split of `task`; `size` 0: its parameters only."""
    if not size:
        return _without_batch(population, state)
    inputs, targets = population.stream.probe(split, size, task)
    return _look(population, state, inputs, targets, Batch(split, size, False), task, gradients)


def require_probe(population: Population, metric: Metric) -> None:
    """Raise `UserError` if the stream has not the batches that a metric asks for: one replica's are quickly had."""
    for split in splits_of(metric) if metric.probe_size != 0 else ():
        require_batch(population, split, metric.probe_size, _name(metric))


def require_batch(population: Population, split: str, size: int | None, what: str) -> None:
    """Raise `UserError` if the stream can't give `size` (None: all) examples of a split in the first tasks."""
    stream: Stream = dataclasses.replace(population.stream, seeds=population.seeds[:1])  # type: ignore[type-var]
    tasks = range(min(stream.tasks or CHECKED_TASKS, CHECKED_TASKS))
    counts = {task: stream.probe_count(split, task) for task in tasks}
    unbounded = None in counts.values()
    some = {task: count for task, count in counts.items() if count}
    name = f"streams.{type(stream).__name__}"
    require(unbounded or bool(some), f"{what} looks at {split!r} examples, of which {name} has none.")
    require(
        not unbounded or size is not None,
        f"{what}.probe_size is None, which means the whole split, but {name} makes as many examples as asked for: "
        "bind a number.",
    )
    fewest = 0 if unbounded else min(some, key=lambda task: some[task])
    stream.probe(split, size or some[fewest], fewest)


def _by_batch(metrics: Sequence[Metric]) -> dict[Batch, list[Metric]]:
    sharing: dict[Batch, list[Metric]] = {}
    for metric in metrics:
        for split in splits_of(metric) if metric.probe_size != 0 else ("",):
            features = metric.needs_features or metric.probe_size is not None
            batch = Batch(split, metric.probe_size, metric.batch_statistics and metric.probe_size != 0, features)
            sharing.setdefault(batch, []).append(metric)
    return sharing


def _with_split(metric: Metric, split: str, tag: str) -> str:
    """`units/dead` on the split "test" is `units_test/dead`."""
    if split in ("", "train") or metric.names_split:
        return tag
    group, _, name = tag.partition("/")
    return f"{group}_{split}/{name}"


def _probes(
    population: Population, state: Tree, batch: Batch, task: int, step: int, metrics: Sequence[Metric]
) -> Iterator[Probe]:
    """Probes of as many replicas at a time as `MEMORY_BYTES` allows."""
    if batch.size == 0:
        yield _without_batch(population, state)
        return
    gradients = any(metric.needs_gradients for metric in metrics)
    features = any(metric.needs_features for metric in metrics)
    size = batch.size or population.stream.probe_count(batch.split, task) or 0
    examples = max(1, MEMORY_BYTES // bytes_an_example(population, state))
    at_once = max(1, examples // size)
    for start in range(0, population.replicas, at_once):
        some = slice(start, min(start + at_once, population.replicas))
        part = population if at_once >= population.replicas else population.part(some)
        branches = {key: slice_replicas(state[key], some) for key in ("parameters", "buffers")}
        inputs, targets = part.stream.probe(batch.split, size, task, step)
        yield _look(part, branches, inputs, targets, batch, task, gradients, None if features else examples)


def _without_batch(population: Population, state: Tree) -> Probe:
    return Probe(population, "", dict(state["parameters"]), {}, {}, None, None, None)


def _look(
    population: Population,
    state: Tree,
    inputs: Tensor,
    targets: Tensor,
    batch: Batch,
    task: int,
    gradients: bool,
    piece: int | None = None,
) -> Probe:
    """One pass in evaluation mode. `piece`: keep no features, and take that many examples at a time."""
    parameters, buffers = state["parameters"], state["buffers"]
    at = torch.tensor(task, device=population.device)
    gradient: Tree = {}
    with evaluation_mode(population.module, batch.batch_statistics):
        if gradients:
            gradient, loss, outputs, features, _ = forward(population, parameters, buffers, inputs, targets, at)
        elif piece is None:
            outputs, features = _outputs(population, parameters, buffers, inputs, at)
        else:
            pieces = torch.split(inputs, piece, dim=1)
            outputs = torch.cat([_outputs(population, parameters, buffers, x, at)[0] for x in pieces], dim=1)
            features = {}
        if not gradients:
            loss = vmap(lambda o, y: per_example_loss(population.stream.problem.loss, o, y))(outputs, targets)
    return Probe(population, batch.split, dict(parameters), gradient, dict(features), outputs, targets, loss)


@torch.no_grad()
def _outputs(
    population: Population, parameters: Tree, buffers: Tree, inputs: Tensor, task: Tensor
) -> tuple[Tensor, Tree]:
    """Outputs and features of every replica on its own batch."""

    def look(parameters: Tree, buffers: Tree, x: Tensor) -> tuple[Tensor, Tree]:
        outputs, features, _ = network(population, parameters, buffers, x, task, {})
        return outputs, features

    return vmap(look)(parameters, buffers, inputs)


def bytes_an_example(population: Population, state: Tree) -> int:
    """Bytes of one example's inputs and features, found by running the first replica on zeros."""
    one = slice(0, 1)
    parameters, buffers = (slice_replicas(state[key], one) for key in ("parameters", "buffers"))
    shape = (1, 1, *population.stream.problem.input_shape)
    inputs = torch.zeros(shape, dtype=population.dtype, device=population.device)
    with evaluation_mode(population.module):
        _, features = _outputs(population, parameters, buffers, inputs, torch.tensor(0, device=population.device))
    return sum(tensor.numel() * tensor.element_size() for tensor in (inputs, *features.values()))


@contextmanager
def all_cores() -> Iterator[None]:
    """torch works on as many threads as it would by default, for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(DEFAULT_THREADS)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def evaluation_mode(module: nn.Module, batch_statistics: bool = False) -> Iterator[None]:
    """`module.eval()` for a while: every submodule that was training is training again afterwards.

    `batch_statistics`: batch norms go on normalising with the statistics of the batch they see.
    """
    training = [part for part in module.modules() if part.training]
    module.eval()
    for part in training if batch_statistics else ():
        part.training = isinstance(part, nn.modules.batchnorm._BatchNorm)
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
