"""The learning rate, momentum and weight decay in force at each update of a task, as published."""

from __future__ import annotations

import numpy as np
import torch

from lopbench.optimizers import SGD, OneCycle
from lopbench.protocols import Clock
from tests.parity.reference import plain


def test_one_task() -> None:
    config, arrays = plain("onecycle_schedule")
    steps = config["epochs"] * config["steps_per_epoch"]
    optimizer = SGD(
        config["max_lr"],
        config["base_momentum"],
        weight_decay=config["weight_decay"],
        decay_tied_to_learning_rate=False,
    )
    schedule = OneCycle(steps)
    hyper = {
        field: torch.tensor([getattr(optimizer, field)], dtype=torch.float64)
        for field in ("learning_rate", "momentum", "dampening", "weight_decay")
    }
    one, zero = {"w": torch.ones(1, 1, dtype=torch.float64)}, {"w": torch.zeros(1, 1, dtype=torch.float64)}
    seen: dict[str, list[float]] = {"lr": [], "momentum": [], "weight_decay": []}
    for step in range(steps):
        values = schedule.values(hyper, Clock(torch.tensor(step), torch.tensor(0), torch.tensor(step)))
        # without a gradient, the first entry of the buffer is the decay's part of it: weight decay in force * 1
        _, state = optimizer.update(one, zero, optimizer.init(one), values)
        seen["lr"].append(values["learning_rate"].item())
        seen["momentum"].append(values["momentum"].item())
        seen["weight_decay"].append(state["momentum"]["w"].item())
    for quantity, numbers in seen.items():
        np.testing.assert_allclose(numbers, arrays[quantity], rtol=1e-5, err_msg=quantity)
