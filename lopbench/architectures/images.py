"""What networks of images share: the check that their inputs are images."""

from __future__ import annotations

from torch import nn

from lopbench.errors import require
from lopbench.protocols import Problem


def image_shape(architecture: nn.Module, problem: Problem) -> tuple[int, int, int]:
    """Channels, height and width of the examples; `UserError` if they are no images with the channels first."""
    shape = problem.input_shape
    require(
        len(shape) == 3,
        f"architectures.{type(architecture).__name__} takes images [channels, height, width], but the stream's "
        f"examples have the shape {list(shape)}: choose a source with channels, such as sources.CIFAR10, "
        "or architectures.MLP.",
    )
    channels, height, width = shape
    return channels, height, width
