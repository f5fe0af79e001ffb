"""From the bytes of an image to the numbers that a network sees."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lopbench.protocols import Dataset

SCALINGS = ("unit", "centred", "standard")


@dataclass(frozen=True, eq=False)
class Scaling:
    """uint8 images x become (x/255 - mean) / std, in the given dtype; floats are used as they are.

    name: "unit", mean 0 and std 1; "centred", both 1/2; "standard", the data set's constants of each channel.
    """

    name: str
    data: Dataset
    dtype: torch.dtype

    #: mean and std; one value, or one for each entry of an example
    _constants: tuple[Tensor, Tensor] | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        constants = None
        if self.name != "unit":
            pair = (self.data.mean, self.data.std) if self.name == "standard" else ((0.5,), (0.5,))
            constants = tuple(self._of_entries(values) for values in pair)
        object.__setattr__(self, "_constants", constants)

    def _of_entries(self, values: tuple[float, ...]) -> Tensor:
        """One value as it is, and one a channel for each entry of an example, `[entries]`."""
        made = torch.tensor(values, dtype=self.dtype, device=self.data.inputs["train"].device)
        if len(values) == 1:
            return made.squeeze()
        return made.repeat_interleave(math.prod(self.data.shape) // len(values))

    def __call__(self, inputs: Tensor, places: Tensor | None = None) -> Tensor:
        """Scaled inputs `[..., entries]`, of the same shape.

        places: which entry of an example each one is, int64 `[R, entries]` for inputs `[n, R, B, entries]`; None: its
        own.
        """
        if inputs.dtype != torch.uint8:
            return inputs.to(self.dtype)
        unit = inputs.to(self.dtype) / 255
        if self._constants is None:
            return unit
        mean, std = (
            value if value.dim() == 0 or places is None else value[places][:, None] for value in self._constants
        )
        return (unit - mean) / std
