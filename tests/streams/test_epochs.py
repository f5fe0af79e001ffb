"""The cursor that permuted inputs, random labels and permuted labels share."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from lopbench.errors import UserError
from lopbench.protocols import Dataset, Problem
from lopbench.streams import HorizontalFlip, PermutedInputs, PermutedLabels, RandomCrop, RandomLabels, Stationary
from lopbench.streams.augmentations import rearranged, source_pixels
from tests.streams.common import (
    SEEDS,
    assert_independent,
    assert_pure,
    assert_resumes,
    assert_tables_keep_their_shapes,
    boundaries,
    clock_at,
    compiled_equals_eager,
    generated,
    numbered,
    numbers,
    walk,
    walk_task,
)


def plain(data: Dataset, **fields: object) -> PermutedLabels:
    """The data as they are: labels of the first task are not permuted."""
    fields = {"permute_first_task": False, "steps_per_task": None, "dtype": torch.float64, **fields}
    return PermutedLabels(data, SEEDS, **fields)


STREAMS = {
    "permuted inputs": lambda seeds: PermutedInputs(
        generated(), seeds, torch.float32, batch_size=7, steps_per_task=8, examples_per_task=25, resample_examples=True
    ),
    "random labels": lambda seeds: RandomLabels(
        generated(), seeds, torch.float32, batch_size=4, epochs_per_task=2, examples_per_task=16, drop_tail_early=True
    ),
    "permuted labels": lambda seeds: PermutedLabels(
        generated(), seeds, torch.float32, batch_size=3, steps_per_task=30, reshuffle_each_epoch=False
    ),
}


@pytest.mark.parametrize("name", STREAMS)
def test_what_is_seen_at_a_step_does_not_depend_on_how_it_was_reached(name):
    stream = STREAMS[name](SEEDS)
    assert_pure(stream, 0, 2 * stream.steps_per_task + 5)
    assert_resumes(STREAMS[name], stream.steps_per_task + 3, stream.steps_per_task + 9)


@pytest.mark.parametrize("name", STREAMS)
def test_a_replica_sees_the_same_alone_and_among_others(name):
    assert_independent(STREAMS[name], 0, 20, probe=6)


@pytest.mark.parametrize("batch_size", [5, 10])
def test_each_example_is_shown_once_an_epoch_in_a_fresh_order(batch_size):
    stream = plain(numbered(50), batch_size=batch_size, epochs_per_task=3)
    steps = 50 // batch_size
    assert stream.steps_per_task == 3 * steps and stream.epoch_length(0) == steps
    inputs, labels = walk(stream, 0, 3 * steps, 4)
    shown = numbers(inputs)
    assert torch.equal(labels, shown % 5)
    epochs = shown.view(3, steps, len(SEEDS), batch_size).movedim(2, 1).flatten(2)  # [epoch, R, 50]
    assert torch.equal(epochs.sort(dim=-1).values, torch.arange(50).expand(3, len(SEEDS), -1))
    assert len({tuple(order.tolist()) for order in epochs.flatten(0, 1)}) == 3 * len(SEEDS)


def test_a_remainder_is_left_out_of_an_epoch_and_another_one_of_the_next():
    stream = plain(numbered(50), batch_size=16, epochs_per_task=2)
    assert stream.epoch_length(0) == 3
    shown = numbers(walk(stream, 0, 6, 1)[0][:, 0]).view(2, 48)
    missing = [set(range(50)) - set(epoch.tolist()) for epoch in shown]
    assert len(missing[0]) == len(missing[1]) == 2 and missing[0] != missing[1]


@pytest.mark.parametrize(
    ("examples", "batch_size", "steps", "batches", "reshuffles"),  # measured on the published code of L2 Init
    [
        (10_000, 16, 625, 624, 2),
        (1200, 16, 30_000, 74, 406),
        (1200, 100, 120, 11, 11),
        (2500, 32, 780, 78, 10),
        (500, 32, 780, 15, 52),
    ],
)
def test_cursor_that_ends_an_epoch_early(examples, batch_size, steps, batches, reshuffles):
    data = generated(train_size=examples)
    stream = plain(data, batch_size=batch_size, steps_per_task=steps, drop_tail_early=True)
    assert stream.epoch_length(0) == batches
    starts = boundaries(stream, 2 * steps)
    assert steps in starts  # a task begins with a new epoch
    assert sum(start < steps for start in starts) == reshuffles


def test_the_last_epoch_of_a_task_is_cut_and_the_next_task_begins_anew():
    stream = plain(numbered(50), batch_size=10, steps_per_task=7)
    assert [stream.next_boundary(step) for step in (0, 4, 5, 6, 7, 13)] == [5, 5, 7, 7, 12, 14]
    shown = numbers(walk(stream, 0, 12, 1)[0][:, 0])
    for epoch in (shown[:5], shown[7:]):
        assert torch.equal(epoch.flatten().sort().values, torch.arange(50))
    assert len(set(shown[5:7].flatten().tolist())) == 20


def test_one_order_a_task_is_cycled_where_epochs_are_not_reshuffled():
    stream = plain(numbered(50), batch_size=10, steps_per_task=12, reshuffle_each_epoch=False)
    inputs, _ = walk(stream, 0, 24, 3)
    assert torch.equal(inputs[:5], inputs[5:10]) and torch.equal(inputs[:2], inputs[10:12])
    assert not torch.equal(inputs[:5], inputs[12:17])


def test_a_short_task_shows_a_random_part():
    stream = plain(numbered(50), batch_size=1, steps_per_task=20)
    tasks = numbers(walk(stream, 0, 40, 5)[0][:, 0, 0]).view(2, 20)
    assert all(len(set(task.tolist())) == 20 for task in tasks)
    assert set(tasks[0].tolist()) != set(tasks[1].tolist())


@pytest.mark.parametrize("resample", [False, True])
def test_a_subset_is_kept_or_drawn_anew_for_each_task(resample):
    stream = plain(numbered(50), batch_size=5, examples_per_task=15, resample_examples=resample)
    tasks = numbers(walk(stream, 0, 9, 2)[0]).view(3, 3, len(SEEDS), 5).movedim(2, 1).flatten(2)
    shown = [[frozenset(tasks[k, r].tolist()) for k in range(3)] for r in range(len(SEEDS))]
    assert all(len(some) == 15 for replica in shown for some in replica)
    assert all(len(set(replica)) == (3 if resample else 1) for replica in shown)
    assert shown[0][0] != shown[1][0]


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("make", [PermutedInputs, PermutedLabels])
def test_probe(make, split):
    """Train: what the task shows first; test: held-out examples, changed as the task changes them."""
    stream = make(numbered(50), SEEDS, torch.float64, batch_size=5, steps_per_task=6)
    inputs, labels = stream.probe(split, 18, task=2)
    assert inputs.shape == (len(SEEDS), 18, 16, 16) and labels.shape == (len(SEEDS), 18)
    x, y = walk(stream, 12, 18, 3)
    x, y = x.movedim(1, 0).flatten(1, 2), y.movedim(1, 0).flatten(1)
    if split == "train":
        assert torch.equal(inputs, x[:, :18]) and torch.equal(labels, y[:, :18])
        return
    if make is PermutedInputs:  # the entry that holds the number, and so the permutation, are the task's
        places = stream.prepare(12)["permutation"].argsort(dim=-1)[:, 0]
        shown = (inputs.flatten(2)[torch.arange(3), :, places] * 255).round().long() - 200
        assert torch.equal(labels, shown % 5)
    else:
        shown = numbers(inputs) - 200
        names = torch.stack([y[:, numbers(x[0]) % 5 == c][:, 0] for c in range(5)], 1)
        assert torch.equal(labels[0], names[0][shown[0] % 5])
    assert shown.min() >= 0 and all(len(set(row.tolist())) == 18 for row in shown)


def test_a_probe_may_be_longer_than_a_short_task_but_not_than_the_data():
    stream = plain(numbered(50), batch_size=2, steps_per_task=3)
    assert stream.probe("train", 50, 0)[0].shape[1] == 50
    assert (stream.probe_count("train", 0), stream.probe_count("test", 1)) == (50, 20)
    with pytest.raises(UserError, match=r"A probe of 51 examples is more than the 50 train examples .*PermutedLabels"):
        stream.probe("train", 51, 0)


def test_a_list_of_lengths_has_one_for_each_task():
    stream = plain(numbered(50), batch_size=10, steps_per_task=[7, 2, 12], tasks=3)
    assert [stream.task_length(task) for task in range(3)] == [7, 2, 12]
    assert [stream.epoch_length(task) for task in range(3)] == [5, 2, 5]
    assert boundaries(stream, 21) == [0, 5, 7, 9, 14, 19]
    assert_pure(stream, 0, 21)
    assert_tables_keep_their_shapes(stream, 21)
    again = dataclasses.replace(stream, seeds=SEEDS[:1])  # as a population makes its stream of a variant's
    assert again.steps_per_task == (7, 2, 12)
    assert torch.equal(walk(again, 3, 21, 4)[0], walk(stream, 3, 21, 4)[0][:, :1])
    for task, length in enumerate((7, 2, 12)):  # each task begins with a new epoch
        shown = numbers(walk_task(stream, task)[0][:, 0])
        assert len(set(shown[:5].flatten().tolist())) == 10 * min(5, length)


AUGMENTATIONS = [HorizontalFlip, RandomCrop(padding=2, padding_mode="constant")]


def augmented(seeds: Tensor, shape: tuple[int, ...] = (3, 8, 8), **fields: object) -> PermutedLabels:
    fields = {"batch_size": 6, "steps_per_task": 9, "scaling": "centred", "augmentations": AUGMENTATIONS, **fields}
    return PermutedLabels(generated(shape=shape), seeds, torch.float64, **fields)


@pytest.mark.parametrize("shape", [(3, 8, 8), (8, 8)])
def test_training_images_are_augmented_after_scaling_each_step_in_its_own_way(shape):
    stream, plain_stream = augmented(SEEDS, shape), augmented(SEEDS, shape, augmentations=())
    (x, y), (plain_x, plain_y) = walk(stream, 2, 15, 4), walk(plain_stream, 2, 15, 4)
    index, inside = source_pixels(stream.augmentations, SEEDS, torch.arange(2, 15), 6, 8, 8)
    assert torch.equal(x, rearranged(plain_x, index, inside)) and torch.equal(y, plain_y)
    assert not inside.all() and (x == 0).any() and not (plain_x == 0).any()  # scaled, no pixel is 0 but those outside
    for split in ("train", "test"):
        assert all(map(torch.equal, stream.probe(split, 9, 1), plain_stream.probe(split, 9, 1)))


def test_augmented_batches_are_pure_and_each_replica_has_its_own():
    assert_pure(augmented(SEEDS), 0, 20)
    assert_resumes(augmented, 12, 17)
    assert_independent(augmented, 0, 18, probe=5)
    assert_tables_keep_their_shapes(augmented(SEEDS), 30)


def test_inputs_are_permuted_after_augmentation():
    fields = {"batch_size": 6, "augmentations": AUGMENTATIONS}
    permuted = PermutedInputs(generated(shape=(8, 8)), SEEDS, torch.float64, **fields)
    as_they_are = Stationary(generated(shape=(8, 8)), SEEDS, torch.float64, **fields)
    place = permuted.prepare(0)["permutation"][None, :, None].expand(2, -1, 6, -1)
    expected = walk(as_they_are, 0, 2, 2)[0].flatten(3).gather(3, place)
    assert torch.equal(walk(permuted, 0, 2, 2)[0].flatten(3), expected)


def test_scalings():
    data = generated(shape=(3, 4, 4), train_size=2000)
    raw = data.inputs["train"].double()
    for scaling, expected in {
        "unit": raw / 255,
        "centred": (raw / 255 - 0.5) / 0.5,
        "standard": (raw / 255 - torch.tensor(data.mean).view(3, 1, 1)) / torch.tensor(data.std).view(3, 1, 1),
    }.items():
        stream = plain(data, scaling=scaling, batch_size=2000)
        inputs, _ = stream.batches(stream.prepare(0), clock_at(stream, 0), 1)
        shown = stream.prepare(0)["examples"][:, 0]
        torch.testing.assert_close(inputs[0], expected[shown], rtol=1e-6, atol=1e-6)
    assert inputs.mean().abs() < 1e-6 and (inputs.std(dim=(0, 1, 2, 4, 5)) - 1).abs().max() < 1e-3  # standard


def test_floats_are_used_as_they_are():
    values = torch.randn(20, 6)
    data = Dataset("floats", {"train": values}, {"train": torch.arange(20) % 2}, 2)
    stream = PermutedLabels(data, SEEDS, torch.float64, batch_size=20, permute_first_task=False)
    tables = stream.prepare(0)
    inputs, _ = stream.batches(tables, clock_at(stream, 0), 1)
    assert torch.equal(inputs[0], values.double()[tables["examples"][:, 0]])
    assert stream.problem == Problem((6,), 2, "cross_entropy")
    with pytest.raises(UserError, match=r"streams\.PermutedLabels\.scaling is 'centred': floats holds floats"):
        PermutedLabels(data, SEEDS, torch.float64, scaling="centred")


def test_steps_past_a_boundary_are_valid_batches():
    stream = STREAMS["permuted inputs"](SEEDS)
    inputs, labels = stream.batches(stream.prepare(0), clock_at(stream, 0), 100)
    assert inputs.shape == (100, 3, 7, 3, 3) and inputs.isfinite().all()
    assert labels.min() >= 0 and labels.max() < 4 and labels.dtype == torch.int64


@pytest.mark.parametrize("name", STREAMS)
def test_tables_keep_their_shapes(name):
    stream = STREAMS[name](SEEDS)
    assert_tables_keep_their_shapes(stream, 3 * stream.steps_per_task)


@pytest.mark.parametrize("name", ["permuted inputs", "random labels"])
def test_compiled(name):
    compiled_equals_eager(STREAMS[name](SEEDS), start=2, n=3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch_size": 0}, r"streams\.PermutedInputs\.batch_size is 0: it must be an integer at least 1\."),
        ({"batch_size": "7"}, r"streams\.PermutedInputs\.batch_size is '7'"),
        ({"batch_size": True}, r"streams\.PermutedInputs\.batch_size is True"),
        ({"batch_size": 51}, r"streams\.PermutedInputs\.batch_size is 51: a task has only 50 examples of numbered\."),
        ({"steps_per_task": 2.5}, r"streams\.PermutedInputs\.steps_per_task is 2\.5"),
        ({"epochs_per_task": None}, r"streams\.PermutedInputs\.epochs_per_task is None"),
        ({"tasks": 0}, r"streams\.PermutedInputs\.tasks is 0"),
        ({"examples_per_task": 51}, r"examples_per_task is 51: numbered has 50 training examples\."),
        (
            {"resample_examples": True},
            r"resample_examples is True, but .* bind streams\.PermutedInputs\.examples_per_task",
        ),
        ({"scaling": "standart"}, r"scaling is 'standart'.*Did you mean standard"),
        ({"permute_first_task": 1}, r"streams\.PermutedInputs\.permute_first_task is 1: it must be True or False\."),
        (
            {"steps_per_task": [5, 5], "tasks": 3},
            r"steps_per_task is \[5, 5\], but .*tasks is 3: bind one",
        ),
        ({"steps_per_task": (5, 0), "tasks": 2}, r"streams\.PermutedInputs\.steps_per_task is 0"),
        ({"augmentations": HorizontalFlip}, r"streams\.PermutedInputs\.augmentations is .*it must be a list"),
        (
            {"augmentations": [HorizontalFlip], "data": generated(shape=(784,))},
            r"streams\.PermutedInputs\.augmentations is for images, .* the examples have shape \(784,\)",
        ),
        ({"data": None}, r"streams\.PermutedInputs shows a data set: bind run\.source"),
    ],
)
def test_refused(fields, message):
    with pytest.raises(UserError, match=message):
        PermutedInputs(**{"data": numbered(50), "seeds": SEEDS, "dtype": torch.float32, **fields})
