"""EWC: when the penalty is in force, its closed form, and the Fisher information."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from lopbench.errors import UserError
from lopbench.protocols import Problem
from lopbench.strategies.ewc import EWC, fisher_diagonal
from lopbench.strategies.init_regularization import L2Init
from tests.helpers import TinyStream, call, learner_for, run, tiny_population


class Softmax(nn.Module):
    """A linear classifier, whose Fisher information is known in closed form; batch norm tells the mode."""

    def __init__(self, batch_norm: bool = False) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4, affine=False) if batch_norm else nn.Identity()
        self.output = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self.output(self.norm(x)), {}


def closed_form(weight, bias, x, y):
    """Mean over examples of the squares of (onehot - p) x^T and of (onehot - p)."""
    error = torch.eye(3, dtype=x.dtype)[y] - torch.softmax(x @ weight.T + bias, dim=-1)
    return (error[:, :, None] * x[:, None, :]).square().mean(dim=0), error.square().mean(dim=0)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_fisher_is_the_mean_squared_gradient_of_the_log_likelihood_in_evaluation_mode(batch_norm):
    learner = learner_for(Softmax(batch_norm).double(), EWC(use_fisher=True), dtype=torch.float64)
    learner.parameters["output.weight"] = learner.parameters["output.weight"] + torch.tensor([0.0, 0.5]).reshape(
        2, 1, 1
    )
    x, y = learner.population.stream.probe("train", 120, 0)  # more than are held at once
    found = fisher_diagonal(learner, ("output.weight", "output.bias"), x, y)
    scale = (1 + 1e-5) ** -0.5 if batch_norm else 1.0  # running mean 0 and variance 1
    for r in range(2):
        weight, bias = (learner.parameters[f"output.{name}"][r] for name in ("weight", "bias"))
        expected = closed_form(weight, bias, scale * x[r], y[r])
        torch.testing.assert_close((found["output.weight"][r], found["output.bias"][r]), expected)
    assert learner.population.module.training


def test_there_is_no_penalty_in_the_first_task_and_one_from_the_second_on():
    plain = run(tiny_population(steps_per_task=3), 5)
    population = tiny_population([EWC(ewc_weight=5.0)], steps_per_task=3)
    first = run(population, 3)
    assert all(
        torch.equal(p, q)
        for p, q in zip(run(tiny_population(), 3)["parameters"].values(), first["parameters"].values(), strict=True)
    )
    second = run(population, 2, first, done=3)
    assert not torch.equal(second["parameters"]["output.weight"], plain["parameters"]["output.weight"])


@pytest.mark.parametrize("use_fisher", [False, True])
def test_the_penalty_is_anchored_at_the_end_of_the_last_task_only(use_fisher):
    population = tiny_population([EWC(ewc_weight=0.7, use_fisher=use_fisher, fisher_examples=30)], steps_per_task=2)
    ends = {updates: run(population, updates) for updates in (2, 4)}
    assert not torch.equal(ends[2]["parameters"]["hidden.weight"], ends[4]["parameters"]["hidden.weight"])
    branch = ends[4]["strategies"]["0"]
    assert "norm.weight" not in branch["anchor"]
    learner = learner_for(strategies=population.strategies[0])
    learner.state, expected = dict(branch), torch.zeros(2)
    for name, anchor in ends[4]["parameters"].items():
        if not name.startswith("norm"):
            assert torch.equal(branch["anchor"][name], anchor)
            importance = branch["importance"][name] if use_fisher else 1.0
            expected += (importance * (learner.parameters[name] - anchor).square()).flatten(1).sum(dim=1)
    torch.testing.assert_close(call(learner, "penalty"), 0.5 * 0.7 * expected)


def test_the_fisher_information_is_of_the_task_that_ended_and_of_the_chosen_split():
    for split in ("train", "test"):
        strategy = EWC(use_fisher=True, fisher_examples=20, fisher_split=split)
        learner = learner_for(strategies=strategy)
        learner.task = 3
        strategy.end_task(learner)
        x, y = learner.population.stream.probe(split, 20, 3)
        expected = fisher_diagonal(learner, ("output.bias",), x, y)
        assert torch.equal(learner.state["importance"]["output.bias"], expected["output.bias"])


def test_with_l2_init_in_one_list_both_penalties_act():
    """Upstream's l2_init_plus_ewc: the gradients add."""

    def after(*strategies):
        return run(tiny_population(strategies, steps_per_task=2, dtype=torch.float64), 3)["parameters"]["output.weight"]

    plain, l2, ewc, both = after(), after(L2Init()), after(EWC()), after(L2Init(), EWC())
    assert torch.equal(ewc, plain)  # the first step of the second task starts at the anchor
    assert not torch.equal(l2, plain) and torch.equal(both, l2)
    longer = [
        run(tiny_population(list(s), steps_per_task=2, dtype=torch.float64), 4)["parameters"]["output.weight"]
        for s in ((L2Init(),), (L2Init(), EWC()))
    ]
    assert not torch.allclose(*longer)


def test_none_is_off_and_replicas_may_differ():
    plain = run(tiny_population(steps_per_task=2), 5)["parameters"]
    mixed = run(tiny_population([[EWC(ewc_weight=None), EWC(ewc_weight=3.0)]], steps_per_task=2), 5)["parameters"]
    assert torch.equal(mixed["hidden.weight"][0], plain["hidden.weight"][0])
    assert not torch.equal(mixed["hidden.weight"][1], plain["hidden.weight"][1])


@dataclass(frozen=True)
class Regression(TinyStream):
    @property
    def problem(self) -> Problem:
        return Problem((self.inputs,), self.classes, "squared_error")


def test_fisher_without_classes_is_refused_before_training():
    population = tiny_population()
    regression = replace(population, stream=Regression(population.seeds))
    with pytest.raises(UserError, match=r"strategies.EWC.use_fisher is True, but the stream's loss is squared_error"):
        EWC(use_fisher=True).check(regression)
    EWC().check(regression)


def test_wrong_values_are_refused():
    with pytest.raises(UserError, match=r"strategies.EWC.fisher_split is 'validation'"):
        EWC(fisher_split="validation")
    with pytest.raises(UserError, match=r"strategies.EWC.fisher_examples is 0: it must be an integer at least 1"):
        EWC(fisher_examples=0)
