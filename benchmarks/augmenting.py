"""The augmentations of the vision streams in plain PyTorch: a batch at a time, with torch's own random numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lopbench.streams.augmentations import Augmentation, HorizontalFlip, RandomCrop, RandomRotation


def augmented(images: Tensor, augmentations: Sequence[Augmentation]) -> Tensor:
    """Scaled images `[B, C, H, W]`, each augmented in its own way."""
    for augmentation in augmentations:
        images = PLAIN[type(augmentation)](images, augmentation)
    return images


def _flipped(images: Tensor, flip: HorizontalFlip) -> Tensor:
    chosen = torch.rand(len(images), 1, 1, 1, device=images.device) < flip.probability
    return torch.where(chosen, images.flip(3), images)


def _cropped(images: Tensor, crop: RandomCrop) -> Tensor:
    count, _, height, width = images.shape
    padded = functional.pad(images, (crop.padding,) * 4, mode=crop.padding_mode)
    top, left = torch.randint(2 * crop.padding + 1, (2, count, 1), device=images.device)
    rows, columns = (torch.arange(size, device=images.device) for size in (height, width))
    which = torch.arange(count, device=images.device)[:, None, None]
    moved = padded[which, :, (top + rows)[:, :, None], (left + columns)[:, None, :]]  # [B, H, W, C]
    return moved.permute(0, 3, 1, 2)


def _rotated(images: Tensor, rotation: RandomRotation) -> Tensor:
    degrees = rotation.low + (rotation.high - rotation.low) * torch.rand(len(images), device=images.device)
    angle = torch.deg2rad(degrees)
    cos, sin, zero = torch.cos(angle), torch.sin(angle), torch.zeros_like(angle)
    turns = torch.stack((cos, -sin, zero, sin, cos, zero), dim=1).unflatten(1, (2, 3))
    grid = functional.affine_grid(turns, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, mode="nearest", padding_mode="zeros", align_corners=False)


PLAIN: Mapping[type, Callable[[Tensor, Any], Tensor]] = {
    HorizontalFlip: _flipped,
    RandomCrop: _cropped,
    RandomRotation: _rotated,
}
