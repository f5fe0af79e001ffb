"""CReLU, [relu(z), relu(-z)]: each unit shows twice, so that it is never silent altogether.

Shang et al. 2016: "Understanding and improving convolutional neural networks via concatenated rectified linear units".
A layer's output is twice as wide as it has units; to keep the size of the network a layer has fewer of them:
int((1 - fraction removed) * width), or half of an even width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lopbench.checks import check_bool, check_number
from lopbench.errors import require


def concatenated_relu(z: Tensor) -> Tensor:
    """[relu(z), relu(-z)] along the axis of the units: `[B, 2 * units, ...]` from `[B, units, ...]`."""
    return torch.relu(torch.cat((z, -z), dim=1))


def units_of(width: int, crelu: bool, fraction_removed: float | None) -> int:
    """The units of a layer of a given width."""
    if not crelu:
        return width
    return width // 2 if fraction_removed is None else int((1 - fraction_removed) * width)


def check_crelu(
    architecture: nn.Module, crelu: bool, fraction_removed: float | None, widths: Mapping[str, int]
) -> None:
    """Refuse wrong fields `crelu` and `crelu_fraction_removed`, and widths (by field) of which no unit can be left."""
    where, removed = f"architectures.{type(architecture).__name__}", fraction_removed
    check_bool(architecture, "crelu", crelu)
    if removed is not None:
        check_number(architecture, "crelu_fraction_removed", removed, at_least=0, below=1)
    require(
        crelu or removed is None,
        f"{where}.crelu_fraction_removed is {removed} but crelu is False: bind crelu = True, or leave it None.",
    )
    for field, width in widths.items() if crelu else ():
        require(
            removed is not None or width % 2 == 0,
            f"{where}.{field} is {width}: CReLU without crelu_fraction_removed halves it, so it must be even.",
        )
        require(
            units_of(width, crelu, removed) >= 1,
            f"{where}.crelu_fraction_removed is {removed}: of a width of {width} it leaves no unit.",
        )
