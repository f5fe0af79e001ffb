"""The MLP and its variants give the published network's logits and activations for the published parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.func import functional_call, vmap

from tests.parity.networks import network_of
from tests.parity.reference import cases


@pytest.mark.parametrize(
    ("name", "config", "arrays"), [pytest.param(*case, id=case[0]) for case in cases("mlp_forward_and_metrics")]
)
def test_logits_and_activations(name: str, config: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    module, parameters = network_of(config, arrays)
    x = torch.from_numpy(arrays["x"]).double() / 255
    logits, features = vmap(lambda p, x: functional_call(module, p, (x,)))(parameters, x[None])

    # a norm of nearly constant activations with epsilon 1e-6 magnifies float32's rounding in all that follows it
    after_norm = 1e-3 if config.get("use_layer_norm") and config.get("use_reparam_ln") else 1e-5
    assert list(features) == [f"hidden.{k}" for k in range(module.depth)]
    _close(logits[0], arrays["logits"], after_norm, f"{name}: logits")
    for k, feature in enumerate(features.values()):
        _close(feature[0], arrays[f"act{k}"], after_norm if k else 1e-5, f"{name}: activations of hidden layer {k}")


def _close(ours: torch.Tensor, theirs: np.ndarray, tolerance: float, what: str) -> None:
    scale = np.abs(theirs).max()
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=tolerance, atol=tolerance * scale, err_msg=what)
