"""Shrink and perturb: both forms, when they act, and what is drawn."""

import pytest
import torch

from lopbench.errors import UserError
from lopbench.initializers import constant, normal, uniform
from lopbench.strategies.shrink_and_perturb import ShrinkAndPerturb, ShrinkAndPerturbInit
from tests.helpers import Tensors, call, learner_for, run, tiny_population

SHAPES = {"a": (200, 50), "b": (500,)}


def test_the_noise_is_normal_with_each_replicas_own_standard_deviation():
    strategies = [ShrinkAndPerturb(perturb_std=std) for std in (0.1, 0.02, None, 0.0)]
    learner = learner_for(Tensors(SHAPES), strategies, dtype=torch.float64)
    before = dict(learner.parameters)
    call(learner, "after_update")
    for name, start in before.items():
        change = (learner.parameters[name] - start).flatten(1)
        torch.testing.assert_close(change[:2].std(dim=1), torch.tensor([0.1, 0.02]).double(), rtol=0.1, atol=0)
        assert (change.mean(dim=1).abs() < 5 * 0.1 / change.shape[1] ** 0.5).all()
        assert not change[2:].any()  # None and 0 leave everything as it is
    kurtosis = (change[0] / change[0].std()).pow(4).mean()
    assert 2.3 < kurtosis < 3.9  # 3 for a normal, 1.8 for a uniform


def test_noise_is_new_for_every_step_parameter_and_replica_and_the_same_however_the_run_is_cut():
    strategy = ShrinkAndPerturb(perturb_std=1.0)
    learner = learner_for(Tensors({"a": (40,), "b": (40,)}), strategy)
    block = strategy.draws(learner, 3)
    together = torch.stack(list(block.values()))
    assert together.unique().numel() == together.numel()
    learner.clock = learner.clock.later(2)
    assert torch.equal(strategy.draws(learner, 1)["b"][0], block["b"][2])


def test_every_parameter_is_perturbed_after_every_update():
    population = tiny_population([ShrinkAndPerturb(perturb_std=1e-3)])
    plain, noisy = run(tiny_population(), 1), run(population, 1)
    for name, value in plain["parameters"].items():
        change = noisy["parameters"][name] - value
        assert (change != 0).all() and change.abs().max() < 1e-2


def test_the_init_form_mixes_with_a_fresh_draw_of_the_whole_initialisation():
    records = {"a": uniform(0.25), "b": constant(1.0)}
    strategies = [
        ShrinkAndPerturbInit(shrink=0.1, perturb_scale=0.2),
        ShrinkAndPerturbInit(shrink=0.3, perturb_scale=None),
    ]
    learner = learner_for(Tensors(SHAPES, records), strategies, dtype=torch.float64)
    before = dict(learner.parameters)
    call(learner, "after_update")
    phi = (learner.parameters["a"][0] - 0.9 * before["a"][0]) / 0.2
    assert phi.abs().max() <= 0.25 * (1 + 1e-12)
    torch.testing.assert_close(phi.std().item(), 0.25 / 3**0.5, rtol=0.05, atol=0)
    assert not torch.allclose(phi, before["a"][0], atol=0.1)
    torch.testing.assert_close(learner.parameters["b"][0], 0.9 * before["b"][0] + 0.2)
    torch.testing.assert_close(learner.parameters["a"][1], 0.7 * before["a"][1])


def test_shrink_and_scale_none_leave_a_replica_alone():
    off = ShrinkAndPerturbInit(shrink=None, perturb_scale=None)
    learner = learner_for(Tensors(SHAPES), [off, ShrinkAndPerturbInit()])
    before = dict(learner.parameters)
    call(learner, "after_update")
    assert all(torch.equal(learner.parameters[name][0], before[name][0]) for name in SHAPES)


def test_with_a_period_it_acts_after_each_of_its_multiples_only():
    def strategy(period):
        return ShrinkAndPerturbInit(shrink=0.5, perturb_scale=0.1, when="period", period=period)

    learner = learner_for(Tensors({"a": (30,)}, {"a": normal(1.0)}), [strategy(3), strategy(2), strategy(None)])
    acted = []
    for update in range(1, 10):
        before = learner.parameters["a"]
        call(learner, "after_update", update)
        acted.append((learner.parameters["a"] != before).all(dim=1).tolist())
    assert [update + 1 for update, replicas in enumerate(acted) if replicas[0]] == [3, 6, 9]
    assert [update + 1 for update, replicas in enumerate(acted) if replicas[1]] == [2, 4, 6, 8]
    assert not any(replicas[2] for replicas in acted)


def test_at_tasks_it_acts_once_before_each_new_task():
    whole = ShrinkAndPerturbInit(shrink=1.0, perturb_scale=0.0, when="task")
    assert whole.needs_task_boundaries and not ShrinkAndPerturbInit().needs_task_boundaries
    population = tiny_population([whole], steps_per_task=3)
    state = run(population, 3)
    assert all(p.any() for name, p in state["parameters"].items())
    learner = learner_for(strategies=whole)
    call(learner, "after_update")
    assert learner.parameters["hidden.weight"].any()
    call(learner, "begin_task")
    assert not any(p.any() for p in learner.parameters.values())


def test_wrong_values_are_refused():
    with pytest.raises(UserError, match=r"strategies.ShrinkAndPerturb.perturb_std is -1e-05"):
        ShrinkAndPerturb(perturb_std=-1e-5)
    with pytest.raises(
        UserError, match=r"strategies.ShrinkAndPerturbInit.shrink is 1.5: it must be a number at least 0 and at most 1"
    ):
        ShrinkAndPerturbInit(shrink=1.5)
