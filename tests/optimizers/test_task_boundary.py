"""What the published decay, learning rate * decay held constant, does to weights when a new task begins.

The last rates of a cycle are tiny, so the decay that makes up for them is huge. It enters the momentum, which outlives
the task; the first rates of the next task are ten thousand times larger, and every weight shrinks by half or more, or
turns its sign, without any gradient. With fresh momentum it does not. The numbers are those of the released code of
Hernandez-Garcia et al. 2025, on a weight whose gradient is always 0.
"""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

from lopbench.optimizers import SGD, OneCycle
from lopbench.protocols import Clock
from lopbench.strategies import Reset
from tests.helpers import Tensors, call, learner_for

DECAYS = (2e-6, 6e-6)  # a replica each
TASKS = (2500, 5000)
LOOKED_AT = 100  # steps of the second task

OPTIMIZER = SGD(learning_rate=0.01, momentum=0.9, decay_tied_to_learning_rate=False)
SCHEDULE = OneCycle(TASKS)


def hyper() -> dict[str, Tensor]:
    fields = {"learning_rate": [0.01, 0.01], "momentum": [0.9, 0.9], "dampening": [0.0, 0.0], "weight_decay": DECAYS}
    return {field: torch.tensor(values, dtype=torch.float64) for field, values in fields.items()}


@functools.cache
def weights(parts: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """The weight `[2]` at the end of the first task (1 at its start), and after each step of the next `[steps, 2]`.

    `parts` are reset between them.
    """
    ones, zeros = {"w": torch.ones(2, 1, dtype=torch.float64)}, {"w": torch.zeros(2, 1, dtype=torch.float64)}
    learner = learner_for(Tensors({"w": (1,)}), Reset(parts=parts), parameters=ones, optimizer=OPTIMIZER)

    def train(task: int, steps: int) -> Tensor:
        seen = []
        for step in range(steps):
            values = SCHEDULE.values(hyper(), Clock(*(torch.tensor(number) for number in (0, task, step))))
            learner.parameters, learner.optimizer_state = OPTIMIZER.update(
                learner.parameters, zeros, learner.optimizer_state, values
            )
            seen.append(learner.parameters["w"][:, 0])
        return torch.stack(seen)

    end = train(0, TASKS[0])[-1]
    call(learner, "begin_task")
    return end, train(1, LOOKED_AT)


def test_a_task_shrinks_weights_through_momentum_by_more_than_its_decay() -> None:
    """By some 10.7 times weight_decay a step, where 1 / (1 - 0.9) would be 10."""
    end, _ = weights(())
    assert end.tolist() == pytest.approx([0.948, 0.851], abs=1e-3)


def test_momentum_carried_over_halves_weights_or_turns_their_sign() -> None:
    end, after = weights(())
    published = {1: (0.981, 0.942), 10: (0.834, 0.503), 50: (0.563, -0.309), 100: (0.514, -0.451)}
    for step, expected in published.items():
        assert (after[step - 1] / end).tolist() == pytest.approx(expected, abs=1e-3), f"step {step} of the next task"


def test_with_fresh_momentum_weights_stay() -> None:
    end, after = weights(("momentum",))
    assert end.equal(weights(())[0])
    assert (after / end > 0.9).all()


def test_the_decay_in_force_makes_up_for_the_learning_rate() -> None:
    """weight_decay / learning_rate: 2e-6 / 4e-4 first, and 2e-6 / 4e-8 = 50 in the last step."""
    one, zero = torch.ones(2, 1, dtype=torch.float64), torch.zeros(2, 1, dtype=torch.float64)
    for step, expected in ((0, (0.005, 0.015)), (749, (2e-4, 6e-4)), (2499, (50, 150))):
        values = SCHEDULE.values(hyper(), Clock(*(torch.tensor(number) for number in (step, 0, step))))
        _, gradient = OPTIMIZER.decay(one, zero, values)
        assert gradient[:, 0].tolist() == pytest.approx(expected, rel=1e-9), f"step {step}"
