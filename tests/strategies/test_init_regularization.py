"""Regularisers towards the initial parameters: closed forms, targets, scope."""

import pytest
import torch

from lopbench.errors import UserError
from lopbench.learner import forward, initial_state
from lopbench.optimizers.sgd import SGD
from lopbench.protocols import Clock
from lopbench.strategies.init_regularization import HuberInit, HybridInit, L1Init, L2Init
from tests.helpers import Tensors, call, learner_for, run, tiny_population


def penalty_at(strategy, offset, dtype=torch.float64):
    """The penalty `[1]` and its gradient at theta_0 + offset."""
    learner = learner_for(Tensors({"a": tuple(offset.shape)}), strategy, replicas=1, dtype=dtype)
    learner.parameters["a"] = (learner.parameters["a"] + offset).requires_grad_()
    value = call(learner, "penalty")
    return value, torch.autograd.grad(value.sum(), learner.parameters["a"])[0][0]


def test_one_step_of_l2_init_with_sgd_is_the_closed_form():
    """theta <- (1 - a l) theta + a l theta_0 - a gradient."""
    rate, weight = 0.05, 0.3
    population = tiny_population([L2Init(l2_weight=weight, scope="all")], dtype=torch.float64, optimizer=SGD(rate))
    first = initial_state(population)["parameters"]
    state = run(population, 3)
    x, y = population.stream.batches(population.stream.prepare(3), Clock(*[torch.tensor(3)] * 3), 1)
    gradients, *_ = forward(population, state["parameters"], state["buffers"], x[0], y[0], torch.tensor(0))
    after = run(population, 1, state, done=3)["parameters"]
    for name, theta in state["parameters"].items():
        assert not torch.equal(theta, first[name])
        expected = (1 - rate * weight) * theta + rate * weight * first[name] - rate * gradients[name]
        torch.testing.assert_close(after[name], expected, rtol=1e-12, atol=1e-14)


def test_each_penalty_and_gradient_are_the_published_formulas():
    x = torch.tensor([-3.0, -0.5, 0.25, 2.0], dtype=torch.float64)
    small = x.abs() <= 1
    half_square, magnitude = 0.5 * x.square(), x.abs()
    huber = torch.where(small, half_square, magnitude - 0.5)
    cases = [
        (L2Init(l2_weight=0.3), 0.3 * half_square, 0.3 * x),
        (L1Init(l1_weight=0.2), 0.2 * magnitude, 0.2 * x.sign()),
        (HuberInit(huber_weight=0.4), 0.4 * huber, 0.4 * torch.where(small, x, x.sign())),
        (HybridInit(l2_weight=0.3, l1_weight=0.2), 0.3 * half_square + 0.2 * magnitude, 0.3 * x + 0.2 * x.sign()),
    ]
    for strategy, terms, gradient in cases:
        value, found = penalty_at(strategy, x)
        torch.testing.assert_close(value[0], terms.sum())
        torch.testing.assert_close(found, gradient)


def test_huber_is_half_the_squares_while_all_distances_are_at_most_one():
    x = torch.linspace(-1, 1, 21, dtype=torch.float64)
    torch.testing.assert_close(penalty_at(HuberInit(huber_weight=2.0), x), penalty_at(L2Init(l2_weight=2.0), x))


@pytest.mark.parametrize("strategy", [L2Init(), L1Init(), HuberInit(), HybridInit()])
def test_at_the_initial_parameters_there_is_neither_penalty_nor_gradient(strategy):
    value, gradient = penalty_at(strategy, torch.zeros(4))
    assert value.item() == 0 and not gradient.any()


def test_norms_are_left_out_unless_asked_for():
    for scope, expected in (("without_norms", 0.0), ("all", 0.5 * 5 * 2**2)):
        learner = learner_for(strategies=L2Init(l2_weight=1.0, scope=scope))
        learner.parameters["norm.weight"] = learner.parameters["norm.weight"] + 2
        torch.testing.assert_close(call(learner, "penalty"), torch.full((2,), expected))


def test_resampled_targets_are_a_fresh_initialisation_at_every_step():
    strategy = L2Init(l2_weight=1.0, sample_init_values=True)
    learner = learner_for(strategies=strategy)
    drawn = strategy.draws(learner, 3)
    assert set(drawn) == {"hidden.weight", "hidden.bias", "output.weight", "output.bias"}
    weight = drawn["hidden.weight"]
    assert weight.shape == (3, 2, 5, 4) and weight.unique().numel() == weight.numel()
    assert weight.abs().max() <= 0.5 and not drawn["output.bias"].any()  # U(-1/2, 1/2), and a constant 0
    learner.draw = {name: values[1] for name, values in drawn.items()}
    squares = sum((learner.parameters[n] - t).square().flatten(1).sum(dim=1) for n, t in learner.draw.items())
    torch.testing.assert_close(strategy.penalty(learner), 0.5 * squares)
    learner.clock = learner.clock.later(1)  # a block begun one step later draws the same for the same step
    assert torch.equal(strategy.draws(learner, 1)["hidden.weight"][0], weight[1])
    assert strategy.init(learner) == {}


def test_none_is_off_and_replicas_may_differ():
    plain = run(tiny_population(), 5)
    for part, weight in ((L2Init, "l2_weight"), (L1Init, "l1_weight"), (HuberInit, "huber_weight")):
        mixed = run(tiny_population([[part(**{weight: None}), part(**{weight: 1.0})]]), 5)
        for name in ("hidden.weight", "output.weight"):
            assert torch.equal(mixed["parameters"][name][0], plain["parameters"][name][0])
            assert not torch.equal(mixed["parameters"][name][1], plain["parameters"][name][1])


def test_wrong_values_are_refused():
    with pytest.raises(UserError, match=r"strategies.HybridInit.l1_weight is -1"):
        HybridInit(l1_weight=-1)
    with pytest.raises(UserError, match=r"strategies.L2Init.sample_init_values is 1: it must be True or False"):
        L2Init(sample_init_values=1)
