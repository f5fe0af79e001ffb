"""Augmentation on the device: random rearrangements of an image's pixels, composed into one gather.

An augmented image is the image seen through a map a of pixel coordinates, y(p) = x(a(p)), and 0 where a(p) lies
outside. Augmentations a_1, ..., a_k, applied to the image in this order, are one such map as well:

    y(p) = x(a_1(a_2(... a_k(p)))),  and 0 if any of these lies outside.

So images are gathered once, whatever the list. As nothing is interpolated, flips and crops give the same before and
after normalisation; only the 0 depends on it. The published pipelines augment normalised images: 0 is the mean colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import lopbench
from lopbench.checks import check_choice, check_number
from lopbench.errors import require
from lopbench.keyed_random import integers, uniforms


@dataclass(frozen=True)
class Draws:
    """Random numbers of one augmentation: one for each of n steps, R replicas and B examples, `[n, R, B, 1, 1]`."""

    seeds: Tensor  #: [R]
    steps: Tensor  #: [n]
    size: int  #: B
    purpose: str  #: which augmentation of the list

    def uniforms(self, what: str) -> Tensor:
        """Uniform on (0, 1), in float64."""
        return uniforms(self.seeds, f"{self.purpose}/{what}", self.steps, self.size, torch.float64)[..., None, None]

    def integers(self, what: str, below: int) -> Tensor:
        """Uniform on 0, ..., below - 1."""
        return integers(self.seeds, f"{self.purpose}/{what}", self.steps, self.size, below)[..., None, None]


class Augmentation:
    """A random rearrangement of an image's pixels: kind "augmentations". A frozen dataclass."""

    def check(self, height: int, width: int) -> None:
        """Raise `UserError` if images of this size can't be augmented so."""

    def source(self, rows: Tensor, columns: Tensor, height: int, width: int, draws: Draws) -> tuple[Tensor, Tensor]:
        """Row and column of the pixel that the augmented image shows at (rows, columns).

        All are int64, and broadcast to `[n, R, B, height, width]`. A place outside the image shows 0. Traced by
        the compiler. Coordinates that lie outside already may come in; any answer will do for these.
        """
        raise NotImplementedError


@lopbench.register("augmentations")
@dataclass(frozen=True)
class HorizontalFlip(Augmentation):
    """Left and right exchanged, with a probability: column c shows column W - 1 - c.

    probability: of a flip, in [0, 1].
    """

    probability: float = 0.5

    def __post_init__(self) -> None:
        check_number(self, "probability", self.probability, at_least=0, at_most=1)

    def source(self, rows: Tensor, columns: Tensor, height: int, width: int, draws: Draws) -> tuple[Tensor, Tensor]:
        flipped = draws.uniforms("flip") < self.probability
        return rows, torch.where(flipped, width - 1 - columns, columns)


@lopbench.register("augmentations")
@dataclass(frozen=True)
class RandomCrop(Augmentation):
    """A cut-out as large as the image, from the image padded on all sides: a shift by up to `padding` pixels.

    (r, c) shows (r + i, c + j), with i and j uniform on -padding, ..., padding.

    padding: pixels added on each side.
    padding_mode: what they show: "reflect", the image mirrored at its outermost pixels (which are not repeated:
        row -1 is row 1), or "constant": 0.
    """

    padding: int = 4
    padding_mode: str = "reflect"

    def __post_init__(self) -> None:
        check_number(self, "padding", self.padding, at_least=0, integer=True)
        check_choice(self, "padding_mode", self.padding_mode, ("reflect", "constant"))

    def check(self, height: int, width: int) -> None:
        require(
            self.padding_mode == "constant" or self.padding < min(height, width),
            f"augmentations.RandomCrop.padding is {self.padding}: an image of {height} x {width} pixels can be "
            f"reflected by at most {min(height, width) - 1}.",
        )

    def source(self, rows: Tensor, columns: Tensor, height: int, width: int, draws: Draws) -> tuple[Tensor, Tensor]:
        rows = rows + draws.integers("row", 2 * self.padding + 1) - self.padding
        columns = columns + draws.integers("column", 2 * self.padding + 1) - self.padding
        if self.padding_mode == "reflect":
            return _reflected(rows, height), _reflected(columns, width)
        return rows, columns


def _reflected(place: Tensor, size: int) -> Tensor:
    """Places before 0 and past size - 1 mirrored there: -1 is 1, and `size` is size - 2."""
    return size - 1 - (size - 1 - place.abs()).abs()


@lopbench.register("augmentations")
@dataclass(frozen=True)
class RandomRotation(Augmentation):
    """A rotation about the centre, counter-clockwise, by an angle uniform between `low` and `high` degrees.

    With (x, y) the place to the right of and below the centre, the image at (x, y) shows the pixel nearest to

        (x cos a - y sin a, x sin a + y cos a).

    low, high: degrees; negative ones are clockwise.
    """

    low: float = 0.0
    high: float = 15.0

    def __post_init__(self) -> None:
        check_number(self, "low", self.low)
        check_number(self, "high", self.high, at_least=self.low)

    def source(self, rows: Tensor, columns: Tensor, height: int, width: int, draws: Draws) -> tuple[Tensor, Tensor]:
        angle = torch.deg2rad(self.low + (self.high - self.low) * draws.uniforms("angle"))
        cos, sin = torch.cos(angle), torch.sin(angle)
        # float64: which of two pixels is nearest must not depend on who rounds a product how
        middle_y, middle_x = (height - 1) / 2, (width - 1) / 2
        y, x = rows.double() - middle_y, columns.double() - middle_x
        source_y, source_x = x * sin + y * cos + middle_y, x * cos - y * sin + middle_x
        return source_y.round().long(), source_x.round().long()


def built(stream: Any, augmentations: Any, shape: Sequence[int]) -> tuple[Augmentation, ...]:
    """The augmentations of a stream's field `augmentations`, constructed where it names classes.

    Raises `UserError` unless it is a list of augmentations that suit examples of `shape`.
    """
    name = f"streams.{type(stream).__name__}.augmentations"
    listed = isinstance(augmentations, (list, tuple))
    require(
        listed and all(issubclass(_class(each), Augmentation) for each in augmentations),
        f"{name} is {augmentations!r}: it must be a list of augmentations, as [@augmentations.HorizontalFlip].",
    )
    parts = tuple(each() if isinstance(each, type) else each for each in augmentations)
    require(
        not parts or len(shape) in (2, 3),
        f"{name} is for images, [H, W] or [C, H, W], but the examples have shape {tuple(shape)}: leave it empty.",
    )
    for part in parts:
        part.check(*shape[-2:])
    return parts


def _class(part: Any) -> type:
    return part if isinstance(part, type) else type(part)


def source_pixels(
    augmentations: Sequence[Augmentation],
    seeds: Tensor,
    steps: Tensor,
    size: int,
    height: int,
    width: int,
    purpose: str = "augmentation",
) -> tuple[Tensor, Tensor]:
    """Which pixel each pixel of the augmented images shows: `index` and `inside`, `[n, R, B, height * width]`.

    `index` (int64) is the pixel's number, row * width + column, and is valid everywhere; where `inside` is False
    the augmented image is 0. `seeds` is `[R]`, `steps` `[n]`, `size` B.

    The draws of example b in step t are keyed by (replica seed, "purpose/Class/k/what", t, b), for the k-th (from 0)
    augmentation of that class in the list.
    """
    rows = torch.arange(height, device=seeds.device)[:, None]
    columns = torch.arange(width, device=seeds.device)
    inside = torch.ones((), dtype=torch.bool, device=seeds.device)
    for place, part in reversed(list(enumerate(augmentations))):
        kind = type(part)
        earlier = sum(type(other) is kind for other in augmentations[:place])
        draws = Draws(seeds, steps, size, f"{purpose}/{kind.__name__}/{earlier}")
        rows, columns = part.source(rows, columns, height, width, draws)
        inside = inside & (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    index = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
    shape = (len(steps), len(seeds), size, height, width)
    return index.expand(shape).flatten(-2), inside.expand(shape).flatten(-2)


def rearranged(images: Tensor, index: Tensor, inside: Tensor) -> Tensor:
    """Scaled images `[n, R, B, H, W]` or `[n, R, B, C, H, W]` whose pixels come from `index`, and are 0 elsewhere."""
    pixels = images.flatten(-2)
    if pixels.dim() > index.dim():  # all channels alike
        index, inside = index[..., None, :], inside[..., None, :]
    moved = torch.where(inside, pixels.gather(-1, index.expand(pixels.shape)), 0)
    return moved.unflatten(-1, images.shape[-2:])
