"""One task for ever."""

from __future__ import annotations

import pytest
import torch

from lopbench.streams import PermutedInputs, PermutedLabels, Stationary
from tests.streams.common import SEEDS, assert_independent, assert_pure, numbered, numbers, walk


def stationary(seeds: torch.Tensor = SEEDS, **fields: object) -> Stationary:
    return Stationary(numbered(50), seeds, torch.float64, **{"batch_size": 10, **fields})


def test_nothing_changes_but_the_order():
    inputs, labels = walk(stationary(), 0, 20, 3)
    shown = numbers(inputs)
    assert torch.equal(labels, shown % 5)
    assert torch.equal((inputs.flatten(3)[..., 1:] * 255).round().long(), torch.arange(1, 256).expand(20, 3, 10, -1))
    epochs = shown.view(4, 5, 3, 10).movedim(2, 1).flatten(2)
    assert torch.equal(epochs.sort(dim=-1).values, torch.arange(50).expand(4, 3, -1))
    assert len({tuple(order.tolist()) for order in epochs.flatten(0, 1)}) == 12


@pytest.mark.parametrize("split", ["train", "test"])
def test_all_tasks_are_probed_on_the_same_examples(split):
    stream = stationary()
    size = stream.probe_count(split, 0)
    for task in (1, 7):
        shown = [numbers(stream.probe(split, size, at)[0]).sort(dim=1).values for at in (0, task)]
        assert torch.equal(*shown)


def test_the_length_of_tasks_is_for_reports_only():
    short, long = stationary(epochs_per_task=1), stationary(epochs_per_task=3)
    assert (short.steps_per_task, long.steps_per_task) == (5, 15)
    assert all(map(torch.equal, walk(short, 0, 40, 4), walk(long, 0, 40, 4)))


@pytest.mark.parametrize("fields", [{}, {"examples_per_task": 20, "resample_examples": True, "steps_per_task": 3}])
def test_it_is_the_control_of_streams_that_change(fields):
    """The same images in the same order: only what a task changes differs."""
    x, y = walk(stationary(**fields), 0, 12, 4)
    _, permuted_inputs_y = walk(PermutedInputs(numbered(50), SEEDS, torch.float64, batch_size=10, **fields), 0, 12, 4)
    labels = PermutedLabels(numbered(50), SEEDS, torch.float64, **{"batch_size": 10, "steps_per_task": None, **fields})
    permuted_labels_x, _ = walk(labels, 0, 12, 4)
    assert torch.equal(permuted_inputs_y, y) and torch.equal(permuted_labels_x, x)


def test_pure_and_independent():
    assert_pure(stationary(), 0, 17)
    assert_independent(stationary, 0, 12, probe=9)
