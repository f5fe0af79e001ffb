"""SGDW gives the published optimizer's parameters after every step, for the same gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lopbench.optimizers import SGDW
from tests.parity.reference import cases

_OPTIONS = {"lr", "momentum", "dampening", "weight_decay", "nesterov"}


@pytest.mark.parametrize(("name", "config", "arrays"), [pytest.param(*case, id=case[0]) for case in cases("sgdw")])
def test_parameters_after_every_step(name: str, config: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    assert set(config) <= _OPTIONS, f"{name} has options that this test does not know: {set(config) - _OPTIONS}"
    fields = {
        "learning_rate": config["lr"],
        **{f: config.get(f, 0.0) for f in ("momentum", "dampening", "weight_decay")},
    }
    optimizer = SGDW(**fields, nesterov=config.get("nesterov", False))
    values = {field: torch.tensor([value], dtype=torch.float64) for field, value in fields.items()}

    def at(kind: str, step: int) -> dict[str, Tensor]:
        """Every tensor of a kind ("p" or "g") at a step, as one replica."""
        found = [key for key in arrays if key.startswith(kind) and key.endswith(f"/{step}")]
        return {key[1:].partition("/")[0]: torch.from_numpy(arrays[key]).double()[None] for key in found}

    parameters = at("p", 0)
    state = optimizer.init(parameters)
    for step in range(1, 1 + max(int(key.partition("/")[2]) for key in arrays)):
        parameters, state = optimizer.update(parameters, at("g", step), state, values)
        for index, expected in at("p", step).items():
            scale = expected.abs().max().item()
            torch.testing.assert_close(
                parameters[index],
                expected,
                rtol=1e-5,
                atol=1e-6 * scale,
                msg=lambda m, s=step, i=index: f"{name}: p{i}/{s}: {m}",
            )
