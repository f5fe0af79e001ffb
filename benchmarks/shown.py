"""What a population is shown in its first task, as plain tensors, for those who train on it without lopbench."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lopbench.population import Population
from lopbench.protocols import Clock
from lopbench.streams import SlowlyChangingRegression
from lopbench.streams.epochs import EpochStream

#: Steps of slowly-changing regression that are shown again and again; a data set is shown for one epoch.
GENERATED_STEPS = 1000


@dataclass(frozen=True)
class Shown:
    """Which examples the replicas are shown, step by step; to prepare them is the business of who shows them."""

    inputs: Tensor  #: `[N, *shape]`, or `[R, N, *shape]` where each replica has its own
    shared: bool  #: whether all replicas have the same
    rows: Tensor  #: `[R, steps, B]`, places in the inputs
    targets: Tensor  #: `[R, steps, B]` labels, or `[R, steps, B, 1]` values
    permutation: Tensor | None = None  #: `[R, entries]`: entry i of a flat example becomes its entry permutation[i]

    def inputs_of(self, replica: int) -> Tensor:
        """The inputs of one replica, `[N, *shape]`."""
        return self.inputs if self.shared else self.inputs[replica]

    def targets_of(self, replica: int) -> Tensor:
        """The targets of one replica by the place of their example, `[N, ...]`; 0 where it is not shown."""
        targets = self.targets[replica].flatten(0, 1)
        everywhere = targets.new_zeros(len(self.inputs_of(replica)), *targets.shape[1:])
        everywhere[self.rows[replica].flatten()] = targets
        return everywhere


def shown(population: Population) -> Shown:
    """What is shown in the first epoch, or of generated examples in the first steps."""
    stream, tables = population.stream, population.stream.prepare(0)
    if isinstance(stream, EpochStream):
        inputs, permutation = stream.data.inputs["train"], tables.get("permutation")
        length = stream.epoch_length(0)
        return Shown(inputs, True, tables["examples"][:, :length], tables["labels"][:, :length], permutation)
    assert isinstance(stream, SlowlyChangingRegression)
    start = Clock(*(torch.tensor(0, device=population.device) for _ in range(3)))
    inputs, targets = (part.movedim(0, 1) for part in stream.batches(tables, start, GENERATED_STEPS))
    places = 2 ** torch.arange(stream.fast_bits - 1, -1, -1, device=population.device)
    rows = (inputs[..., stream.slow_bits :].long() * places).sum(dim=-1)  # the table is in the order of the fast bits
    return Shown(tables["inputs"], False, rows, targets)
