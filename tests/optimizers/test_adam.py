"""Adam and AdamW equal torch's for each replica with its own hyperparameters, also after entries were cleared."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from lopbench.errors import UserError
from lopbench.optimizers import Adam, AdamW
from tests.optimizers.reference import (
    assert_same,
    begin_anew,
    random_tensors,
    run_cleared,
    run_ours,
    run_torch,
    stacked,
    weights_under,
)

HYPER = {
    "learning_rate": [0.1, 0.003, 0.03],
    "beta1": [0.9, 0.0, 0.99],
    "beta2": [0.999, 0.9, 0.99],
    "epsilon": [1e-8, 1e-2, 1e-4],
    "weight_decay": [0.0, 0.5, 0.1],
}
TORCHS = {Adam: torch.optim.Adam, AdamW: torch.optim.AdamW}
MASK = torch.zeros(3, 4, 3, dtype=torch.bool)
MASK[0, 1], MASK[1, :, 2] = True, True


def torch_adam(part: type[Adam], parameters: Any, replica: int) -> torch.optim.Optimizer:
    rate, beta1, beta2, epsilon, decay = (values[replica] for values in HYPER.values())
    return TORCHS[part](parameters, lr=rate, betas=(beta1, beta2), eps=epsilon, weight_decay=decay)


@pytest.mark.parametrize("per_weight_steps", [False, True])
@pytest.mark.parametrize("part", [Adam, AdamW])
def test_adam_is_torchs(part: type[Adam], per_weight_steps: bool) -> None:
    ours = run_ours(part(per_weight_steps=per_weight_steps), HYPER)
    assert_same(ours, run_torch(lambda p, r: torch_adam(part, p, r)))


@pytest.mark.parametrize("per_weight_steps", [False, True])
def test_uncorrected_epsilon_is_added_before_the_correction(per_weight_steps: bool) -> None:
    """theta - lr * sqrt(1 - beta2^t) / (1 - beta1^t) * m / (sqrt(v) + epsilon), written out for one entry a replica."""
    hyper = {**HYPER, "weight_decay": [0.0, 0.0, 0.0]}
    optimizer = Adam(per_weight_steps=per_weight_steps, epsilon_placement="uncorrected")
    parameters, g = {"w": torch.ones(3, 1, dtype=torch.float64)}, 0.01
    state = optimizer.init(parameters)
    for _ in range(5):
        gradients = {"w": torch.full_like(parameters["w"], g)}
        parameters, state = optimizer.update(parameters, gradients, state, stacked(hyper))

    for replica, (rate, beta1, beta2, epsilon, _) in enumerate(zip(*hyper.values(), strict=True)):
        theta, m, v = 1.0, 0.0, 0.0
        for t in range(1, 6):
            m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
            theta -= rate * math.sqrt(1 - beta2**t) / (1 - beta1**t) * m / (math.sqrt(v) + epsilon)
        assert parameters["w"][replica].item() == pytest.approx(theta, rel=1e-12)


@pytest.mark.parametrize("placement", ["corrected", "uncorrected"])
def test_the_first_step_is_one_learning_rate_long(placement: str) -> None:
    optimizer = Adam(per_weight_steps=True, epsilon_placement=placement)
    values = stacked({field: numbers[:1] for field, numbers in HYPER.items()})
    zero, half = ({"w": torch.full((1, 2), number, dtype=torch.float64)} for number in (0.0, 0.5))
    stepped, _ = optimizer.update(zero, half, optimizer.init(zero), values)
    assert stepped["w"].flatten().tolist() == pytest.approx([-0.1, -0.1], rel=1e-5)


@pytest.mark.parametrize("part", [Adam, AdamW])
def test_entries_with_their_own_count_start_afresh_when_cleared(part: type[Adam]) -> None:
    kept = run_torch(lambda p, r: torch_adam(part, p, r))
    begun_anew = run_torch(lambda p, r: torch_adam(part, p, r), after=begin_anew)
    ours = run_cleared(part(per_weight_steps=True), HYPER, MASK)
    assert_same(ours, weights_under(MASK, begun_anew, kept))


def test_a_common_count_goes_on_when_entries_are_cleared() -> None:
    def zero_moments(step: int, replica: int, torchs: torch.optim.Optimizer) -> None:
        if step == 9:
            weight = torchs.state[torchs.param_groups[0]["params"][0]]
            weight["exp_avg"][MASK[replica]] = 0
            weight["exp_avg_sq"][MASK[replica]] = 0

    theirs = run_torch(lambda p, r: torch_adam(Adam, p, r), after=zero_moments)
    assert_same(run_cleared(Adam(), HYPER, MASK), theirs)


@pytest.mark.parametrize("part", [Adam, AdamW])
def test_freed_decay_is_weight_decay_over_the_learning_rate(part: type[Adam]) -> None:
    def rescale(step: int, replica: int, torchs: torch.optim.Optimizer) -> None:
        torchs.param_groups[0]["weight_decay"] = HYPER["weight_decay"][replica] / HYPER["learning_rate"][replica]

    theirs = run_torch(lambda p, r: torch_adam(part, p, r), before=rescale)
    assert_same(run_ours(part(decay_tied_to_learning_rate=False), HYPER), theirs)


def test_float32_keeps_the_corrections_digits() -> None:
    """Written as it stands, 1 - beta2^t keeps three digits in float32 where beta2 is near 1 and t is small."""
    hyper = {**HYPER, "beta2": [0.99999] * 3}

    def after_three_steps(dtype: torch.dtype) -> dict[str, torch.Tensor]:
        optimizer = Adam()
        values = {field: value.float().to(dtype) for field, value in stacked(hyper).items()}
        parameters = {name: torch.zeros_like(value, dtype=dtype) for name, value in random_tensors(0).items()}
        state = optimizer.init(parameters)
        for step in range(3):
            gradients = {name: value.float().to(dtype) for name, value in random_tensors(step).items()}
            parameters, state = optimizer.update(parameters, gradients, state, values)
        return parameters

    single, double = after_three_steps(torch.float32), after_three_steps(torch.float64)
    for name in single:
        torch.testing.assert_close(single[name].double(), double[name], rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"beta1": 1}, "optimizers.Adam.beta1 is 1: it must be a number at least 0 and below 1."),
        ({"epsilon": -1e-8}, "optimizers.Adam.epsilon is -1e-08: it must be a number at least 0."),
        ({"per_weight_steps": "yes"}, "optimizers.Adam.per_weight_steps is 'yes': it must be True or False."),
        (
            {"epsilon_placement": "uncorected"},
            "optimizers.Adam.epsilon_placement is 'uncorected': it must be one of corrected, uncorrected. "
            "Did you mean uncorrected or corrected?",
        ),
    ],
)
def test_wrong_values_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        Adam(**fields)
    assert str(error.value) == message
