"""SGD and SGDW equal torch.optim.SGD for each replica with its own hyperparameters, also after entries were cleared."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from lopbench.errors import UserError
from lopbench.optimizers import SGD, SGDW, OneCycle
from tests.optimizers.reference import (
    STEPS,
    assert_same,
    begin_anew,
    clock_at,
    random_tensors,
    run_cleared,
    run_ours,
    run_torch,
    shrink,
    stacked,
    weights_under,
)

RATES = [0.1, 0.03, 0.3]
MOMENTA = {"no momentum": [0.0, 0.0, 0.0], "momentum": [0.9, 0.5, 0.99], "some momentum": [0.0, 0.9, 0.5]}
DECAYS = {"no decay": [0.0, 0.0, 0.0], "decay": [0.1, 0.0, 0.02]}
DAMPENINGS = {"undampened": [0.0, 0.0, 0.0], "dampened": [0.3, 0.0, 0.9]}


def hyper_of(momentum: str, decay: str, dampening: str) -> dict[str, list[float]]:
    return {
        "learning_rate": RATES,
        "momentum": MOMENTA[momentum],
        "weight_decay": DECAYS[decay],
        "dampening": DAMPENINGS[dampening],
    }


def torch_sgd(hyper: dict[str, list[float]], parameters: Any, replica: int, **changes: Any) -> torch.optim.SGD:
    settings = {("lr" if field == "learning_rate" else field): values[replica] for field, values in hyper.items()}
    return torch.optim.SGD(parameters, **{**settings, **changes})


CASES = [(*case, False) for case in itertools.product(MOMENTA, DECAYS, DAMPENINGS)]
CASES += [("momentum", decay, "undampened", True) for decay in DECAYS]


@pytest.mark.parametrize("trimmed", [False, True], ids=["all slots", "needed slots"])
@pytest.mark.parametrize(("momentum", "decay", "dampening", "nesterov"), CASES)
def test_sgd_is_torchs(momentum: str, decay: str, dampening: str, nesterov: bool, trimmed: bool) -> None:
    hyper = hyper_of(momentum, decay, dampening)
    optimizer = SGD(momentum=0.9 if nesterov else 0.0, nesterov=nesterov)
    state = optimizer.init(random_tensors(0), stacked(hyper) if trimmed else None)
    ours = run_ours(optimizer, hyper, state)
    assert_same(ours, run_torch(lambda p, r: torch_sgd(hyper, p, r, nesterov=nesterov)))


@pytest.mark.parametrize(("momentum", "decay", "dampening", "nesterov"), CASES)
def test_sgdw_shrinks_before_a_step_without_decay(momentum: str, decay: str, dampening: str, nesterov: bool) -> None:
    hyper = hyper_of(momentum, decay, dampening)
    theirs = run_torch(
        lambda p, r: torch_sgd(hyper, p, r, nesterov=nesterov, weight_decay=0.0),
        before=lambda step, r, optimizer: shrink(optimizer, 1 - hyper["learning_rate"][r] * hyper["weight_decay"][r]),
    )
    assert_same(run_ours(SGDW(momentum=0.9, nesterov=nesterov), hyper), theirs)


def test_slots_that_no_replica_needs_are_left_out() -> None:
    optimizer, parameters = SGD(), random_tensors(0)
    for momentum, dampening, slots in (
        ("no momentum", "dampened", []),
        ("some momentum", "undampened", ["momentum"]),
        ("some momentum", "dampened", ["momentum", "started"]),
    ):
        assert list(optimizer.init(parameters, stacked(hyper_of(momentum, "decay", dampening)))) == slots
    assert list(optimizer.init(parameters)) == ["momentum", "started"]


@pytest.mark.parametrize("coupled", [True, False])
def test_freed_decay_is_weight_decay_over_the_rate_in_force(coupled: bool) -> None:
    hyper = {**hyper_of("momentum", "decay", "undampened"), "weight_decay": [1e-4, 0.0, 1e-2]}
    schedule = OneCycle(STEPS)

    def set_torchs(step: int, replica: int, optimizer: torch.optim.Optimizer) -> None:
        now = {field: value[replica].item() for field, value in schedule.values(stacked(hyper), clock_at(step)).items()}
        group = optimizer.param_groups[0]
        group["lr"], group["momentum"] = now["learning_rate"], now["momentum"]
        if coupled:
            group["weight_decay"] = now["weight_decay"] / now["learning_rate"]
        else:
            shrink(optimizer, 1 - now["weight_decay"])

    optimizer = (SGD if coupled else SGDW)(decay_tied_to_learning_rate=False)
    theirs = run_torch(lambda p, r: torch_sgd(hyper, p, r, weight_decay=0.0), before=set_torchs)
    assert_same(run_ours(optimizer, hyper, schedule=schedule), theirs)


def test_one_free_step_of_sgdw_shrinks_by_the_factor_itself() -> None:
    """theta = 1, learning rate 0.05, lambda 1e-4, no gradient: 0.9999 (and the same at learning rate 0)."""
    off = {"momentum": [0.0, 0.0], "dampening": [0.0, 0.0]}
    hyper = stacked({"learning_rate": [0.05, 0.0], "weight_decay": [1e-4, 1e-4], **off})
    one, zero = {"w": torch.ones(2, 1, dtype=torch.float64)}, {"w": torch.zeros(2, 1, dtype=torch.float64)}
    for optimizer, expected in ((SGDW, [0.9999, 0.9999]), (SGD, [0.9999, 1.0])):
        free = optimizer(decay_tied_to_learning_rate=False)
        theta, _ = free.update(one, zero, free.init(one), hyper)
        assert theta["w"].flatten().tolist() == pytest.approx(expected, rel=1e-12), optimizer


@pytest.mark.parametrize("optimizer", [SGD(decay_vectors=False), SGDW(decay_vectors=False)])
def test_vectors_may_go_undecayed(optimizer: SGD) -> None:
    hyper = hyper_of("momentum", "decay", "undampened")
    decayed, plain = run_ours(type(optimizer)(), hyper), run_ours(optimizer, {**hyper, "weight_decay": [0.0] * 3})
    mixed = run_ours(optimizer, hyper)
    assert_same(mixed, [{"weight": a["weight"], "bias": b["bias"]} for a, b in zip(decayed, plain, strict=True)])


@pytest.mark.parametrize("dampening", DAMPENINGS)
def test_cleared_entries_start_afresh(dampening: str) -> None:
    """A cleared entry goes on like a new torch optimizer's, the others as if nothing had happened."""
    hyper = hyper_of("momentum", "decay", dampening)
    mask = torch.zeros(3, 4, 3, dtype=torch.bool)
    mask[0, 1], mask[1, :, 2] = True, True
    kept = run_torch(lambda p, r: torch_sgd(hyper, p, r))
    begun_anew = run_torch(lambda p, r: torch_sgd(hyper, p, r), after=begin_anew)
    assert not torch.allclose(begun_anew[-1]["weight"], kept[-1]["weight"])
    assert_same(run_cleared(SGD(), hyper, mask), weights_under(mask, begun_anew, kept))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"learning_rate": -0.1}, "optimizers.SGD.learning_rate is -0.1: it must be a number at least 0."),
        ({"learning_rate": "0.1"}, "optimizers.SGD.learning_rate is '0.1': it must be a number at least 0."),
        ({"momentum": 1.5}, "optimizers.SGD.momentum is 1.5: it must be a number at least 0 and at most 1."),
        ({"dampening": True}, "optimizers.SGD.dampening is True: it must be a number at least 0 and at most 1."),
        ({"weight_decay": -1}, "optimizers.SGD.weight_decay is -1: it must be a number at least 0."),
        ({"nesterov": 1, "momentum": 0.9}, "optimizers.SGD.nesterov is 1: it must be True or False."),
        (
            {"nesterov": True},
            "optimizers.SGD.nesterov is True with momentum 0.0 and dampening 0.0: "
            "it needs momentum above 0 and dampening 0.",
        ),
        ({"decay_vectors": None}, "optimizers.SGD.decay_vectors is None: it must be True or False."),
    ],
)
def test_wrong_values_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        SGD(**fields)
    assert str(error.value) == message
