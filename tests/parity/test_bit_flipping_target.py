"""The target network of slowly-changing regression gives the published outputs for the published weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lopbench.streams.slowly_changing_regression import ThresholdNetwork
from tests.parity.reference import cases


@pytest.mark.parametrize(
    ("name", "config", "arrays"), [pytest.param(*case, id=case[0]) for case in cases("bit_flipping_target")]
)
def test_outputs(name: str, config: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    tensors = {key: torch.from_numpy(array) for key, array in arrays.items()}
    target = ThresholdNetwork(
        tensors["w_in"], tensors["b_in"], tensors["w_out"][0], tensors["b_out"][0], beta=float(arrays["beta"])
    )
    np.testing.assert_array_equal(target(tensors["x"]).numpy(), arrays["y"][:, 0], err_msg=name)
