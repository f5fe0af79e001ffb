"""The laws of the population, in every executor: each test fails without its law.

On a CPU a captured block is not recorded; the same buffers are advanced in place, eagerly.
"""

import dataclasses
import functools
import math

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from lopbench.architectures.mlp import MLP
from lopbench.events import Events
from lopbench.executors import Looped, Stacked, stretch
from lopbench.learner import initial_state
from lopbench.optimizers.adam import Adam
from lopbench.optimizers.sgd import SGD
from lopbench.population import Population, map_tree, slice_replicas
from lopbench.protocols import Clock, Problem
from lopbench.strategies.continual_backprop import ContinualBackprop
from lopbench.strategies.init_regularization import L2Init
from lopbench.strategies.selective_weight_reinit import SelectiveWeightReinit
from lopbench.strategies.shrink_and_perturb import ShrinkAndPerturb
from lopbench.training import Plan, train
from tests.helpers import TinyStream, tiny_population

SEEDS = [3, 2**40 + 1, 77, -5]
STRATEGIES = (
    SelectiveWeightReinit(period=7, reinit_factor=0.5),
    ContinualBackprop(replacement_rate=0.05, maturity_threshold=3),
    ShrinkAndPerturb(perturb_std=1e-3),
    L2Init(l2_weight=1e-3),
)


def population(seeds=SEEDS, dtype=torch.float64, strategies=STRATEGIES, **options) -> Population:
    module = MLP(Problem((4,), 3, "cross_entropy"), width=6, depth=1)
    return tiny_population(strategies, module=module, seeds=seeds, dtype=dtype, **options)


@functools.cache
def executor(replicas: int, kind=Stacked, block="eager", block_steps=2):
    """One executor for every population of `STRATEGIES` with so many replicas: what else differs is in the state."""
    return kind(population(SEEDS[:replicas]), block_steps if replicas > 1 else 1, block)


def trained(population: Population, updates: int, block="eager", through=None, state=None, step=0):
    """The state after `updates` more updates, through an executor."""
    if block == "captured":  # whose buffers are one population's
        through = Stacked(population, 2, block)
    through = through or executor(population.replicas, block=block)
    state = initial_state(population) if state is None else state
    clock = Clock(torch.tensor(step), torch.tensor(0), torch.tensor(step))
    events = Events(population).until(step, step + updates)
    return stretch(through, state, clock, updates, population.stream.prepare(step), events)


def leaves(tree) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    map_tree(found.append, tree)
    return found


def assert_equal(a, b, bits=True):
    for x, y in zip(leaves(a), leaves(b), strict=True):
        if bits:
            assert torch.equal(x, y)
        else:
            torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-9)


EXECUTORS = pytest.mark.parametrize("block", ["eager", "compiled", "captured"])


@EXECUTORS
def test_law_1_a_replica_alone_is_the_replica_among_others(block):
    """40 steps in float64 with every kind of random number in use: neither R nor the index enters."""
    together = trained(population(), 40, block=block)
    for index in (0, 2):
        alone = trained(population([SEEDS[index]]), 40, block=block)
        assert_equal(slice_replicas(together, slice(index, index + 1)), alone, bits=False)


def test_law_1_executors_agree():
    """Eager, compiled and replica by replica, in blocks of any length: equal up to reassociation."""
    reference = trained(population(), 40, through=executor(4, block_steps=1))
    sevens = trained(population(), 40, through=executor(4, block_steps=7))
    assert_equal(sevens["parameters"], reference["parameters"], bits=True)
    assert_equal(trained(population(), 40, through=executor(4, Looped, block_steps=3)), reference, bits=False)
    assert_equal(trained(population(), 40, block="compiled"), reference, bits=False)


def test_law_1_the_same_run_again_has_the_same_bits():
    assert_equal(trained(population(), 20), trained(population(), 20))


def test_law_1_cutting_the_run_elsewhere_changes_nothing():
    """A stretch of 40 is one of 13, then one of 27; only the window's sums are added up in another order."""
    p = population()
    part = trained(p, 13)
    cut, whole = trained(p, 27, state=part, step=13), trained(p, 40)
    assert_equal(cut.pop("online"), whole.pop("online"), bits=False)
    assert_equal(cut, whole)


@EXECUTORS
def test_law_1_a_replica_that_turns_non_finite_is_frozen_whole_and_harms_no_other(block):
    sick = population()
    sick.hyper["optimizer"]["learning_rate"] = np.array([0.1, 1e200, 0.1, 0.1])
    end = trained(sick, 30, block=block)
    assert end["alive"].tolist() == [True, False, True, True]
    died = int(end["died_at"][1])
    assert 0 <= died < 10
    assert all(bool(torch.isfinite(leaf).all()) for leaf in leaves(end["parameters"]))
    before = trained(sick, died, block=block)  # the updates it completed, and nothing since
    assert_equal(slice_replicas(end["parameters"], slice(1, 2)), slice_replicas(before["parameters"], slice(1, 2)))
    assert end["online"]["steps"].tolist() == [30, died, 30, 30]
    healthy = trained(population(SEEDS[:1]), 30, block=block)
    assert_equal(slice_replicas(end, slice(0, 1))["parameters"], healthy["parameters"], bits=False)


def test_law_1_clipping_is_per_replica():
    """A replica below the limit is as if nothing were clipped; one above has its gradient scaled to the limit."""
    free = population(strategies=(), optimizer=SGD(learning_rate=1.0))
    start = initial_state(free)["parameters"]
    moved = _norms(start, trained(free, 1, through=Stacked(free, 1))["parameters"])
    limits = np.array([math.nan, float(moved[1]) / 2, float(moved[2]) * 2, float(moved[3]) / 4])
    clipped = dataclasses.replace(free, max_gradient_norm=limits)
    found = _norms(start, trained(clipped, 1, through=Stacked(clipped, 1))["parameters"])
    expected = moved * torch.tensor([1, 1 / 2, 1, 1 / 4])
    torch.testing.assert_close(found, expected.double())


def _norms(a, b):
    return sum((a[name] - b[name]).flatten(1).square().sum(dim=1) for name in a).sqrt()


@EXECUTORS
def test_law_2_the_batch_at_a_step_depends_on_seed_and_step_only(block):
    """Going on from a saved state with new parts, as a resume does, gives the bits of the run never stopped."""
    saved = trained(population(), 16, block=block)
    resumed = trained(population(), 14, state=saved, step=16, block=block)
    assert_equal(resumed, trained(population(), 30, block=block))


def test_law_3_reinitialised_values_come_from_the_initial_record():
    """A parameter reset in whole follows its record's distribution, and is a new draw."""
    p = population(
        SEEDS[:1],
        strategies=(SelectiveWeightReinit(utility="random", pruning="proportional", reinit_factor=1.0, period=1),),
    )
    start, end = initial_state(p)["parameters"], trained(p, 1, through=Stacked(p, 1))["parameters"]
    for name, record in p.records.items():
        if record.scale:
            assert not torch.isclose(start[name], end[name]).any()
        else:
            assert bool((end[name] == record.mean).all())


def test_law_4_nothing_in_a_block_waits_for_the_host():
    """The block runs on tensors without values: reading one back, or a shape that depends on data, would raise.

    (In the compiled executor the same would break the full graph, and every compiled test here.)
    """
    p = population()
    start = initial_state(p)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        state = map_tree(mode.from_tensor, start)
        clock = Clock(*(mode.from_tensor(torch.tensor(value)) for value in (0, 0, 0)))
        events = [
            (
                3,
                map_tree(
                    mode.from_tensor,
                    {
                        "0": {"due": torch.ones(4, dtype=torch.bool)},
                        "1": {"count": torch.ones(4, 1, dtype=torch.int64)},
                    },
                ),
            )
        ]
        stretch(Stacked(p, 2), state, clock, 5, p.stream.prepare(0), events)


@EXECUTORS
def test_law_5_hyperparameters_may_differ_across_replicas(block):
    """Numbers, periods and off (None) side by side equal the replicas trained by themselves."""
    swr = [(7, 0.5), (5, 0.1), (None, 0.5), (7, None)]
    cbp = [(0.05, 3), (None, 3), (0.2, 8), (0.1, 1)]
    rates = [0.1, 0.01, 0.2, 0.05]

    def some(which: range) -> Population:
        strategies = (
            [SelectiveWeightReinit(period=swr[i][0], reinit_factor=swr[i][1]) for i in which],
            [ContinualBackprop(replacement_rate=cbp[i][0], maturity_threshold=cbp[i][1]) for i in which],
            *STRATEGIES[2:],
        )
        made = population([SEEDS[i] for i in which], strategies=strategies)
        made.hyper["optimizer"]["learning_rate"] = np.array([rates[i] for i in which])
        return made

    end = trained(some(range(4)), 40, block=block)
    for i in range(4):
        alone = trained(some(range(i, i + 1)), 40, block=block)
        assert_equal(slice_replicas(end["parameters"], slice(i, i + 1)), alone["parameters"], bits=False)


def test_structure_may_not_differ_within_a_population():
    with pytest.raises(ValueError, match="utility is 'gradient' in one replica and 'magnitude' in another"):
        population(strategies=[[SelectiveWeightReinit(), SelectiveWeightReinit(utility="magnitude")] * 2])


def test_metrics_change_nothing():
    """A run that measures at every chance ends with the bits of one that measures nothing."""
    from lopbench.metrics.magnitudes import GradientMagnitude, WeightMagnitude
    from lopbench.metrics.ranks import Ranks
    from lopbench.metrics.units import DeadUnits, DormantUnits

    metrics = (
        DeadUnits(every=10),
        DormantUnits(every=10),
        Ranks(every=10),
        WeightMagnitude(every=10),
        GradientMagnitude(every=10),
    )
    records: list = []
    quiet = _run(population(steps_per_task=20), ())
    measured = _run(population(steps_per_task=20), metrics, records)
    assert_equal(
        {k: quiet[k] for k in ("parameters", "optimizer", "strategies")},
        {k: measured[k] for k in ("parameters", "optimizer", "strategies")},
    )
    assert {record.step for record in records if record.tag == "units/dead"} == {10, 20, 30, 40}


def _run(population, metrics, records=None):
    found = [] if records is None else records
    return train(population, Stacked(population, 10), Plan(40, 10, metrics), found.extend)


@pytest.mark.parametrize("optimizer", [SGD(learning_rate=0.1), Adam(learning_rate=0.01)])
def test_a_population_of_one_is_a_plain_torch_loop(optimizer):
    """The whole machinery against a hand-written loop with torch's optimizer, 30 steps in float64."""
    p = population(SEEDS[:1], strategies=(), optimizer=optimizer)
    start = slice_replicas(initial_state(p)["parameters"], slice(0, 1))
    module = MLP(p.stream.problem, width=6, depth=1).double()
    module.load_state_dict({name: value[0] for name, value in start.items()})
    kind = torch.optim.SGD if isinstance(optimizer, SGD) else torch.optim.Adam
    rule = kind(module.parameters(), lr=optimizer.learning_rate)
    stream = TinyStream(torch.tensor(SEEDS[:1]), dtype=torch.float64)
    for step in range(30):
        clock = Clock(torch.tensor(step), torch.tensor(0), torch.tensor(step))
        x, y = stream.batches(stream.prepare(0), clock, 1)
        rule.zero_grad()
        torch.nn.functional.cross_entropy(module(x[0, 0])[0], y[0, 0]).backward()
        rule.step()
    end = trained(p, 30, through=Stacked(p, 10))["parameters"]
    for name, value in module.named_parameters():
        torch.testing.assert_close(end[name][0], value.detach())
