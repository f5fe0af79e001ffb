"""OneCycle (SGD's momentum, Adam's beta1) and MultiStep equal torch's schedules at every step, in each task anew."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import MultiStepLR, OneCycleLR

from lopbench.errors import UserError
from lopbench.optimizers import AdamW, Constant, MultiStep, OneCycle
from lopbench.protocols import Clock, Schedule, Tree
from tests.optimizers.reference import clock_at, random_tensors, stacked

RATES = [0.01, 0.3]
TORCHS_NAMES = {"warmup_fraction": "pct_start", "division": "div_factor", "final_division": "final_div_factor"}


def torchs_cycle(steps: int, rate: float, adam: bool, **settings: Any) -> list[tuple[float, float]]:
    """(learning rate, momentum or beta1) at every step."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([parameter]) if adam else torch.optim.SGD([parameter], lr=1.0, momentum=0.9)
    schedule = OneCycleLR(optimizer, rate, total_steps=steps, **settings)
    seen = []
    for _ in range(steps):
        group = optimizer.param_groups[0]
        seen.append((group["lr"], group["betas"][0] if adam else group["momentum"]))
        optimizer.step()
        schedule.step()
    return seen


@pytest.mark.parametrize("adam", [False, True])
@pytest.mark.parametrize("anneal", ["linear", "cosine"])
@pytest.mark.parametrize(
    ("steps", "fields"),
    [
        (2500, {}),
        (37, {"warmup_fraction": 0.1, "division": 4.0, "final_division": 10.0}),
        (37, {"max_momentum": 0.8, "base_momentum": 0.1}),
        (37, {"cycle_momentum": False}),
        (2, {}),
        (1, {}),
    ],
)
def test_every_step_is_torchs(steps: int, fields: dict[str, Any], anneal: str, adam: bool) -> None:
    momentum = "beta1" if adam else "momentum"
    hyper = stacked({"learning_rate": RATES, momentum: [0.9, 0.9]})
    schedule = OneCycle(steps, anneal=anneal, **fields)
    values = [schedule.values(hyper, clock_at(step)) for step in range(steps)]
    settings = {TORCHS_NAMES.get(field, field): value for field, value in fields.items()}
    for replica, rate in enumerate(RATES):
        expected = torchs_cycle(steps, rate, adam, anneal_strategy={"cosine": "cos"}.get(anneal, anneal), **settings)
        got = [(now["learning_rate"][replica].item(), now[momentum][replica].item()) for now in values]
        np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_anchors_of_the_vision_transformers_task() -> None:
    """2,500 steps to 0.01: 4e-4 and 0.95 first, the peak and 0.85 at step 749, 4e-8 at the last."""
    hyper, schedule = stacked({"learning_rate": [0.01], "momentum": [0.9]}), OneCycle(2500)
    at = {step: {k: v.item() for k, v in schedule.values(hyper, clock_at(step)).items()} for step in (0, 749, 2499)}
    assert at[0] == pytest.approx({"learning_rate": 4e-4, "momentum": 0.95})
    assert at[749] == pytest.approx({"learning_rate": 0.01, "momentum": 0.85})
    assert at[2499] == pytest.approx({"learning_rate": 4e-8, "momentum": 0.95})


def test_the_last_rate_keeps_its_digits_in_float32() -> None:
    hyper = {name: value.float() for name, value in stacked({"learning_rate": [0.01], "momentum": [0.9]}).items()}
    values = OneCycle(2500).values(hyper, clock_at(2499))
    assert values["learning_rate"].dtype == torch.float32
    assert values["learning_rate"].item() == pytest.approx(4e-8, rel=1e-6)


def test_a_task_begins_anew_and_nothing_steps_past_the_end() -> None:
    hyper, schedule = stacked({"learning_rate": RATES, "momentum": [0.9, 0.9]}), OneCycle(10)

    def rate(*clock: int) -> list[float]:
        """At (step, task, step in task)."""
        rates: list[float] = schedule.values(hyper, Clock(*map(torch.tensor, clock)))["learning_rate"].tolist()
        return rates

    assert rate(10, 1, 0) == rate(0, 0, 0)
    assert rate(13, 1, 3) == rate(3, 0, 3)
    assert rate(40, 0, 40) == rate(9, 0, 9)


def test_tasks_of_different_lengths_have_their_own_cycles() -> None:
    hyper, schedule = stacked({"learning_rate": RATES, "momentum": [0.9, 0.9]}), OneCycle((10, 20, 30))
    for task, length in enumerate((10, 20, 30, 30)):
        for step in (0, 4, length - 1):
            got = schedule.values(hyper, clock_at(step, task))["learning_rate"]
            assert got.tolist() == OneCycle(length).values(hyper, clock_at(step))["learning_rate"].tolist()


def torchs_steps(steps: int, rate: float, milestones: list[int], factor: float) -> list[float]:
    """The learning rate at every step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    schedule, seen = MultiStepLR(optimizer, milestones, factor), []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


@pytest.mark.parametrize(
    ("steps", "fields", "milestones", "factor"),
    [
        (50, {}, [15, 30, 40], 0.2),
        (49, {"factor": 0.5}, [15, 29, 39], 0.5),  # 14.7, 29.4, 39.2
        (50, {"milestones": [0.5]}, [25], 0.2),
    ],
)
def test_every_step_of_a_fall_in_steps_is_torchs(
    steps: int, fields: dict[str, Any], milestones: list[int], factor: float
) -> None:
    hyper, schedule = stacked({"learning_rate": RATES, "momentum": [0.9, 0.5]}), MultiStep(steps, **fields)
    values = [schedule.values(hyper, clock_at(step)) for step in range(steps)]
    for replica, rate in enumerate(RATES):
        got = [now["learning_rate"][replica].item() for now in values]
        np.testing.assert_allclose(got, torchs_steps(steps, rate, milestones, factor), rtol=1e-12)
    assert all(now["momentum"].tolist() == [0.9, 0.5] for now in values)


def test_anchors_of_incremental_cifar() -> None:
    """200 epochs of 25 updates in the first task, of 500 in the 20th: 0.1, and a fifth at epochs 60, 120 and 160."""
    hyper, schedule = stacked({"learning_rate": [0.1]}), MultiStep(tuple(200 * 25 * task for task in range(1, 21)))
    for task, epoch in ((0, 25), (19, 500)):
        for start, end, expected in ((0, 60, 0.1), (60, 120, 0.02), (120, 160, 0.004), (160, 200, 0.0008)):
            for step in (start * epoch, end * epoch - 1):
                [rate] = schedule.values(hyper, clock_at(step, task))["learning_rate"].tolist()
                assert rate == pytest.approx(expected, rel=1e-12), f"task {task}, step {step}"


def test_constant_changes_nothing() -> None:
    hyper = stacked({"learning_rate": RATES, "momentum": [0.9, 0.5]})
    assert Constant(10).values(hyper, clock_at(3)) == hyper


def test_cycling_needs_a_momentum() -> None:
    with pytest.raises(UserError, match=r"schedules\.OneCycle\.cycle_momentum is True but the optimizer has neither"):
        OneCycle(10).values(stacked({"learning_rate": RATES}), clock_at(0))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"total_steps": 0}, "schedules.OneCycle.total_steps is 0: it must be an integer at least 1."),
        ({"total_steps": 2.5}, "schedules.OneCycle.total_steps is 2.5: it must be an integer at least 1."),
        (
            {"warmup_fraction": 1.0},
            "schedules.OneCycle.warmup_fraction is 1.0: it must be a number at least 0 and below 1.",
        ),
        (
            {"base_momentum": 0.99},
            "schedules.OneCycle.base_momentum is 0.99: it must be a number at least 0 and at most 0.95.",
        ),
        (
            {"anneal": "cos"},
            "schedules.OneCycle.anneal is 'cos': it must be one of linear, cosine. Did you mean cosine?",
        ),
    ],
)
def test_wrong_values_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        OneCycle(10, **fields)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("milestones", "factor", "message"),
    [
        ([0.6, 0.3], 0.2, "milestones is [0.6, 0.3]: it must be a list of ascending fractions of the task"),
        ([0.3, 0.3], 0.2, "milestones is [0.3, 0.3]: it must be a list of ascending fractions"),
        ([60, 120], 0.2, "milestones is [60, 120]: it must be a list of ascending fractions"),
        ([0.0, 0.5], 0.2, "milestones is [0.0, 0.5]: it must be a list of ascending fractions"),
        ([], 0.2, "milestones is []: it must be a list of ascending fractions"),
        (0.5, 0.2, "milestones is 0.5: it must be a list of ascending fractions"),
        (["0.5"], 0.2, "milestones is ['0.5']: it must be a list of ascending fractions"),
        ([0.5], 0.0, "factor is 0.0: it must be a number above 0."),
    ],
)
def test_wrong_milestones_are_refused(milestones: Any, factor: float, message: str) -> None:
    with pytest.raises(UserError) as error:
        MultiStep(10, milestones, factor)
    assert str(error.value).startswith(f"schedules.MultiStep.{message}")


@pytest.mark.parametrize(
    "schedule", [OneCycle((7, 9), anneal="cosine"), MultiStep((7, 9), (0.2, 0.4))], ids=["OneCycle", "MultiStep"]
)
def test_a_compiled_step_equals_the_eager_one(schedule: Schedule) -> None:
    """Schedule, update and clearing in one graph, for all replicas at once."""
    optimizer = AdamW(per_weight_steps=True, decay_tied_to_learning_rate=False)
    fields = {"learning_rate": 0.1, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "weight_decay": 0.01}
    hyper = stacked({field: [value, value / 2, value / 3] for field, value in fields.items()})
    mask = random_tensors(5)["weight"] > 0

    def step(parameters: Tree, state: Tree, clock: Clock) -> tuple[Tree, Tree]:
        gradients = {name: parameter * 2 for name, parameter in parameters.items()}
        parameters, state = optimizer.update(parameters, gradients, state, schedule.values(hyper, clock))
        return parameters, optimizer.clear(state, "weight", mask)

    compiled = torch.compile(step, fullgraph=True, dynamic=False)
    mine = theirs = (random_tensors(0), optimizer.init(random_tensors(0)))
    for number in range(4):
        mine, theirs = compiled(*mine, clock_at(number, task=1)), step(*theirs, clock_at(number, task=1))
    for name in mine[0]:
        torch.testing.assert_close(mine[0][name], theirs[0][name], rtol=1e-9, atol=1e-12)
