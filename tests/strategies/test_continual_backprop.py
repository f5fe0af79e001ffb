"""Continual backpropagation: when units are replaced, which, and what a replacement leaves behind."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lopbench.architectures import MLP
from lopbench.errors import UserError
from lopbench.initializers import uniform
from lopbench.learner import Learner, initial_state, step
from lopbench.optimizers.sgd import SGD
from lopbench.population import map_tree
from lopbench.protocols import Clock, Problem
from lopbench.strategies.continual_backprop import ContinualBackprop
from lopbench.units import Link, UnitGroup
from tests.helpers import TinyNet, call, event_at, learner_for, run, tiny_population

PROBLEM = Problem((4,), 3, "cross_entropy")


def net(**options) -> MLP:
    return MLP(PROBLEM, **{"width": 6, "depth": 2, **options})


def counts(population, updates: int) -> np.ndarray:
    """`[updates, R, groups]`: what is due in every update from the first."""
    dense = np.zeros((updates, population.replicas, len(population.groups)), dtype=int)
    for number, table in population.strategies[0].events(population, population.hyper["strategies.0"]):
        if number > updates:
            break
        dense[number - 1] = table["count"]
    return dense


# --- when


def test_the_first_replacement_is_in_the_update_after_maturity():
    population = tiny_population([ContinualBackprop(replacement_rate=1.0, maturity_threshold=3)], module=net())
    ages = [run(population, t)["strategies"]["0"]["hidden.0"]["ages"][0].tolist() for t in (3, 4, 5)]
    assert ages == [[3] * 6, [0] * 6, [1] * 6]
    assert run(population, 3)["online"]["reinitialized_units"].tolist() == [0, 0]
    assert run(population, 4)["online"]["reinitialized_units"].tolist() == [12, 12]


def test_rates_and_maturities_may_differ_between_replicas_and_none_is_off():
    rates, maturities = (0.05, None, 0.3, 0.05), (10, 10, 2, 10)
    each = [ContinualBackprop(rate, maturity) for rate, maturity in zip(rates, maturities, strict=True)]
    together = tiny_population([each], module=net())
    found = counts(together, 100)
    for r, strategy in enumerate(each):
        alone = counts(tiny_population([strategy], module=net(), replicas=1), 100)
        assert np.array_equal(found[:, r], alone[:, 0])
    assert np.array_equal(found[:, 0], found[:, 3]) and not found[:, 1].any()
    end = run(together, 30)
    assert end["online"]["reinitialized_units"].tolist() == found[:30].sum(axis=(0, 2)).tolist()
    plain = run(tiny_population([], module=net(), replicas=4), 30)
    for name, value in plain["parameters"].items():
        assert torch.equal(end["parameters"][name][1], value[1])


def test_events_only_come_when_something_is_due_and_layers_have_their_own():
    module = net()
    module.unit_groups = lambda: (small, *MLP.unit_groups(module)[1:])
    small = UnitGroup(**{**vars(MLP.unit_groups(module)[0]), "units": 3, "feature_block": 2})
    population = tiny_population([ContinualBackprop(1 / 64, maturity_threshold=0)], module=module, replicas=1)
    events = itertools.islice(population.strategies[0].events(population, population.hyper["strategies.0"]), 4)
    found = {number: table["count"].tolist() for number, table in events}
    assert found == {11: [[0, 1]], 22: [[1, 1]], 32: [[0, 1]], 43: [[1, 1]]}  # when 3/64 and 6/64 pass a whole number


def test_random_rounding_depends_on_the_seed_and_not_on_the_population():
    strategy = ContinualBackprop(0.01, maturity_threshold=5, rounding="random")
    together = counts(tiny_population([strategy], module=net(), seeds=[3, 2**40, -8]), 2000)
    for r, seed in enumerate([3, 2**40, -8]):
        assert np.array_equal(
            together[:, r], counts(tiny_population([strategy], module=net(), seeds=[seed]), 2000)[:, 0]
        )
    assert len({together[:, r, g].tobytes() for r in range(3) for g in range(2)}) == 6  # replicas and layers differ
    expected = 0.01 * 6 * 2000 * 6 / (1 + 0.01 * 5)  # six streams; a replaced unit waits five updates to be eligible
    assert abs(together.sum() - expected) < 4 * expected**0.5


# --- which


def hidden_layer(strategy: ContinualBackprop, **given: Tensor) -> Learner:
    """One replica of 4 - 5 (no norm) - 3 with five given units; float64."""
    torch_given = {key: value.double()[None] for key, value in given.items()}
    features = {"hidden.0": torch_given.pop("feature")}
    parameters = {"hidden.0.weight": torch_given.pop("incoming"), "output.weight": torch_given.pop("outgoing")}
    return learner_for(net(width=5, depth=1), strategy, parameters=parameters, features=features)


def ones(*shape: int) -> Tensor:
    return torch.ones(shape)


def replaced(learner: Learner, group: str = "hidden.0") -> list[int]:
    return torch.nonzero(learner.state[group]["ages"][0] == 0).flatten().tolist()


def test_averages_are_corrected_for_their_start_at_zero():
    """Utilities 1, 2, 3 ... in turn: u^ is their average with weights d^(t-s), whatever the unit's age."""
    d = 0.8
    strategy = ContinualBackprop(None, utility_decay=d, utility="activation")
    learner = hidden_layer(strategy, incoming=ones(5, 4), outgoing=ones(3, 5), feature=ones(2, 5))
    for t in range(1, 6):
        learner.features = {"hidden.0": torch.full((1, 2, 5), float(t), dtype=torch.float64)}
        call(learner, "after_update", update=t)
    weights = torch.tensor([d ** (5 - s) for s in range(1, 6)], dtype=torch.float64)
    expected = (weights * torch.arange(1.0, 6)).sum() / weights.sum()
    memory = learner.state["hidden.0"]
    torch.testing.assert_close(memory["utility"] / (1 - d ** memory["ages"]), expected.expand(1, 5))


def test_a_young_unit_is_not_taken_for_a_useless_one():
    """Unit 0 has a small utility; unit 4, replaced a while ago, a larger one, but a raw average near 0."""
    strategy = ContinualBackprop(1 / 5, maturity_threshold=0, utility_decay=0.99, utility="activation")
    activity = torch.tensor([[1.0, 3, 3, 3, 2]])
    learner = hidden_layer(strategy, incoming=ones(5, 4), outgoing=ones(3, 5), feature=activity)
    learner.state["hidden.0"] = {
        "ages": torch.tensor([[500, 500, 500, 500, 4]]),
        "utility": learner.features["hidden.0"][:, 0] * (1 - 0.99 ** torch.tensor([500, 500, 500, 500, 4])),
    }
    call(learner, "after_update")
    assert replaced(learner) == [0]


def test_with_decay_0_the_utility_of_the_step_decides():
    strategy = ContinualBackprop(1 / 5, maturity_threshold=0, utility_decay=0.0)
    learner = hidden_layer(
        strategy, incoming=ones(5, 4), outgoing=ones(3, 5), feature=torch.tensor([[1.0, 2, 3, 4, 5]])
    )
    call(learner, "after_update", update=1)
    assert replaced(learner) == [0]
    learner.features = {"hidden.0": torch.tensor([[[5.0, 4, 3, 2, 9]]], dtype=torch.float64)}
    learner.parameters["output.weight"] = torch.ones(1, 3, 5, dtype=torch.float64)
    call(learner, "after_update", update=2)
    assert replaced(learner) == [3]
    torch.testing.assert_close(learner.state["hidden.0"]["utility"], torch.tensor([[5.0, 4, 3, 0, 9]]).double())


def test_only_eligible_units_are_replaced():
    strategy = ContinualBackprop(1 / 5, maturity_threshold=0, utility="activation", utility_decay=0.0)
    learner = hidden_layer(
        strategy, incoming=ones(5, 4), outgoing=ones(3, 5), feature=torch.tensor([[1.0, 2, 3, 4, 5]])
    )
    learner.hyper = {**learner.hyper, "maturity_threshold": torch.tensor([7.0])}
    learner.state["hidden.0"]["ages"] = torch.tensor([[0, 6, 7, 20, 3]])  # 7 after this update is not above 7
    call(learner, "after_update")
    assert learner.state["hidden.0"]["ages"].tolist() == [[1, 7, 0, 21, 4]]


@pytest.mark.parametrize("summed, first", [(False, 0), (True, 1)])
def test_the_released_running_sum_ranks_by_the_activity_of_a_lifetime(summed, first):
    """M = (1 - d) (a_1 + a_2): 2 of unit 0 and 1.75 of unit 1; their running means are 1.5 and 1.75, over 1 - d^2."""
    strategy = ContinualBackprop(None, maturity_threshold=0, utility_decay=0.75, upstream_running_sum=summed)
    activities = torch.tensor([[8.0, 0, 8, 8, -8], [0.0, -7, 8, 8, 8]])
    learner = hidden_layer(strategy, incoming=ones(5, 4), outgoing=ones(3, 5), feature=activities[:1])
    call(learner, "after_update", update=1)
    learner.features = {"hidden.0": activities[None, 1:].double()}
    learner.event = {"count": torch.tensor([[1]])}
    strategy.after_update(learner)
    assert replaced(learner) == [first]


def test_the_released_running_sum_neither_decays_nor_starts_afresh():
    strategy = ContinualBackprop(None, maturity_threshold=0, utility_decay=0.75, upstream_running_sum=True)
    activities = torch.tensor([[8.0, 0, 8, 8, 8]])
    learner = hidden_layer(strategy, incoming=ones(5, 4), outgoing=ones(3, 5), feature=activities)
    learner.event = {"count": torch.tensor([[1]])}
    for total in (2, 4, 6):
        strategy.after_update(learner)
        assert replaced(learner) == [1]
        assert learner.state["hidden.0"]["activity_sum"].tolist() == [[total, 0, total, total, total]]
    sizes = torch.tensor([1.0, 9, 2, 0.1, 4])
    learner.parameters["output.weight"] = sizes.expand(1, 3, 5).double()
    learner.features = {"hidden.0": ones(1, 1, 5).double()}
    strategy.after_update(learner)  # by sums 6.25, 0.25, 6.25, 6.25, 6.25 times these sizes
    assert replaced(learner) == [3]


def test_the_random_utility_chooses_every_unit_alike():
    strategy = ContinualBackprop(1 / 5, maturity_threshold=0, utility="random")
    learner = hidden_layer(strategy, incoming=ones(5, 4), outgoing=ones(3, 5), feature=torch.arange(5.0)[None])
    chosen = []
    for t in range(1, 501):
        learner.event = {"count": torch.tensor([[1]])}
        learner.clock = Clock(*[torch.tensor(t)] * 3)
        learner.population.strategies[0].after_update(learner)
        chosen += replaced(learner)
    assert len(chosen) == 500
    assert np.abs(np.bincount(chosen, minlength=5) - 100).max() < 4 * (500 * 0.2 * 0.8) ** 0.5


def test_all_layers_are_judged_before_any_is_touched():
    """Replacing all of layer 1 would change the outgoing weights of layer 0, and with them its ranking."""
    module = net(width=3, depth=2)
    features = {f"hidden.{k}": torch.ones(1, 2, 3) for k in range(2)}
    outgoing = torch.tensor([[[3.0, 1, 2]] * 3])
    parameters = {"hidden.1.weight": outgoing}
    learner = learner_for(module, ContinualBackprop(0.5, utility="weight"), parameters=parameters, features=features)
    learner.hyper = {**learner.hyper, "maturity_threshold": torch.zeros(1)}
    learner.event = {"count": torch.tensor([[1, 3]])}
    learner.population.strategies[0].after_update(learner)
    assert replaced(learner, "hidden.0") == [1]
    assert replaced(learner, "hidden.1") == [0, 1, 2]


# --- what a replacement leaves behind


def replace_one(strategy: ContinualBackprop, module: nn.Module | None = None) -> tuple[Learner, Learner]:
    """The learner of one replica before and after the replacement of unit 2 of TinyNet's five, by its low activity."""
    feature = torch.tensor([[[4.0, 5, 0.5, 6, 7], [6.0, 5, 1.5, 6, 7]]])
    before, learner = (learner_for(module, strategy, features={"hidden": feature}) for _ in range(2))
    for state in (before, learner):
        state.optimizer_state = {"momentum": {name: torch.ones_like(p) for name, p in state.parameters.items()}}
        for name in ("hidden.bias", "norm.weight", "norm.bias"):
            state.parameters[name] = torch.full_like(state.parameters[name], 0.3)
    learner.event = {"count": torch.tensor([[1]])}
    learner.hyper = {**learner.hyper, "maturity_threshold": torch.zeros(1)}
    strategy.after_update(learner)
    assert replaced(learner, "hidden") == [2]
    return before, learner


UNIT = torch.tensor([False, False, True, False, False])


def test_a_replaced_unit_starts_afresh_and_nothing_else_is_touched():
    before, after = replace_one(ContinualBackprop(1.0, utility="activation"))
    old, new = before.parameters, after.parameters
    fresh = new["hidden.weight"][0, 2]
    assert bool((fresh != old["hidden.weight"][0, 2]).all()) and bool((fresh.abs() < 0.5).all())  # U(+-1/sqrt(4))
    assert torch.equal(new["hidden.weight"][0, ~UNIT], old["hidden.weight"][0, ~UNIT])
    for name, first in (("hidden.bias", 0.0), ("norm.weight", 1.0), ("norm.bias", 0.0)):
        assert torch.equal(new[name][0], torch.where(UNIT, first, old[name][0]))
    assert torch.equal(new["output.weight"][0], torch.where(UNIT, 0.0, old["output.weight"][0]))
    assert torch.equal(new["output.bias"], old["output.bias"])
    memory = after.state["hidden"]
    assert memory["ages"][0].tolist() == [1, 1, 0, 1, 1]
    assert memory["utility"][0, 2] == 0 and bool((memory["utility"][0, ~UNIT] > 0).all())
    reported = {tag: value.item() for tag, value in after.reported.items()}
    assert reported == {
        "reinitialized_units": 1,
        "reinitialized_weights": 4 + 3,
        "reinitialized_fraction": pytest.approx(0.2),
    }


@pytest.mark.parametrize("clear", [True, False])
def test_the_optimizers_state_of_replaced_entries_is_cleared_if_asked(clear):
    _, after = replace_one(ContinualBackprop(1.0, utility="activation", clear_optimizer=clear))
    slot = after.optimizer_state["momentum"]
    kept = torch.ones(5) if not clear else (~UNIT).float()
    assert torch.equal(slot["hidden.weight"][0], kept[:, None].expand(5, 4))
    assert torch.equal(slot["output.weight"][0], kept.expand(3, 5))
    for name in ("hidden.bias", "norm.weight", "norm.bias"):
        assert torch.equal(slot[name][0], kept)
    assert bool((slot["output.bias"] == 1).all())


@pytest.mark.parametrize(
    "initialization, bound",
    [
        ("record", 0.5),
        ("default", 0.5),
        ("kaiming_uniform", (2 * 3 / 4) ** 0.5),
        ("xavier_uniform", (2 * 6 / (4 + 5)) ** 0.5),
        ("lecun_uniform", (3 / 4) ** 0.5),
    ],
)
def test_new_weights_come_from_the_record_or_from_the_scheme_named(initialization, bound):
    """The same keyed uniforms, scaled: so one draw shows the bound."""
    _, after = replace_one(ContinualBackprop(1.0, utility="activation", initialization=initialization))
    expected = uniform(bound).draw(after.random, "reinitialize/hidden.weight", (5, 4))[0, 2]
    torch.testing.assert_close(after.parameters["hidden.weight"][0, 2], expected)


def test_a_channel_takes_all_the_columns_it_flattens_into():
    class Flattening(TinyNet):
        def __init__(self) -> None:
            super().__init__(PROBLEM)
            self.norm = nn.Identity()
            self.output = nn.Linear(20, 3)

        def initial_records(self):
            return {name: record for name, record in super().initial_records().items() if "norm" not in name}

        def unit_groups(self):
            (group,) = super().unit_groups()
            reader = (Link("output.weight", 1, block=4),)
            return (UnitGroup(**{**vars(group), "readers": reader, "norm_weight": None, "norm_bias": None}),)

    learner = learner_for(
        Flattening(), ContinualBackprop(1.0, utility="activation"), features={"hidden": ones(1, 2, 5)}
    )
    learner.features["hidden"][..., 3] = 0
    learner.event = {"count": torch.tensor([[1]])}
    learner.hyper = {**learner.hyper, "maturity_threshold": torch.zeros(1)}
    before = learner.parameters["output.weight"]
    learner.population.strategies[0].after_update(learner)
    columns = torch.arange(20)
    assert torch.equal(learner.parameters["output.weight"], torch.where((columns >= 12) & (columns < 16), 0.0, before))


def test_before_update_stands_in_for_a_reset_within_the_backward_pass():
    """The stale gradient then moves the fresh weights; after the update the outgoing weights stay exactly 0."""
    after, before = (
        tiny_population(
            [ContinualBackprop(1 / 6, maturity_threshold=0, timing=timing)],
            module=net(depth=1),
            optimizer=SGD(0.1),
            replicas=1,
        )
        for timing in ("after_update", "before_update")
    )
    plain = run(tiny_population([], module=net(depth=1), optimizer=SGD(0.1), replicas=1), 1)["parameters"]
    start = initial_state(after)["parameters"]
    unit = run(after, 1)["strategies"]["0"]["hidden.0"]["ages"][0] == 0
    outgoing = {name: run(p, 1)["parameters"]["output.weight"][0] for name, p in (("after", after), ("before", before))}
    assert torch.equal(outgoing["after"][:, unit], torch.zeros(3, 1))
    stale = (plain["output.weight"] - start["output.weight"])[0]
    chosen = run(before, 1)["strategies"]["0"]["hidden.0"]["ages"][0] == 0
    torch.testing.assert_close(outgoing["before"][:, chosen], stale[:, chosen], rtol=1e-4, atol=1e-7)
    assert bool((outgoing["before"][:, chosen] != 0).all())


# --- the transfer of the mean contribution to the readers' bias


def silenced(transfer: bool, **options) -> tuple[Tensor, Tensor, Tensor]:
    """Mean pre-activations of the outputs before and after replacing two units, and the outputs' change."""
    module = net(width=6, depth=1, **options)
    strategy = ContinualBackprop(0.5, utility_decay=0.0, transfer_mean_to_bias=transfer)
    learner = learner_for(module, strategy, replicas=2, dtype=torch.float64)
    x = torch.sin(torch.arange(2 * 7 * 4, dtype=torch.float64)).reshape(2, 7, 4)

    def forward() -> tuple[Tensor, dict[str, Tensor]]:
        each = [{name: p[r] for name, p in learner.parameters.items()} for r in range(2)]
        pairs = [torch.func.functional_call(module, each[r], (x[r],)) for r in range(2)]
        return torch.stack([pair[0] for pair in pairs]), {
            name: torch.stack([pair[1][name] for pair in pairs]) for name in pairs[0][1]
        }

    before, learner.features = forward()
    learner.event = {"count": torch.tensor([[2], [2]])}
    learner.hyper = {**learner.hyper, "maturity_threshold": torch.zeros(2)}
    strategy.after_update(learner)
    after, _ = forward()
    return before.mean(dim=1), after.mean(dim=1), (after - before).abs().max()


@pytest.mark.parametrize("options", [{}, {"activation": "tanh"}, {"crelu": True}], ids=["relu", "tanh", "crelu"])
def test_the_transfer_keeps_the_readers_mean_pre_activation(options):
    before, after, change = silenced(True, **options)
    torch.testing.assert_close(after, before, rtol=1e-12, atol=1e-12)
    assert change > 1e-3  # though not the outputs themselves
    before, after, _ = silenced(False, **options)
    assert bool(((after - before).abs() > 1e-3).any())


def test_without_learning_the_replacement_of_silent_units_leaves_the_function_as_it_is():
    module = net(width=6, depth=1)
    strategy = ContinualBackprop(1 / 3, maturity_threshold=0, transfer_mean_to_bias=True)
    population = tiny_population([strategy], module=module, replicas=1, optimizer=SGD(0.0))
    state = initial_state(population)
    state["parameters"]["hidden.0.bias"] = torch.tensor([[0.0, -100, 0, -100, 0, 0]])  # two units that never fire
    x = torch.sin(torch.arange(28.0)).reshape(7, 4)

    def outputs(state):
        return torch.func.functional_call(module, {k: v[0] for k, v in state["parameters"].items()}, (x,))[0]

    end = run(population, 1, state)
    assert torch.nonzero(end["strategies"]["0"]["hidden.0"]["ages"][0] == 0).flatten().tolist() == [1, 3]
    assert torch.equal(outputs(end), outputs(state))


# --- refusals, and the compiled step


@pytest.mark.parametrize(
    "field, value, words",
    [
        ("replacement_rate", 1.5, "at most 1"),
        ("replacement_rate", "1e-4", "must be a number"),
        ("maturity_threshold", 2.5, "must be an integer"),
        ("maturity_threshold", None, "must be an integer"),
        ("utility_decay", 1.0, "below 1"),
        ("utility", "contributon", "Did you mean contribution"),
        ("rounding", "floor", "accumulated, random"),
        ("count", "mature", "eligible, all"),
        ("initialization", "kaiming", "Did you mean kaiming"),
        ("timing", "backward", "after_update, before_update"),
        ("transfer_mean_to_bias", 1, "True or False"),
        ("upstream_running_sum", None, "True or False"),
    ],
)
def test_wrong_values_are_refused_by_name(field, value, words):
    with pytest.raises(UserError, match=f"strategies.ContinualBackprop.{field} is .*{words}"):
        ContinualBackprop(**{field: value})


def test_the_running_sum_is_refused_with_a_utility_that_it_does_not_change():
    words = "upstream_running_sum is True with utility 'weight': it sums the activity in 'contribution'"
    with pytest.raises(UserError, match=words):
        ContinualBackprop(utility="weight", upstream_running_sum=True)


def test_a_module_without_unit_groups_is_refused_with_the_reason():
    module = nn.Sequential(nn.Linear(4, 3))
    with pytest.raises(UserError, match=r"ContinualBackprop replaces units, .* Sequential declares no unit groups"):
        tiny_population([ContinualBackprop()], module=module)


def test_the_transfer_is_refused_where_no_bias_can_take_it():
    class WithoutBias(TinyNet):
        def __init__(self) -> None:
            super().__init__(PROBLEM)
            self.norm, self.output = nn.Identity(), nn.Linear(5, 3, bias=False)

        def initial_records(self):
            return {"output.weight": uniform(1.0), "hidden.weight": uniform(1.0), "hidden.bias": uniform(1.0)}

        def unit_groups(self):
            return tuple(
                UnitGroup(**{**vars(g), "norm_weight": None, "norm_bias": None}) for g in super().unit_groups()
            )

    strategy = ContinualBackprop(transfer_mean_to_bias=True)
    with pytest.raises(UserError, match=r"output.weight, which reads hidden, has no bias"):
        tiny_population([strategy], module=WithoutBias())
    with pytest.raises(UserError, match=r"hidden is normalised"):
        tiny_population([strategy])


def test_the_compiled_step_is_the_eager_one():
    """With the means, the transfer, random rounding and different rates, in float64."""
    each = [
        ContinualBackprop(rate, 2, utility="adaptable_contribution", rounding="random", transfer_mean_to_bias=True)
        for rate in (0.3, None, 0.05)
    ]
    population = tiny_population([each], module=net(depth=1), dtype=torch.float64)
    update = next(t for t in range(4, 40) if event_at(population, 0, t))
    state, event = run(population, update - 1), {"0": event_at(population, 0, update)}
    clock = Clock(*(torch.tensor(update - 1) for _ in range(3)))
    x, y = population.stream.batches(population.stream.prepare(0), clock, 1)

    def advance(state, clock, x, y, event):
        return step(population, state, clock, x, y, {}, event)[0]

    eager = advance(state, clock, x[0], y[0], event)
    compiled = torch.compile(advance, fullgraph=True, dynamic=False)(state, clock, x[0], y[0], event)
    assert (eager["strategies"]["0"]["hidden.0"]["ages"] == 0).any()
    for ours, expected in ((compiled[key], eager[key]) for key in ("parameters", "strategies")):
        map_tree(lambda a, b: torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12), ours, expected)
