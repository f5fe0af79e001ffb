"""What the tests of architectures share: stacked values of a module's parameters and inputs, and its outputs."""

from __future__ import annotations

from collections.abc import Iterable

import gin
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from lopbench import config
from lopbench.gin_text import Reference
from lopbench.keyed_random import Random
from lopbench.population import initial_records
from lopbench.protocols import Problem
from lopbench.registry import parts
from lopbench.units import Link, UnitGroup, link_mask

Values = dict[str, Tensor]

REPLICAS = 2


def drawn(module: nn.Module, replicas: int = REPLICAS) -> Values:
    """First values `[R, *shape]` of every parameter, from the records, in float64."""
    random = Random(torch.arange(replicas), torch.tensor(0), "initial/", torch.float64)
    shapes = {name: tuple(value.shape) for name, value in module.named_parameters()}
    return {name: record.draw(random, name, shapes[name]) for name, record in initial_records(module).items()}


def moved(module: nn.Module) -> Values:
    """First values with noise on all of them, so that no bias is 0 and no scale 1."""
    random = Random(torch.arange(REPLICAS), torch.tensor(1), "noise/", torch.float64)
    return {name: value + 0.3 * random.normals(name, tuple(value.shape[1:])) for name, value in drawn(module).items()}


def inputs_of(problem: Problem, examples: int = 5) -> Tensor:
    """Normal inputs `[R, examples, *shape]`."""
    random = Random(torch.arange(REPLICAS), torch.tensor(2), "inputs/", torch.float64)
    return random.normals("x", (examples, *problem.input_shape))


def run(module: nn.Module, values: Values, inputs: Tensor) -> tuple[Tensor, Values]:
    """Outputs and features of every replica, for stacked parameters (and buffers)."""
    return vmap(lambda values, x: functional_call(module, values, (x,)))(values, inputs)


def with_unit_at(values: Values, group: UnitGroup, unit: int, links: Iterable[Link | None], value: float) -> Values:
    """The values with those of one unit, under each link, set to `value`."""
    chosen = torch.zeros(REPLICAS, group.units, dtype=torch.bool)
    chosen[:, unit] = True
    changed = dict(values)
    for link in links:
        assert link is not None
        old = changed[link.parameter]
        changed[link.parameter] = old.masked_fill(link_mask(group, link, chosen, old), value)
    return changed


def from_fragment(name: str, problem: Problem) -> nn.Module:
    """The network that the shipped fragment `architectures/NAME.gin` builds."""
    rest = ["run.stream = @streams.PermutedInputs", "run.optimizer = @optimizers.SGD"]
    request = config.read([f"architectures/{name}.gin"], rest)
    [(variant, settings)] = request.settings.items()
    reference = settings["run.architecture"].value
    assert isinstance(reference, Reference)
    with request.variant(variant):
        return gin.get_configurable(parts("architectures")[reference.name.removeprefix("architectures.")])(problem)
