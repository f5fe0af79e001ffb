"""Unit utilities: how useful a unit is, from its features, the weights around it and their gradients.

With h_i the features of this step's minibatch, <.> their mean over examples (and places, tokens), h^_i
their running mean, O_i the mean of |outgoing weights| and I_i the mean of |incoming weights| (biases
excluded), a unit's utility is

    weight, magnitude         O_i
    contribution              O_i <|h_i|>
    zero_contribution         O_i <|h_i - h^_i|>
    adaptable_contribution    O_i <|h_i - h^_i|> / I_i
    adaptation                1 / I_i
    feature_by_input          <|h_i - h^_i|> / I_i
    activation                <|h_i|>
    gradient                  |sum over the outgoing weights w of w dL/dw|    (the absolute value after the sum)
    random                    a uniform number

Sources: Dohare et al. 2024 (Nature), Eq. 1 and its code; Dohare et al. 2021, arXiv 2108.06325 (the corrected and
adaptable forms); Hernandez-Garcia et al. 2025 (activation, gradient, magnitude).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lopbench.learner import Learner
from lopbench.units import UnitGroup, link_mean, unit_sum


class Factors(NamedTuple):
    """What a utility is the product of."""

    outgoing: bool = False  #: O_i
    activity: str = ""  #: "size": <|h_i|>, "deviation": <|h_i - h^_i|>
    incoming: bool = False  #: 1 / I_i


FACTORS = {
    "weight": Factors(outgoing=True),
    "magnitude": Factors(outgoing=True),
    "contribution": Factors(outgoing=True, activity="size"),
    "zero_contribution": Factors(outgoing=True, activity="deviation"),
    "adaptable_contribution": Factors(outgoing=True, activity="deviation", incoming=True),
    "adaptation": Factors(incoming=True),
    "feature_by_input": Factors(activity="deviation", incoming=True),
    "activation": Factors(activity="size"),
}


def needs_mean(name: str) -> bool:
    """Whether a utility looks at deviations from the running mean."""
    return name in FACTORS and FACTORS[name].activity == "deviation"


def unit_utility(name: str, learner: Learner, group: UnitGroup, mean: Tensor | None = None) -> Tensor:
    """The utility `[R, units]` of a group's units; `mean` is h^ as `mean_activation` has it, where it is needed."""
    if name == "random":
        return learner.random.uniforms(f"utility/{group.name}", (group.units,))
    if name == "gradient":
        return first_order_effect(learner, group)
    factors = FACTORS[name]
    value: Tensor | None = None
    if factors.activity:
        value = activity(group, learner.features[group.feature], mean if needs_mean(name) else None)
    if factors.outgoing:
        value = outgoing(learner, group, value)
    elif value is not None:
        value = value.mean(dim=(-2, -1))
    if factors.incoming:
        size = link_mean(group, group.weight, learner.parameters[group.weight.parameter].abs())
        size = size.clamp(min=torch.finfo(size.dtype).eps)  # a unit that reads nothing must not turn the state infinite
        value = 1 / size if value is None else value / size
    assert value is not None
    return value


def mean_activation(group: UnitGroup, feature: Tensor) -> Tensor:
    """<h_i> over examples and places `[R, units, tile]`; the two signs of CReLU are two features."""
    split = by_unit(feature, group.feature_axis, group.units, group.feature_tile, group.feature_block)
    return split.flatten(3).mean(dim=3)


def activity(group: UnitGroup, feature: Tensor, mean: Tensor | None = None) -> Tensor:
    """<|h_i|>, or <|h_i - h^_i|> given `mean`, over examples only: `[R, units, tile, places]`."""
    split = by_unit(feature, group.feature_axis, group.units, group.feature_tile, group.feature_block)
    if mean is not None:
        split = split - mean.reshape(*mean.shape, *[1] * (split.dim() - 3))
    return split.abs().mean(dim=4).flatten(3)


def outgoing(learner: Learner, group: UnitGroup, active: Tensor | None = None) -> Tensor:
    """The mean of |outgoing weights| over the entries of all readers, `[R, units]`.

    Given `active` (see `activity`), each entry counts times the activity of what it reads: where a reader has
    a column for each place (a flattened feature map) or sign (CReLU), of that one, else of their mean.
    """
    totals, entries = [], 0
    for link in group.readers:
        weight = by_unit(learner.parameters[link.parameter].abs(), link.axis, group.units, link.tile, link.block)
        columns = weight.flatten(4).sum(dim=4) if weight.dim() > 4 else weight
        entries += weight[0, 0].numel()
        if active is not None:
            columns = columns * as_read(active, link.tile, link.block)
        totals.append(columns.sum(dim=(-2, -1)))
    return torch.stack(totals).sum(dim=0) / entries


def as_read(active: Tensor, tile: int, block: int) -> Tensor:
    """What a reader's columns see of `[R, units, tile, places]`: the mean along an axis where they don't correspond."""
    if active.shape[-1] != block:
        active = active.mean(dim=-1, keepdim=True)
    return active if active.shape[-2] == tile else active.mean(dim=-2, keepdim=True)


def first_order_effect(learner: Learner, group: UnitGroup) -> Tensor:
    """|sum of w dL/dw| over a unit's outgoing weights, `[R, units]`: the loss's change without them, to first order."""
    effects = []
    for link in group.readers:
        effect = learner.parameters[link.parameter] * learner.gradients[link.parameter]
        effects.append(unit_sum(effect, link.axis, group.units, link.tile, link.block))
    return torch.stack(effects).sum(dim=0).abs()


def by_unit(tensor: Tensor, axis: int, units: int, tile: int, block: int) -> Tensor:
    """A stacked tensor `[R, ...]` whose `axis` (counted without R) holds units: `[R, units, tile, block, ...]`."""
    axis = axis % (tensor.dim() - 1) + 1
    return tensor.movedim(axis, 1).unflatten(1, (tile, units, block)).movedim(2, 1)
