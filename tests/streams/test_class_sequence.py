"""A class order used up in groups: pairs (Continual ImageNet), or five and one in turn ("5+1" CIFAR-100)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lopbench.errors import UserError
from lopbench.protocols import Problem
from lopbench.streams import ClassSequence
from tests.streams.common import (
    SEEDS,
    assert_independent,
    assert_pure,
    assert_resumes,
    assert_tables_keep_their_shapes,
    boundaries,
    compiled_equals_eager,
    generated,
    numbered,
    numbers,
    uneven,
    walk,
    walk_task,
)

CLASSES = 10
DATA = numbered(200, classes=CLASSES, test=50)  # 20 training and 5 test images of each class
FIELDS = {"batch_size": 4, "epochs_per_task": 2, "train_per_class": 8, "test_per_class": 3}


def pairs(seeds: Tensor = SEEDS, data: object = DATA, **fields: object) -> ClassSequence:
    return ClassSequence(data, seeds, torch.float64, **{**FIELDS, **fields})


def uneven_groups(seeds: Tensor = SEEDS, **fields: object) -> ClassSequence:
    return pairs(seeds, **{"classes_per_task": (3, 1), "relabel": False, "tasks": 9, **fields})


def classes_of(stream: ClassSequence, task: int, split: str = "train") -> list[list[int]]:
    """The classes that `task` shows each replica, in the order of the class order (if it relabels)."""
    shown, labels = stream.probe(split, stream.probe_count(split, task), task)
    pairs_of = [zip(labels[r].tolist(), (numbers(shown[r]) % CLASSES).tolist(), strict=True) for r in range(len(shown))]
    return [[c for _, c in sorted(set(each))] for each in pairs_of]


def test_each_task_tells_two_new_classes_from_each_other():
    stream = pairs(batch_size=8)
    assert stream.problem == Problem((16, 16), 2, "cross_entropy") and stream.tasks is None
    seen: list[list[int]] = [[], [], []]
    for task in range(5):
        inputs, labels = walk_task(stream, task)
        shown = numbers(inputs)
        for r, classes in enumerate(classes_of(stream, task)):
            assert len(classes) == 2
            expected = {c + CLASSES * i for c in classes for i in range(8)}  # the first eight images of each class
            for epoch in (shown[:2, r], shown[2:, r]):
                assert set(epoch.flatten().tolist()) == expected
            assert torch.equal(torch.tensor(classes)[labels[:, r]], shown[:, r] % CLASSES)
            seen[r] += classes
    assert all(sorted(classes) == [*range(CLASSES)] for classes in seen)  # each class once a pass
    assert len({tuple(classes) for classes in seen}) == 3


def test_a_later_pass_has_another_order():
    stream = pairs()
    passes = [[classes_of(stream, 5 * k + task)[0] for task in range(5)] for k in range(3)]
    assert all(sorted(c for group in each for c in group) == [*range(CLASSES)] for each in passes)
    assert len({tuple(map(tuple, each)) for each in passes}) == 3


def test_labels_are_the_task_s_own_or_those_of_the_data_set():
    own, original = pairs(), pairs(relabel=False)
    assert original.problem.outputs == CLASSES
    for task in (0, 3, 6):
        (x, y), (original_x, original_y) = walk_task(own, task), walk_task(original, task)
        assert torch.equal(x, original_x) and set(y.unique().tolist()) == {0, 1}
        assert torch.equal(original_y, numbers(x) % CLASSES)


def test_groups_come_in_turn():
    stream = uneven_groups()
    assert stream.groups == (3, 1, 3, 1) and stream.problem.outputs == CLASSES  # the last two classes are left out
    for k in range(2):
        groups = [classes_of(stream, 4 * k + task)[1] for task in range(4)]
        assert [len(group) for group in groups] == [3, 1, 3, 1]
        assert len({c for group in groups for c in group}) == 8
    assert [stream.epoch_length(task) for task in range(5)] == [6, 2, 6, 2, 6]
    assert [stream.task_length(task) for task in range(5)] == [12, 4, 12, 4, 12]
    assert uneven_groups(relabel=True).problem.outputs == 3


@settings(max_examples=25, deadline=None)
@given(
    groups=st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple),
    train=st.integers(2, 5),
    batch_size=st.integers(1, 2),
    steps=st.none() | st.integers(1, 12),
    data=st.just(uneven([5, 7, 5, 9, 6, 8], [2, 3, 2, 4, 2, 2])),
)
def test_a_pass_shows_each_class_at_most_once(groups, train, batch_size, steps, data):
    groups = groups if sum(groups) <= 6 else (2,)
    fields = {"classes_per_task": groups, "relabel": False, "test_per_class": None, "tasks": 12}
    fields |= {"train_per_class": train, "batch_size": batch_size, "steps_per_task": steps}
    stream = pairs(data=data, **fields)
    used: list[set[int]] = [set(), set(), set()]
    for task, size in enumerate(stream.groups):
        assert size == groups[task % len(groups)]
        assert (stream.probe_count("train", task), stream.probe_count("test", task)) == (train * size, 2 * size)
        for split in ("train", "test"):
            shown, labels = stream.probe(split, stream.probe_count(split, task), task)
            true = data.labels[split][numbers(shown) - (200 if split == "test" else 0)]
            assert torch.equal(labels, true)
            for r in range(3):
                assert len(labels[r].unique()) == size and len(numbers(shown[r]).unique()) == len(shown[r])
                new = set(labels[r].tolist())
                assert new.isdisjoint(used[r]) if split == "train" else new <= used[r]
                used[r] |= new
    assert_tables_keep_their_shapes(stream, stream.task_start(12))


def test_probes():
    stream = pairs()
    for task in range(1, 7):
        previous, previous_labels = stream.probe("previous_test", 6, task)
        before, labels = stream.probe("test", 6, task - 1)
        assert torch.equal(previous, before) and torch.equal(previous_labels, labels)
        assert classes_of(stream, task, "test") == classes_of(stream, task)
        assert (numbers(stream.probe("test", 6, task)[0]) // CLASSES).unique().tolist() == [20, 21, 22]
    counts = {split: [stream.probe_count(split, task) for task in (0, 1)] for split in stream.splits}
    assert counts == {"train": [16, 16], "test": [6, 6], "previous_test": [0, 6]}
    x, y = walk_task(stream, 2)
    first, labels = stream.probe("train", 8, 2)
    assert torch.equal(first, x[:2].movedim(1, 0).flatten(1, 2))
    assert torch.equal(labels, y[:2].movedim(1, 0).flatten(1))


def test_without_test_images_there_is_no_test_split():
    stream = pairs(data=generated(test_size=0))
    assert stream.splits == ("train",)
    for split in ("test", "previous_test"):
        with pytest.raises(UserError, match=rf"streams\.ClassSequence has no '{split}' examples .* it has train\."):
            stream.probe(split, 4, 1)


def published(classes: int, train_size: int, test_size: int, **fields: object) -> ClassSequence:
    data = generated(classes=classes, shape=(1,), train_size=train_size, test_size=test_size)
    return ClassSequence(data, SEEDS[:1], torch.float32, **fields)


def test_sizes_of_continual_imagenet():
    """1,000 classes in 500 pairs, 600 + 100 images of each: 12 updates an epoch, 250 epochs a task (Nature)."""
    stream = published(1000, 600_000, 100_000, tasks=5000)
    assert (len(stream.groups), set(stream.groups)) == (500, {2})
    assert (stream.epoch_length(7), stream.steps_per_task, stream.problem.outputs) == (12, 3000, 2)
    assert (stream.probe_count("train", 4999), stream.probe_count("test", 4999)) == (1200, 200)
    early = published(1000, 600_000, 100_000, steps_per_task=120, drop_tail_early=True)  # L2 Init
    assert early.epoch_length(0) == 11 and len(boundaries(early, 120)) == 11


def test_sizes_of_five_plus_one_cifar():
    """32 groups of 96 classes, 31 tasks of alternating sizes; reshuffled 10 and 52 times in 780 steps (L2 Init)."""
    fields = {"classes_per_task": (5, 1), "relabel": False, "train_per_class": None, "test_per_class": None}
    fields |= {"batch_size": 32, "steps_per_task": 780, "drop_tail_early": True, "tasks": 31}
    stream = published(100, 50_000, 10_000, **fields)
    assert stream.groups == (5, 1) * 16 and sum(stream.groups) == 96
    assert [stream.sizes[task] for task in range(31)] == [2500, 500] * 15 + [2500]
    labels = [set(stream.probe("test", stream.probe_count("test", k), k)[1][0].tolist()) for k in range(31)]
    assert sum(map(len, labels)) == len(set().union(*labels)) == 95
    assert [stream.epoch_length(task) for task in (0, 1)] == [78, 15]
    starts = boundaries(stream, 1560)
    assert (sum(start < 780 for start in starts), sum(start >= 780 for start in starts)) == (10, 52)
    assert stream.task_start(31) == 24_180 and stream.problem.outputs == 100
    assert stream.prepare(780)["examples"].shape == stream.prepare(0)["examples"].shape == (1, 78, 32)


STREAMS = {"pairs": pairs, "uneven groups": uneven_groups}


@pytest.mark.parametrize("name", STREAMS)
def test_what_is_seen_at_a_step_does_not_depend_on_how_it_was_reached(name):
    stream = STREAMS[name]()
    end = stream.task_start(6)
    assert_pure(stream, 0, end)
    assert_resumes(STREAMS[name], stream.task_start(4) + 3, end)
    assert_tables_keep_their_shapes(stream, stream.task_start(9))


@pytest.mark.parametrize("name", STREAMS)
def test_a_replica_sees_the_same_alone_and_among_others(name):
    assert_independent(STREAMS[name], 0, 30, probe=6)


def test_it_is_traced_whole():
    compiled_equals_eager(uneven_groups(), start=14, n=2, backend="eager")


def test_the_last_batch_of_a_short_epoch_is_repeated_past_its_end():
    stream = uneven_groups()
    start = stream.task_start(1)
    examples = stream.prepare(start)["examples"]
    assert examples.shape[1] == 6 and torch.equal(examples[:, 2:], examples[:, 1:2].expand(-1, 4, -1))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"classes_per_task": 2}, r"streams\.ClassSequence\.classes_per_task is 2: it must be a list of integers"),
        ({"classes_per_task": ()}, r"classes_per_task is \(\): it must be a list"),
        ({"classes_per_task": (2, 0)}, r"classes_per_task is \(2, 0\): it must be a list of integers at least 1"),
        ({"classes_per_task": (9, 2)}, r"is \(9, 2\), 11 classes in all: numbered has only 10\."),
        ({"classes_per_task": (1,)}, r"is \(1,\): with streams\.ClassSequence\.relabel True all labels would be 0"),
        (
            {"train_per_class": 21},
            r"streams\.ClassSequence\.train_per_class is 21: that takes at least 21 train images of each class, but "
            r"class 0 of numbered has 20\.",
        ),
        ({"test_per_class": 6}, r"test_per_class is 6: that takes at least 6 test images .* class 0 of numbered has 5"),
        ({"train_per_class": 0}, r"train_per_class is 0: it must be an integer at least 1, or None"),
        (
            {"data": uneven([3, 0, 3], [2, 2, 2]), "train_per_class": None},
            r"train_per_class is None: that takes at least 1 train images of each class, but class 1 of numbered has 0",
        ),
        ({"batch_size": 17}, r"streams\.ClassSequence\.batch_size is 17: a task has only 16 examples of numbered"),
        ({"relabel": "no"}, r"streams\.ClassSequence\.relabel is 'no': it must be True or False"),
        (
            {"classes_per_task": (3, 1)},
            r"streams\.ClassSequence\.tasks is None, but its tasks differ in length: bind how many there are",
        ),
    ],
)
def test_refused(fields, message):
    with pytest.raises(UserError, match=message):
        pairs(**fields)


def test_the_previous_task_can_t_be_probed_before_there_is_one():
    with pytest.raises(UserError, match=r"A probe of 2 examples is more than the 0 previous_test examples"):
        pairs().probe("previous_test", 2, 0)
    assert walk(pairs(), 0, 4, 2)[0].shape == (4, 3, 4, 16, 16)
