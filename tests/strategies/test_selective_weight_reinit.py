"""Selective weight reinitialisation: what is chosen, what it becomes, and when."""

import pytest
import torch
from scipy import stats

from lopbench.errors import UserError
from lopbench.initializers import constant, normal, uniform
from lopbench.learner import initial_state, make_block
from lopbench.protocols import Clock
from lopbench.strategies.selective_weight_reinit import SelectiveWeightReinit
from tests.helpers import Tensors, call, event_at, learner_for, run, tiny_population


def swr(**fields):
    return SelectiveWeightReinit(**{"utility": "magnitude", "period": 1, "reinit_factor": 0.5, **fields})


SEVEN = constant(7.0)


def learner_with(values, strategies, record=SEVEN, gradients=None):
    """The learner of a parameter "a" with these values `[R, ...]`; reinitialised entries become 7."""
    values = torch.as_tensor(values, dtype=torch.float64)
    given = {"a": torch.as_tensor(gradients, dtype=torch.float64)} if gradients is not None else None
    module = Tensors({"a": tuple(values.shape[1:])}, {"a": record})
    return learner_for(module, strategies, parameters={"a": values}, gradients=given)


def replaced(learner, before):
    """Indices of replica 0's changed entries."""
    return set((learner.parameters["a"] != before)[0].flatten().nonzero().flatten().tolist())


@pytest.mark.parametrize(
    "utilities, factor, expected",
    [
        ([0, 1, 2, 3], 1.0, {0, 1}),
        ([0, 1, 2, 3], 0.5, {0}),
        ([0, 1, 2, 3], 2 / 3 + 1e-9, {0, 1}),  # 2/3 of the mean 1.5 is 1
        ([0, 1, 2, 3], 0.0, {0}),  # a utility of exactly 0 always goes
        ([0, 0, 0, 0], 0.1, {0, 1, 2, 3}),
        ([0, 0, 0, 0], 0.0, {0, 1, 2, 3}),
    ],
)
def test_threshold_takes_every_entry_up_to_the_factor_times_the_mean(utilities, factor, expected):
    learner = learner_with([utilities], swr(reinit_factor=factor))
    before = learner.parameters["a"]
    call(learner, "after_update")
    assert replaced(learner, before) == expected


@pytest.mark.parametrize(
    "size, factor, possible, mean", [(10, 0.25, {2, 3}, 2.5), (400, 0.0125, {5}, 5), (7, 1.0, {7}, 7)]
)
def test_proportional_takes_the_lowest_with_stochastic_rounding(size, factor, possible, mean):
    values = torch.linspace(1, 2, size).flip(0).expand(1, size)
    counts = []
    for update in range(1, 401):
        learner = learner_with(values, swr(pruning="proportional", reinit_factor=factor))
        before = learner.parameters["a"]
        call(learner, "after_update", update)
        chosen = replaced(learner, before)
        assert chosen == set(range(size - len(chosen), size))  # values fall: the last are the lowest
        counts.append(len(chosen))
    assert set(counts) == possible
    assert abs(sum(counts) / len(counts) - mean) < 0.1  # four standard errors of a fair coin


def test_events_come_every_period_and_replace_the_factor_of_all_entries():
    """tau = 3: events at updates 3, 6, 9; 1000 entries at rho = 0.1: 100 an event."""
    learner = learner_with(
        torch.rand(1, 1000) + 1, swr(pruning="proportional", reinit_factor=0.1, period=3), normal(1.0)
    )
    counts = []
    for update in range(1, 10):
        before = learner.parameters["a"]
        call(learner, "after_update", update)
        counts.append(len(replaced(learner, before)))
    assert counts == [0, 0, 100, 0, 0, 100, 0, 0, 100]


def test_the_utilities_are_the_published_ones():
    values, gradients = [[[4.0, -3.0, 2.0, -1.0]]], [[[0.1, 0.2, -5.0, 5.0]]]
    for utility, lowest in (("gradient", {0, 1}), ("magnitude", {2, 3})):  # |g w| is 0.4, 0.6, 10, 5
        learner = learner_with(values, swr(utility=utility, pruning="proportional"), gradients=gradients)
        before = learner.parameters["a"]
        call(learner, "after_update")
        assert replaced(learner, before) == lowest


def test_random_utility_takes_every_entry_equally_often():
    hits = torch.zeros(8)
    for update in range(1, 401):
        strategy = swr(utility="random", pruning="proportional", reinit_factor=0.25)
        learner = learner_with(torch.arange(10.0, 18.0)[None], strategy)
        before = learner.parameters["a"]
        call(learner, "after_update", update)
        hits += (learner.parameters["a"] != before)[0]
    assert hits.sum() == 800 and (hits - 100).abs().max() < 40  # binomial: standard deviation 8.7


def test_only_chosen_entries_move_and_every_tensor_is_ranked_by_itself():
    shapes = {"matrix": (6, 5), "bias": (6,), "kernel": (4, 2, 3, 3), "scalar": ()}
    learner = learner_for(
        Tensors(shapes, {name: normal(1.0) for name in shapes}), swr(pruning="proportional"), replicas=3
    )
    before = dict(learner.parameters)
    call(learner, "after_update")
    total = torch.zeros(3, dtype=torch.int64)
    for name, start in before.items():
        moved = (learner.parameters[name] != start).reshape(3, -1)
        utility = start.abs().reshape(3, -1)
        for r in range(3):
            count = int(moved[r].sum())
            assert count in {utility.shape[1] // 2, (utility.shape[1] + 1) // 2}
            assert set(moved[r].nonzero().flatten().tolist()) == set(utility[r].argsort()[:count].tolist())
        total += moved.sum(dim=1)
    assert torch.equal(learner.reported["reinitialized_weights"], total)
    torch.testing.assert_close(learner.reported["reinitialized_fraction"], total / (30 + 6 + 72 + 1))


@pytest.mark.parametrize(
    "record, cdf", [(uniform(0.3), stats.uniform(-0.3, 0.6).cdf), (normal(0.2, 1.0), stats.norm(1, 0.2).cdf)]
)
def test_resampled_values_come_from_the_initial_distribution(record, cdf):
    learner = learner_with(torch.zeros(1, 20, 100), swr(), record)
    call(learner, "after_update")
    assert stats.kstest(learner.parameters["a"].flatten().numpy(), cdf).pvalue > 1e-3


def test_values_differ_between_events_replicas_and_parameters():
    learner = learner_for(Tensors({"a": (50,), "b": (50,)}), swr(utility="random", reinit_factor=3.0), replicas=2)
    seen = []
    for update in (1, 2):
        call(learner, "after_update", update)
        seen += [*learner.parameters["a"], *learner.parameters["b"]]
    assert torch.stack(seen).unique().numel() == 8 * 50


def test_mean_reinitialisation_takes_the_mean_of_the_record():
    learner = learner_with([[0.0, 1.0, 0.0]], swr(reinitialization="mean", reinit_factor=0.1), normal(0.5, 1.0))
    call(learner, "after_update")
    assert learner.parameters["a"].tolist() == [[1.0, 1.0, 1.0]]


def test_the_relu_initialisation_uses_its_gain_for_weights_and_leaves_constants():
    records = {"weight": normal(1e-3), "kernel": uniform(1e-3), "bias": uniform(1e-3), "zero": constant(0.0)}
    module = Tensors({"weight": (400, 50), "kernel": (100, 10, 3, 3), "bias": (30,), "zero": (3, 3)}, records)
    learner = learner_for(module, swr(initialization="relu", utility="random", reinit_factor=3.0), replicas=1)
    call(learner, "after_update")
    for name, fan_in in (("weight", 50), ("kernel", 90)):
        assert (
            stats.kstest(learner.parameters[name].flatten().numpy(), stats.norm(0, (2 / fan_in) ** 0.5).cdf).pvalue
            > 1e-3
        )
    assert learner.parameters["bias"].abs().max() <= 1e-3 and not learner.parameters["zero"].any()


def test_average_utilities_decay_every_step_and_are_zeroed_for_a_tensor_with_replacements():
    decay, period = 0.6, 3
    strategy = swr(utility="gradient", utility_decay=decay, period=period, reinit_factor=0.4)
    learner = learner_for(
        Tensors({"a": (12,), "b": (2,)}, {"a": constant(1.0), "b": constant(1.0)}), strategy, replicas=1
    )
    averages = {"a": torch.zeros(12), "b": torch.zeros(2)}
    draw = torch.Generator().manual_seed(0)
    for update in range(1, 8):
        for name, shape in (("a", (1, 12)), ("b", (1, 2))):
            learner.gradients[name] = torch.rand(shape, generator=draw) + (0.8 if name == "b" else 0)  # b: never below
            learner.parameters[name] = torch.rand(shape, generator=draw) + (0.8 if name == "b" else 0)
        before = dict(learner.parameters)
        expected = {}
        for name in averages:
            averages[name] = decay * averages[name] + (1 - decay) * (learner.gradients[name] * before[name]).abs()[0]
            least = averages[name] <= 0.4 * averages[name].mean()
            expected[name] = least if update % period == 0 else torch.zeros_like(least)
            if expected[name].any():
                averages[name] = torch.zeros_like(averages[name])
        call(learner, "after_update", update)
        for name in averages:
            assert torch.equal((learner.parameters[name] != before[name])[0], expected[name])
            torch.testing.assert_close(learner.state[name][0], averages[name])
        assert not expected["b"].any() and (expected["a"].any() or update % period)


def test_without_a_decay_there_is_no_state_and_no_work_between_events():
    learner = learner_with([[0.0, 1.0]], swr(period=5))
    assert learner.state == {}
    before = learner.parameters["a"]
    call(learner, "after_update", update=4)
    assert learner.parameters["a"] is before and not learner.reported


def test_replicas_have_their_own_period_factor_and_decay_and_none_is_off():
    strategies = [
        swr(period=2, reinit_factor=1.0),
        swr(period=3, reinit_factor=0.4),
        swr(period=None),
        swr(reinit_factor=None),
        swr(period=3, reinit_factor=1.0, utility_decay=0.5),
    ]
    values = torch.tensor([1.0, 2.0, 3.0, 4.0]).expand(5, 4)
    learner = learner_with(values, strategies, constant(50.0))
    found = []
    for update in range(1, 7):
        learner.parameters["a"] = values.double()
        call(learner, "after_update", update)
        found.append((learner.parameters["a"] != values).sum(dim=1).tolist())
    assert found[1] == [2, 0, 0, 0, 0]  # <= 1 x 2.5
    assert found[2] == [0, 1, 0, 0, 2]  # <= 0.4 x 2.5: the 1
    assert found[5] == [2, 1, 0, 0, 2]
    assert sum(map(sum, found)) == 2 + 3 + 2 + 5


@pytest.mark.parametrize("pruning", ["threshold", "proportional"])
def test_a_population_in_which_all_are_off_has_no_events(pruning):
    off = [swr(pruning=pruning, period=None), swr(pruning=pruning, reinit_factor=None)]
    population = tiny_population([off])
    assert list(off[0].events(population, population.hyper["strategies.0"])) == []
    plain, beside = run(tiny_population(), 3), run(tiny_population([[off[1], swr(pruning=pruning)]]), 3)
    for name, value in plain["parameters"].items():
        assert torch.equal(beside["parameters"][name][0], value[0])


@pytest.mark.parametrize("clear", [False, True])
def test_the_optimizers_state_is_kept_unless_asked_otherwise(clear):
    fields = {"period": 4, "pruning": "proportional", "reinit_factor": 0.5}
    with_it = run(tiny_population([swr(clear_optimizer=clear, **fields)]), 4)
    plain = run(tiny_population(), 4)
    for name, value in plain["parameters"].items():
        moved = with_it["parameters"][name] != value
        momentum, reference = with_it["optimizer"]["momentum"][name], plain["optimizer"]["momentum"][name]
        assert torch.equal(momentum, torch.where(moved, 0.0, reference) if clear else reference) or not moved.any()


def test_a_block_with_an_event_can_be_captured_whole():
    """With every branch taken, in one graph without a break: nothing waits for the host."""
    population = tiny_population([swr(utility="gradient", utility_decay=0.9, period=2, pruning="proportional")])
    event = {"0": event_at(population, 0, 2)}
    arguments = (
        run(population, 1),
        Clock(torch.tensor(1), torch.tensor(0), torch.tensor(1)),
        population.stream.prepare(1),
        event,
    )
    block = make_block(population, 1)
    eager = block(*arguments)[0]
    captured = torch.compile(block, fullgraph=True, backend="eager")(*arguments)[0]
    assert eager["online"]["reinitialized_weights"].min() > 20
    for name, value in eager["parameters"].items():
        torch.testing.assert_close(captured["parameters"][name], value, rtol=1e-5, atol=1e-6)


def test_a_replica_does_the_same_alone_and_among_others():
    strategy = swr(utility="random", pruning="proportional", reinit_factor=0.3, period=2, utility_decay=0.5)
    alone = run(tiny_population([strategy], seeds=[5], dtype=torch.float64), 6)
    among = run(tiny_population([strategy], seeds=[9, 2**40, 5], dtype=torch.float64), 6)
    for name, value in alone["parameters"].items():
        torch.testing.assert_close(among["parameters"][name][2], value[0], rtol=1e-9, atol=1e-12)


def test_its_state_leads_with_the_replicas():
    population = tiny_population([[swr(utility_decay=0.5), swr()]])
    state = initial_state(population)["strategies"]["0"]
    assert {name: value.shape for name, value in state.items()} == {
        n: p.shape for n, p in run(population, 0)["parameters"].items()
    }


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"reinit_factor": -0.1}, "reinit_factor is -0.1: it must be a number at least 0"),
        ({"reinit_factor": 1.5, "pruning": "proportional"}, "reinit_factor is 1.5: .* at most 1"),
        ({"period": 2.5}, "period is 2.5: it must be an integer at least 1"),
        ({"period": "7"}, "period is '7': it must be an integer"),
        ({"period": 0}, "period is 0: .*, or None to switch it off"),
        ({"utility_decay": 1.0}, "utility_decay is 1.0: .* below 1"),
        ({"utility": "magntude"}, "utility is 'magntude'.* Did you mean magnitude"),
        ({"clear_optimizer": 1}, "clear_optimizer is 1: it must be True or False"),
    ],
)
def test_wrong_values_are_refused(fields, message):
    with pytest.raises(UserError, match="strategies.SelectiveWeightReinit." + message):
        SelectiveWeightReinit(**fields)
