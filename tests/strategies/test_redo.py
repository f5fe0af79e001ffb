"""ReDo: when it acts, which units it takes for dormant, and what it leaves behind."""

import pytest
import torch
from torch import Tensor, nn

from lopbench.architectures import MLP
from lopbench.errors import UserError
from lopbench.learner import Learner, initial_state
from lopbench.optimizers.sgd import SGD
from lopbench.protocols import Clock, Problem
from lopbench.strategies.redo import ReDo
from tests.helpers import TinyNet, call, event_at, learner_for, run, tiny_population

PROBLEM = Problem((4,), 3, "cross_entropy")


def recycled(strategy: ReDo, feature: Tensor, module: nn.Module | None = None, **parameters: Tensor) -> Learner:
    """The learner of TinyNet's five units after update number `period`, given the feature `[R, B, 5]`."""
    learner = learner_for(module, strategy, features={"hidden": feature}, parameters=parameters)
    call(learner, "after_update", update=strategy.period)
    return learner


def reset_units(learner: Learner) -> list[list[int]]:
    """The units with outgoing weights 0, of each replica."""
    silenced = (learner.parameters["output.weight"] == 0).all(dim=1)
    return [torch.nonzero(row).flatten().tolist() for row in silenced]


ACTIVITY = torch.tensor([[[0.0, 1.0, -2.0, 3.0, 4.0]]])  # sizes 0 to 4, mean 2


@pytest.mark.parametrize(
    "threshold, dormant", [(0, [0]), (0.4, [0]), (0.5, [0, 1]), (1.0, [0, 1, 2]), (2.0, [0, 1, 2, 3, 4])]
)
def test_units_at_or_below_the_threshold_times_the_mean_are_dormant(threshold, dormant):
    assert reset_units(recycled(ReDo(threshold, period=3), ACTIVITY)) == [dormant]


def test_the_score_is_over_examples_and_relative_to_its_own_replica():
    feature = torch.cat((ACTIVITY.expand(2, 3, 5), 100 * ACTIVITY.flip(-1).expand(1, 3, 5)))
    each = [ReDo(0.5), ReDo(None), ReDo(0.5)]
    learner = learner_for(strategies=each, features={"hidden": feature})
    call(learner, "after_update", update=1000)
    assert reset_units(learner) == [[0, 1], [], [3, 4]]
    assert learner.reported["reinitialized_units"].tolist() == [2, 0, 2]


def test_it_acts_at_multiples_of_each_replicas_period():
    each = [ReDo(1.0, 4), ReDo(1.0, 6), ReDo(None, 1), ReDo(1.0, None)]
    population = tiny_population([each])
    due = {t: event_at(population, 0, t) for t in range(1, 13)}
    found = {t: table["due"].tolist() for t, table in due.items() if table is not None}
    a, b = [True, False, False, False], [False, True, False, False]
    assert found == {4: a, 6: b, 8: a, 12: [True, True, False, False]}
    units = run(population, 12)["online"]["reinitialized_units"]
    assert bool((units[:2] > 0).all()) and units[2:].tolist() == [0, 0]
    off = tiny_population([ReDo(None)])
    assert list(off.strategies[0].events(off, off.hyper["strategies.0"])) == []


@pytest.mark.parametrize("reset, dormant", [(True, [0, 1, 2, 3, 4]), (False, [])])
def test_a_silent_layer_is_reset_whole_or_left_alone_as_chosen(reset, dormant):
    """Its score is 0/0: as published by Sokar et al. and by Hernandez-Garcia et al. 0 <= 0, in the other codes NaN."""
    for threshold in (0, 0.1):
        learner = recycled(ReDo(threshold, reset_silent_layers=reset), torch.zeros(1, 6, 5))
        assert reset_units(learner) == [dormant]


def test_threshold_0_takes_exactly_the_units_that_are_0_on_the_batch():
    """Through the whole step, in a network of two layers."""
    module = MLP(PROBLEM, width=30, depth=2)
    population = tiny_population([ReDo(0.0, period=1)], module=module, replicas=1)
    state = initial_state(population)
    state["parameters"]["hidden.1.bias"] = state["parameters"]["hidden.1.bias"] - 2.0
    x, _ = population.stream.batches(population.stream.prepare(0), Clock(*[torch.tensor(0)] * 3), 1)
    parameters = {name: value[0] for name, value in state["parameters"].items()}
    _, features = torch.func.functional_call(module, parameters, (x[0, 0],))
    silent = [int((feature == 0).all(dim=0).sum()) for feature in features.values()]
    assert silent[1] > 0
    assert run(population, 1, state)["online"]["reinitialized_units"].tolist() == [sum(silent)]


def test_a_recycled_unit_starts_afresh_and_nothing_else_is_touched():
    parameters = {name: torch.full((1, 5), 0.3) for name in ("hidden.bias", "norm.weight", "norm.bias")}
    before = learner_for(features={"hidden": ACTIVITY}, parameters=parameters).parameters
    learner = recycled(ReDo(0.5), ACTIVITY, **parameters)
    after, unit = learner.parameters, torch.tensor([True, True, False, False, False])
    fresh = after["hidden.weight"][0, unit]
    assert bool((fresh != before["hidden.weight"][0, unit]).all()) and bool((fresh.abs() < 0.5).all())
    assert torch.equal(after["hidden.weight"][0, ~unit], before["hidden.weight"][0, ~unit])
    for name, first in (("hidden.bias", 0.0), ("norm.weight", 1.0), ("norm.bias", 0.0)):
        assert torch.equal(after[name][0], torch.where(unit, first, 0.3))
    assert torch.equal(after["output.weight"][0], torch.where(unit, 0.0, before["output.weight"][0]))
    assert torch.equal(after["output.bias"], before["output.bias"])
    reported = {tag: value.item() for tag, value in learner.reported.items()}
    assert reported == {
        "reinitialized_units": 2,
        "reinitialized_weights": 14,
        "reinitialized_fraction": pytest.approx(0.4),
    }


def test_initial_writes_back_the_values_that_the_unit_began_with():
    """L2 Init's form: weights and bias, of this replica's own beginning, after any amount of training."""
    population = tiny_population([ReDo(2.0, period=20, incoming="initial")], optimizer=SGD(0.1))
    start, trained, end = initial_state(population), run(population, 19), run(population, 20)
    for name in ("hidden.weight", "hidden.bias"):
        assert not torch.isclose(trained["parameters"][name], start["parameters"][name]).all()
    reset = (end["parameters"]["output.weight"] == 0).all(dim=1)
    assert bool(reset.any())
    for name in ("hidden.weight", "hidden.bias"):
        assert torch.equal(end["parameters"][name][reset], start["parameters"][name][reset])
        assert not torch.isclose(end["parameters"][name][~reset], start["parameters"][name][~reset]).all()


@pytest.mark.parametrize("clear", [True, False])
def test_the_optimizers_state_is_kept_unless_asked(clear):
    learner = learner_for(strategies=ReDo(0.5, clear_optimizer=clear), features={"hidden": ACTIVITY})
    learner.optimizer_state = {"momentum": {name: torch.ones_like(p) for name, p in learner.parameters.items()}}
    call(learner, "after_update", update=1000)
    kept = torch.tensor([0.0, 0, 1, 1, 1]) if clear else torch.ones(5)
    assert torch.equal(learner.optimizer_state["momentum"]["hidden.bias"][0], kept)
    assert torch.equal(learner.optimizer_state["momentum"]["output.weight"][0], kept.expand(3, 5))


def test_before_update_acts_between_gradients_and_optimizer():
    for timing, other in (("before_update", "after_update"), ("after_update", "before_update")):
        learner = learner_for(strategies=ReDo(0.5, timing=timing), features={"hidden": ACTIVITY})
        call(learner, other, update=1000)
        assert reset_units(learner) == [[]]
        call(learner, timing, update=1000)
        assert reset_units(learner) == [[0, 1]]


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"threshold": -0.1}, r"ReDo.threshold is -0.1: it must be a number at least 0"),
        ({"period": 0}, r"ReDo.period is 0: it must be an integer at least 1"),
        ({"period": 16.0}, r"ReDo.period is 16.0: it must be an integer"),
        ({"utility": "activations"}, r"ReDo.utility .* Did you mean activation"),
        ({"incoming": "zero"}, r"ReDo.incoming is 'zero': .*resample, initial"),
        (
            {"incoming": "initial", "initialization": "default"},
            r"initialization is 'default', but incoming is 'initial'",
        ),
        ({"reset_silent_layers": None}, r"True or False"),
    ],
)
def test_wrong_values_are_refused_by_name(fields, words):
    with pytest.raises(UserError, match=words):
        ReDo(**fields)


def test_a_module_without_unit_groups_is_refused_with_the_reason():
    with pytest.raises(UserError, match=r"ReDo replaces units, .* Linear declares no unit groups"):
        tiny_population([ReDo()], module=nn.Linear(4, 3))


def test_two_tiny_networks_differ_only_by_their_seed():
    """Fresh weights are keyed by the replica: alone or among others, the same; two seeds, two draws."""
    together = run(tiny_population([ReDo(2.0, period=2)], module=TinyNet(PROBLEM), seeds=[5, 9]), 2)["parameters"]
    alone = run(tiny_population([ReDo(2.0, period=2)], module=TinyNet(PROBLEM), seeds=[9]), 2)["parameters"]
    for name, value in together.items():
        torch.testing.assert_close(value[1], alone[name][0])
    assert not torch.isclose(together["hidden.weight"][0], together["hidden.weight"][1]).any()
