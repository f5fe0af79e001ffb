"""Unit groups: a layer of units with the parameters that feed it and those that read it.

An architecture declares its groups; unit-level strategies and metrics work on any architecture through
these functions. A feature map `[R, B, ..., F, ...]` has its channels on `feature_axis`, counted without R.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Link:
    """One parameter of a group: its name and the axis (without R) along which the group's units lie.

    Along that axis lie `tile` copies of (units x `block`) entries: a channel that flattens into k inputs
    has block k, CReLU's [relu(z), relu(-z)] has tile 2.
    """

    parameter: str
    axis: int
    tile: int = 1
    block: int = 1


@dataclass(frozen=True)
class UnitGroup:
    """A layer of `units` units: the feature that shows them, what feeds them, and what reads them.

    `norm_weight`, `norm_bias` name the affine parameters of a normalisation between unit and readers
    (reset with the unit), `norm_mean`, `norm_variance` its running statistics among the buffers.
    """

    name: str
    units: int
    feature: str
    feature_axis: int  # of the feature without R, i.e. [B, ...]: 1 for [B, F] and [B, C, H, W]; -1 for [B, T, F]
    activation: str
    weight: Link  # the incoming weights
    bias: Link | None
    readers: tuple[Link, ...]  # the outgoing weights
    feature_tile: int = 1
    feature_block: int = 1
    norm_weight: Link | None = None
    norm_bias: Link | None = None
    norm_mean: Link | None = None
    norm_variance: Link | None = None


def unit_mean(tensor: Tensor, axis: int, units: int, tile: int = 1, block: int = 1) -> Tensor:
    """The mean of a stacked tensor `[R, ...]` over all but the units of `axis` (counted without R): `[R, units]`."""
    return _units_last(tensor, axis, units, tile, block).mean(dim=-1)


def unit_sum(tensor: Tensor, axis: int, units: int, tile: int = 1, block: int = 1) -> Tensor:
    """As `unit_mean`, the sum."""
    return _units_last(tensor, axis, units, tile, block).sum(dim=-1)


def _units_last(tensor: Tensor, axis: int, units: int, tile: int, block: int) -> Tensor:
    """`[R, units, everything else]`."""
    axis = axis % (tensor.dim() - 1) + 1
    split = tensor.movedim(axis, 1).unflatten(1, (tile, units, block))  # [R, tile, units, block, ...]
    return split.movedim(2, 1).flatten(2)


def feature_mean(group: UnitGroup, feature: Tensor) -> Tensor:
    """The mean of a feature `[R, B, ...]` (or of something of its shape) over examples and places: `[R, units]`."""
    return unit_mean(feature, group.feature_axis, group.units, group.feature_tile, group.feature_block)


def link_mean(group: UnitGroup, link: Link, tensor: Tensor) -> Tensor:
    """The mean of a parameter's entries (or of something of its shape) for each unit: `[R, units]`."""
    return unit_mean(tensor, link.axis, group.units, link.tile, link.block)


def link_mask(group: UnitGroup, link: Link, units: Tensor, parameter: Tensor) -> Tensor:
    """The mask `[R, *shape]` over a parameter that belongs to the units chosen by bool `[R, units]`."""
    axis = link.axis % (parameter.dim() - 1) + 1
    along = units[:, None, :, None].expand(-1, link.tile, -1, link.block).flatten(1)
    shape = [1] * parameter.dim()
    shape[0], shape[axis] = along.shape
    return along.reshape(shape).expand_as(parameter)


def lowest(scores: Tensor, eligible: Tensor, count: Tensor) -> Tensor:
    """Bool `[R, units]`: the `count` ([R]) eligible entries of lowest score; ties fall to the lower index."""
    ranked = torch.where(eligible, scores, torch.inf)
    rank = torch.argsort(torch.argsort(ranked, dim=-1, stable=True), dim=-1)
    return (rank < count[:, None]) & eligible
