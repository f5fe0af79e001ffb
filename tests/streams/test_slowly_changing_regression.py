"""Slowly-changing regression: its bits, its target network, and that it is a function of (seed, step)."""

from __future__ import annotations

from math import comb

import pytest
import torch

from lopbench.errors import UserError
from lopbench.protocols import Problem
from lopbench.streams import SlowlyChangingRegression
from tests.streams.common import SEEDS, assert_independent, assert_pure, compiled_equals_eager, walk


def make(seeds: torch.Tensor = SEEDS, **fields: object) -> SlowlyChangingRegression:
    return SlowlyChangingRegression(**{"data": None, "seeds": seeds, "dtype": torch.float32, **fields})


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("change", ["redraw", "flip_one"])
def test_pure_and_independent(change, batch_size):
    fields = {"change": change, "period": 7, "batch_size": batch_size}
    assert_pure(make(**fields), 0, 31)
    assert_pure(make(**fields), 70, 80)
    assert_independent(lambda seeds: make(seeds, **fields), 7, 30, probe=11)


def test_a_task_is_a_period():
    stream = make()
    assert stream.steps_per_task == 10_000 and stream.problem == Problem((20,), 1, "squared_error")
    assert [stream.next_boundary(step) for step in (0, 9_999, 10_000)] == [10_000, 10_000, 20_000]
    inputs, targets = walk(make(period=50), 0, 200, 50)
    assert (
        inputs.shape == (200, 3, 1, 20) and targets.shape == (200, 3, 1, 1) and set(inputs.unique().tolist()) == {0, 1}
    )
    slow = inputs[:, :, 0, :15].view(4, 50, 3, 15)
    assert torch.equal(slow, slow[:, :1].expand_as(slow))  # constant within a task
    assert (slow[1:, 0] != slow[:-1, 0]).any(dim=-1).all()


def test_targets_are_those_of_the_network_and_whole_numbers():
    stream = make(period=50, dtype=torch.float64, batch_size=2)
    inputs, targets = walk(stream, 30, 120, 8)
    expected = stream.target(inputs.movedim(1, 0).flatten(1, 2)).view(3, 90, 2).movedim(1, 0)
    assert torch.equal(targets[..., 0], expected.double()) and torch.equal(targets, targets.round())
    for weights in (stream.target.weight, stream.target.bias, stream.target.output_weight, stream.target.output_bias):
        assert set(weights.unique().tolist()) == {-1, 1}


def test_bits_are_fair_and_the_fast_ones_independent():
    stream = make(torch.arange(20), period=100)
    bits = walk(stream, 0, 4000, 100)[0][:, :, 0].double()  # 80,000 draws of a fast bit, 800 of a slow one
    assert (bits[..., 15:].mean(dim=(0, 1)) - 0.5).abs().max() < 5 * 0.5 / 80_000**0.5
    assert (bits[..., :15].mean(dim=(0, 1)) - 0.5).abs().max() < 5 * 0.5 / 800**0.5
    fast = bits[..., 15:].flatten(0, 1) - 0.5
    assert (4 * fast.T @ fast / len(fast) - torch.eye(5)).abs().max() < 0.02
    assert (4 * (fast[:-20] * fast[20:]).mean(dim=0)).abs().max() < 0.02  # from one step to the next


def test_flip_one_negates_one_bit_a_task_any_of_them():
    stream = make(torch.arange(10), change="flip_one")
    bits = torch.stack([stream.slow(task) for task in range(61)])
    flips = bits[1:] != bits[:-1]
    assert (flips.sum(dim=-1) == 1).all()
    assert set(flips.long().argmax(dim=-1).unique().tolist()) == set(range(15))
    assert torch.equal(bits[37], make(torch.arange(10), change="flip_one").slow(37))  # without the tasks before


def test_redraw_draws_every_bit():
    bits = torch.stack([make(torch.arange(50)).slow(task) for task in range(40)])
    assert abs((bits[1:] != bits[:-1]).sum(dim=-1).double().mean() - 7.5) < 0.2


@pytest.mark.parametrize(("threshold", "variance", "tolerance"), [("upstream", 3.9, 0.2), ("paper", 4.8, 0.3)])
def test_variance_of_the_target_over_100_networks(threshold, variance, tolerance):
    stream = make(torch.arange(100), threshold=threshold)
    targets = torch.stack([stream.prepare(10_000 * task)["targets"] for task in range(100)])
    assert abs(targets.var() - variance) < tolerance  # pooled over networks, tasks and inputs; of the published code


@pytest.mark.parametrize(("threshold", "least"), [("upstream", {1: 14, -1: 17}), ("paper", {1: 14, -1: 15})])
def test_a_unit_fires_from_so_many_agreeing_inputs_on(threshold, least):
    """With M inputs that agree with the signs of a unit's weights; its share of all inputs is a binomial tail."""
    stream = make(torch.arange(1), threshold=threshold, slow_bits=8, inputs=20)
    numbers = torch.arange(2**20)
    x = ((numbers[:, None] >> torch.arange(20)) & 1).float()
    target = stream.target
    for unit in range(3):
        sign = int(target.bias[0, unit])
        alone = type(target)(
            target.weight[0, unit : unit + 1],
            target.bias[0, unit : unit + 1],
            torch.ones(1),
            torch.zeros(()),
            0.7,
            threshold,
        )
        tail = sum(comb(20, agreeing) for agreeing in range(least[sign], 21))
        assert int(alone(x).sum()) == tail


def test_probe_shows_what_the_task_shows_first():
    stream = make(period=20, batch_size=2)
    inputs, targets = stream.probe("train", 33, task=3)
    x, y = walk(stream, 60, 80, 20)
    assert torch.equal(inputs, x.movedim(1, 0).flatten(1, 2)[:, :33])
    assert torch.equal(targets, y.movedim(1, 0).flatten(1, 2)[:, :33])
    others, _ = stream.probe("test", 33, task=3)
    assert torch.equal(others[..., :15], inputs[..., :15]) and not torch.equal(others, inputs)
    assert stream.probe("train", 100, task=3)[0].shape == (3, 100, 20)  # longer than the task


@pytest.mark.parametrize("slow_bits", [8, 20])
def test_any_number_of_fast_bits_up_to_the_bound(slow_bits):
    inputs, targets = walk(make(slow_bits=slow_bits, period=10), 0, 20, 10)
    assert inputs.shape == (20, 3, 1, 20) and targets.isfinite().all()


def test_compiled():
    compiled_equals_eager(make(batch_size=3), start=5, n=4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"period": 1e4}, r"streams\.SlowlyChangingRegression\.period is 10000\.0: it must be an integer at least 1\."),
        ({"slow_bits": 21}, r"slow_bits is 21: of 20 inputs it must leave 0 to 12 fast ones, so it must be 8 to 20\."),
        ({"slow_bits": 7}, r"slow_bits is 7"),
        ({"change": "flip"}, r"change is 'flip': it must be one of redraw, flip_one\. Did you mean flip_one"),
        ({"threshold": 0.7}, r"threshold is 0\.7: it must be one of upstream, paper"),
        ({"beta": None}, r"beta is None: it must be a number"),
        ({"data": 1}, r"makes its own data: leave run\.source unbound"),
    ],
)
def test_refused(fields, message):
    with pytest.raises(UserError, match=message):
        make(**fields)
