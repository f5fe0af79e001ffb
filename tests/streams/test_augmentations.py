"""Augmentations: the pixels of torchvision's transforms for the same draws, and their distribution."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import gin
import pytest
import torch
import torchvision.transforms.functional as F
from torch import Tensor

from lopbench.errors import UserError
from lopbench.keyed_random import integers, uniforms
from lopbench.registry import parts
from lopbench.streams.augmentations import (
    Augmentation,
    HorizontalFlip,
    RandomCrop,
    RandomRotation,
    built,
    rearranged,
    source_pixels,
)

SEEDS = torch.tensor([3, 2**40 + 1])
STEPS = torch.tensor([0, 7, 2**33])
SIZE = 20
PUBLISHED = (HorizontalFlip(), RandomCrop(), RandomRotation())
FRAGMENT = Path(__file__).parents[2] / "gin_configs" / "streams" / "augmentation_cifar.gin"


def augmented(listed: Sequence[Augmentation], images: Tensor, seeds: Tensor = SEEDS, steps: Tensor = STEPS) -> Tensor:
    index, inside = source_pixels(listed, seeds, steps, images.shape[2], *images.shape[-2:])
    return rearranged(images, index, inside)


def normalised(*shape: int) -> Tensor:
    """Images of 0 mean; float64, in which torchvision finds the same nearest pixels."""
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return drawn.expand(len(STEPS), len(SEEDS), SIZE, *shape[-3:]) if len(shape) == 3 else drawn


def transformed(part: Augmentation, image: Tensor, draw: dict[str, float]) -> Tensor:
    """torchvision's transform of one image `[C, H, W]` for given draws."""
    if isinstance(part, HorizontalFlip):
        return F.hflip(image) if draw["flip"] < part.probability else image
    if isinstance(part, RandomCrop):
        padded = F.pad(image, [part.padding], padding_mode=part.padding_mode)
        return F.crop(padded, int(draw["row"]), int(draw["column"]), *image.shape[-2:])
    assert isinstance(part, RandomRotation)
    return F.rotate(image, part.low + (part.high - part.low) * draw["angle"])  # nearest, fill 0


def draws(part: Augmentation, earlier: int) -> dict[str, Tensor]:
    """Every random number of an augmentation, `[n, R, B]`, from its published key."""
    key = f"augmentation/{type(part).__name__}/{earlier}"
    if isinstance(part, RandomCrop):
        below = 2 * part.padding + 1
        return {what: integers(SEEDS, f"{key}/{what}", STEPS, SIZE, below) for what in ("row", "column")}
    what = "flip" if isinstance(part, HorizontalFlip) else "angle"
    return {what: uniforms(SEEDS, f"{key}/{what}", STEPS, SIZE, torch.float64)}


LISTS = {
    "published": PUBLISHED,
    "one": (RandomRotation(-180, 180),),
    "other order": (RandomRotation(20, 20), HorizontalFlip(1.0), RandomCrop(3, "constant")),
    "twice": (RandomCrop(2), RandomCrop(5, "constant"), RandomRotation(-40, 0), RandomCrop(4)),
}


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 9, 14)])
@pytest.mark.parametrize("name", LISTS)
def test_pixels_are_those_of_torchvision_s_transforms_for_the_same_draws(name, shape):
    listed, images = LISTS[name], normalised(len(STEPS), len(SEEDS), SIZE, *shape)
    found = augmented(listed, images)
    kinds = [type(part) for part in listed]
    drawn = [draws(part, kinds[:place].count(type(part))) for place, part in enumerate(listed)]
    for where in torch.cartesian_prod(*map(torch.arange, images.shape[:3])).tolist():
        expected = images[tuple(where)]
        for part, draw in zip(listed, drawn, strict=True):
            expected = transformed(part, expected, {what: values[tuple(where)].item() for what, values in draw.items()})
        torch.testing.assert_close(found[tuple(where)], expected, rtol=0, atol=1e-5)


def test_the_distribution_is_that_of_torchvision_s_pipeline():
    """One image, augmented 3,000 times by each: means agree within five standard errors."""
    from torchvision.transforms import v2

    count, image = 3000, normalised(3, 32, 32)[0, 0, 0] + 3  # a 0 is then a place outside
    theirs_are = v2.Compose(
        [v2.RandomHorizontalFlip(), v2.RandomCrop(32, padding=4, padding_mode="reflect"), v2.RandomRotation((0, 15))]
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = torch.stack([theirs_are(image) for _ in range(count)])
    ours = augmented(PUBLISHED, image.expand(1, 1, count, 3, 32, 32), SEEDS[:1], STEPS[:1])[0, 0]

    def statistics(images: Tensor) -> tuple[Tensor, ...]:
        """What is averaged over images: pixels and their squares, zeros, the share of zeros and its square."""
        zero = (images == 0).all(dim=1).double()
        share = zero.mean(dim=(1, 2))
        return images, images.square(), zero, share, share.square()

    assert 0.03 < (ours == 0).double().mean() < 0.08
    for a, b in zip(statistics(ours), statistics(theirs), strict=True):
        error = ((a.var(dim=0) + b.var(dim=0)) / count).sqrt()
        assert ((a.mean(dim=0) - b.mean(dim=0)).abs() <= 5 * error).all()


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_the_share_of_flipped_images(probability):
    index, inside = source_pixels([HorizontalFlip(probability)], SEEDS, STEPS, 2000, 1, 2)
    assert inside.all() and torch.equal(index.sum(dim=-1), torch.ones_like(index[..., 0]))
    assert (index[..., 0] == 1).double().mean() == pytest.approx(probability, abs=0.015)


def test_rotations_are_counter_clockwise():
    image = torch.arange(9.0).view(1, 1, 1, 3, 3)
    turned = augmented([RandomRotation(90, 90)], image, SEEDS[:1], STEPS[:1])
    assert turned.flatten().tolist() == [2, 5, 8, 1, 4, 7, 0, 3, 6]


def test_without_augmentations_an_image_stays():
    images = normalised(3, 5, 4)
    assert torch.equal(augmented([], images), images)


def test_grey_images_are_moved_as_channels_are():
    images = normalised(3, 8, 8)
    assert torch.equal(augmented(PUBLISHED, images[..., 1, :, :]), augmented(PUBLISHED, images)[..., 1, :, :])


def test_draws_are_keyed_by_seed_step_and_example():
    index, inside = source_pixels(PUBLISHED, SEEDS, STEPS, SIZE, 16, 16)
    for n in range(len(STEPS)):
        for r in range(len(SEEDS)):
            alone = source_pixels(PUBLISHED, SEEDS[r : r + 1], STEPS[n : n + 1], SIZE, 16, 16)
            assert torch.equal(alone[0][0, 0], index[n, r]) and torch.equal(alone[1][0, 0], inside[n, r])
    assert len(index.flatten(0, 2).unique(dim=0)) > 0.95 * len(STEPS) * len(SEEDS) * SIZE
    assert torch.equal(source_pixels(PUBLISHED, SEEDS, STEPS, 5, 16, 16)[0], index[:, :, :5])
    other = source_pixels(PUBLISHED, SEEDS, STEPS, SIZE, 16, 16, purpose="augmentation/test")[0]
    assert not torch.equal(other, index)


def test_the_index_is_valid_also_where_nothing_is_seen():
    listed = [RandomCrop(40, "constant"), RandomRotation(30, 60), RandomCrop(3), RandomCrop(20, "constant")]
    index, inside = source_pixels(listed, SEEDS, STEPS, 200, 4, 6)
    assert index.dtype == torch.int64 and index.min() >= 0 and index.max() < 24
    assert index.shape == inside.shape == (len(STEPS), len(SEEDS), 200, 24) and not inside.all() and inside.any()


def test_compiled_is_the_same_to_the_bit():
    compiled = torch.compile(
        lambda seeds, steps: source_pixels(PUBLISHED, seeds, steps, SIZE, 32, 32), fullgraph=True, dynamic=False
    )
    for eager, traced in zip(source_pixels(PUBLISHED, SEEDS, STEPS, SIZE, 32, 32), compiled(SEEDS, STEPS), strict=True):
        assert torch.equal(eager, traced)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_chooses_the_same_pixels():
    host = source_pixels(PUBLISHED, SEEDS, STEPS, 1000, 32, 32)
    device = source_pixels(PUBLISHED, SEEDS.cuda(), STEPS.cuda(), 1000, 32, 32)
    for one, other in zip(host, device, strict=True):
        assert torch.equal(one, other.cpu())


def test_built_constructs_classes_and_keeps_instances():
    assert built(None, [HorizontalFlip, RandomCrop(2)], (3, 32, 32)) == (HorizontalFlip(), RandomCrop(2))
    assert built(None, (), (6,)) == ()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: HorizontalFlip(1.5),
            r"augmentations\.HorizontalFlip\.probability is 1\.5: .* at least 0 and at most 1",
        ),
        (lambda: HorizontalFlip(None), r"augmentations\.HorizontalFlip\.probability is None"),
        (lambda: RandomCrop(-1), r"augmentations\.RandomCrop\.padding is -1: it must be an integer at least 0"),
        (lambda: RandomCrop(2.0), r"augmentations\.RandomCrop\.padding is 2\.0"),
        (lambda: RandomCrop(4, "reflection"), r"augmentations\.RandomCrop\.padding_mode is .*Did you mean reflect\?"),
        (lambda: RandomRotation(15, 0), r"augmentations\.RandomRotation\.high is 0: it must be a number at least 15"),
        (lambda: RandomRotation("0"), r"augmentations\.RandomRotation\.low is '0': it must be a number"),
        (
            lambda: built(SimpleNamespace(), [RandomCrop(9)], (3, 32, 9)),
            r"RandomCrop\.padding is 9: an image of 32 x 9 pixels can be reflected by at most 8\.",
        ),
        (
            lambda: built(SimpleNamespace(), [HorizontalFlip()], (6,)),
            r"streams\.SimpleNamespace\.augmentations is for images, .* the examples have shape \(6,\): leave it empty",
        ),
        (
            lambda: built(SimpleNamespace(), HorizontalFlip, (3, 8, 8)),
            r"augmentations is <class .*>: it must be a list of augmentations, as \[@augmentations\.Horiz",
        ),
        (lambda: built(SimpleNamespace(), ["HorizontalFlip"], (3, 8, 8)), r"augmentations is \['HorizontalFlip'\]: it"),
    ],
)
def test_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_the_fragment_holds_the_published_list():
    text = FRAGMENT.read_text()
    assert text.startswith("# ") and "# Source: " in text
    gin.clear_config()
    try:
        gin.parse_config(text)
        listed = [parts("augmentations")[name] for name in re.findall(r"@augmentations\.(\w+)", text)]
        assert built(None, [gin.get_configurable(part) for part in listed], (3, 32, 32)) == PUBLISHED
    finally:
        gin.clear_config()
