"""From the bytes of an image to the numbers that a network sees."""

from __future__ import annotations

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

    #: mean and std; one value, or one a channel that broadcasts over `[C, H, W]`
    _constants: tuple[Tensor, Tensor] | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        constants = None
        if self.name != "unit":
            pair = (self.data.mean, self.data.std) if self.name == "standard" else ((0.5,), (0.5,))
            shape = (-1, 1, 1) if len(pair[0]) > 1 else ()
            device = self.data.inputs["train"].device
            mean, std = (torch.tensor(values, dtype=self.dtype, device=device).reshape(shape) for values in pair)
            constants = (mean, std)
        object.__setattr__(self, "_constants", constants)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Scaled inputs of the same shape."""
        if inputs.dtype != torch.uint8:
            return inputs.to(self.dtype)
        unit = inputs.to(self.dtype) / 255
        return unit if self._constants is None else (unit - self._constants[0]) / self._constants[1]
