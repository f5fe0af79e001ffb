"""L2 as a loss term: closed forms, and the equivalence with coupled weight decay."""

import pytest
import torch

from lopbench.errors import UserError
from lopbench.optimizers.sgd import SGD
from lopbench.strategies.l2 import L2
from tests.helpers import call, learner_for, run, tiny_population


def test_the_penalty_is_half_the_weighted_sum_of_squares_of_each_replica():
    learner = learner_for(strategies=[L2(l2_weight=0.5), L2(l2_weight=2.0)])
    squares = sum(p.double().square().flatten(1).sum(dim=1) for p in learner.parameters.values())
    torch.testing.assert_close(call(learner, "penalty").double(), 0.5 * torch.tensor([0.5, 2.0]).double() * squares)


def test_without_norms_the_norms_are_left_out():
    everything, weights = (
        call(learner_for(strategies=L2(l2_weight=1.0, scope=scope)), "penalty") for scope in ("all", "without_norms")
    )
    norm = 0.5 * torch.full((2,), 5.0)  # five scales of 1, five shifts of 0
    torch.testing.assert_close(everything - weights, norm)


def test_on_all_parameters_it_is_the_coupled_weight_decay_of_sgd():
    rule = SGD(learning_rate=0.05, momentum=0.9)
    decayed = tiny_population(dtype=torch.float64, optimizer=SGD(learning_rate=0.05, momentum=0.9, weight_decay=0.1))
    penalised = tiny_population([L2(l2_weight=0.1)], dtype=torch.float64, optimizer=rule)
    for name, value in run(decayed, 10)["parameters"].items():
        torch.testing.assert_close(run(penalised, 10)["parameters"][name], value, rtol=1e-12, atol=1e-14)


def test_none_is_off_and_replicas_may_differ():
    """A replica without L2 trains as if there were no strategy, beside one that has it."""
    plain = run(tiny_population(), 5)
    mixed = run(tiny_population([[L2(l2_weight=None), L2(l2_weight=1.0)]]), 5)
    for name, value in plain["parameters"].items():
        assert torch.equal(mixed["parameters"][name][0], value[0])
        assert not torch.equal(mixed["parameters"][name][1], value[1])


@pytest.mark.parametrize("weight", [-1e-3, "0.1", True, float("nan")])
def test_wrong_weights_are_refused(weight):
    with pytest.raises(UserError, match=r"strategies.L2.l2_weight is .*: it must be a number at least 0"):
        L2(l2_weight=weight)


def test_an_unknown_scope_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match=r"scope is 'without_norm'.*Did you mean without_norms"):
        L2(scope="without_norm")
