"""Class-incremental learning: which classes a task shows, under which labels, and what can be probed."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lopbench.errors import UserError
from lopbench.protocols import Problem
from lopbench.streams import ClassIncremental, HorizontalFlip, RandomCrop
from lopbench.streams.augmentations import rearranged, source_pixels
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

DATA = numbered(160, classes=8, test=40)  # 20 training and 5 test images of each class
FIELDS = {"classes_per_task": 2, "batch_size": 6, "epochs_per_task": 2, "validation_per_class": 3}


def incremental(seeds: Tensor = SEEDS, data: object = DATA, **fields: object) -> ClassIncremental:
    return ClassIncremental(data, seeds, torch.float64, **{**FIELDS, **fields})


def augmented(seeds: Tensor = SEEDS, **fields: object) -> ClassIncremental:
    data = generated(classes=6, shape=(3, 6, 6), train_size=72, test_size=36)
    listed = [HorizontalFlip, RandomCrop(padding=2, padding_mode="constant")]
    return incremental(seeds, data, **{"augmentations": listed, "scaling": "centred", **fields})


def class_order(stream: ClassIncremental) -> Tensor:
    """The class in each place, `[R, classes]`, as the examples and labels of the last task tell."""
    shown, labels = stream.probe("train", stream.probe_count("train", stream.tasks - 1), stream.tasks - 1)
    classes = numbers(shown) % stream.data.classes
    order = torch.full((len(classes), stream.data.classes), -1).scatter(1, labels, classes)
    assert torch.equal(order.gather(1, labels), classes)  # one label a class
    return order


def test_each_task_shows_the_classes_so_far_each_example_once_an_epoch():
    stream = incremental()
    order = class_order(stream)
    assert torch.equal(order.sort(dim=1).values, torch.arange(8).expand(3, -1))
    assert len({tuple(row.tolist()) for row in order}) == 3  # a class order of each replica's own
    assert stream.tasks == 4 and stream.problem == Problem((16, 16), 8, "cross_entropy")
    for task in range(4):
        classes = 2 * (task + 1)
        epoch = classes * 17 // 6  # of 17 training images a class; the remainder is left out
        assert stream.epoch_length(task) == epoch and stream.task_length(task) == 2 * epoch
        inputs, labels = walk_task(stream, task)
        shown = numbers(inputs)
        assert torch.equal(order.gather(1, labels.movedim(1, 0).flatten(1)), shown.movedim(1, 0).flatten(1) % 8)
        assert set(labels.unique().tolist()) == set(range(classes))
        assert shown.min() >= 3 * 8  # the first three images of each class are for validation
        for r in range(3):
            for half in shown[:epoch, r], shown[epoch:, r]:
                assert len(half.flatten().unique()) == 6 * epoch


def test_an_epoch_without_remainder_shows_every_training_image():
    stream = incremental(batch_size=17)
    for task in range(4):
        shown = numbers(walk_task(stream, task)[0]).unflatten(0, (2, -1))
        for r in range(3):
            classes = class_order(stream)[r, : 2 * (task + 1)]
            expected = torch.cat([torch.arange(3 * 8 + int(c), 160, 8) for c in classes]).sort().values
            assert all(torch.equal(epoch[:, r].flatten().sort().values, expected) for epoch in shown)


@settings(max_examples=25, deadline=None)
@given(
    counts=st.lists(st.integers(6, 12), min_size=4, max_size=4),
    tested=st.lists(st.integers(2, 5), min_size=4, max_size=4),
    classes_per_task=st.sampled_from([1, 2, 4]),
    validation=st.integers(0, 4),
    batch_size=st.integers(1, 2),
)
def test_every_class_has_the_same_number_of_images(counts, tested, classes_per_task, validation, batch_size):
    data = uneven(counts, tested)
    fields = {"classes_per_task": classes_per_task, "validation_per_class": validation, "batch_size": batch_size}
    stream = incremental(data=data, **fields)
    each = {"train": min(counts) - validation, "validation": validation, "test": min(tested)}
    each |= {"new_classes": min(counts), "old_classes": min(counts)}
    assert ("validation" in stream.splits) == (validation > 0)
    for task in range(stream.tasks):
        seen = (task + 1) * classes_per_task
        places = {"new_classes": range(seen - classes_per_task, seen), "old_classes": range(seen - classes_per_task)}
        for split in stream.splits:
            expected = places.get(split, range(seen))
            count = stream.probe_count(split, task)
            assert count == len(expected) * each[split]
            inputs, labels = stream.probe(split, count, task)
            for r in range(3):
                assert labels[r].bincount(minlength=4).tolist() == [each[split] * (c in expected) for c in range(4)]
                assert len(numbers(inputs[r]).unique()) == count
    inputs, labels = stream.probe("train", stream.probe_count("train", stream.tasks - 1), stream.tasks - 1)
    true = data.labels["train"][numbers(inputs)]
    for r in range(3):  # one class a label, one label a class
        assert len({*zip(true[r].tolist(), labels[r].tolist(), strict=True)}) == 4


def test_splits_hold_what_they_say():
    stream = incremental()
    order = class_order(stream)
    for task in range(4):
        of_class = {
            "train": range(3, 20),
            "validation": range(3),
            "test": range(25, 30),  # numbers from 200 on
            "new_classes": range(20),
            "old_classes": range(20),
        }
        places = {"new_classes": [2 * task, 2 * task + 1], "old_classes": [*range(2 * task)]}
        for split, images in of_class.items():
            shown, labels = stream.probe(split, stream.probe_count(split, task), task)
            for r in range(3):
                classes = order[r, places.get(split, [*range(2 * task + 2)])].tolist()
                assert set(numbers(shown[r]).tolist()) == {8 * i + c for i in images for c in classes}
                assert torch.equal(order[r][labels[r]], numbers(shown[r]) % 8)
    assert stream.probe_count("old_classes", 0) == 0


def test_a_smaller_probe_is_a_sample_of_the_larger():
    stream = incremental()
    for split in stream.splits:
        count = stream.probe_count(split, 2)
        all_inputs, all_labels = stream.probe(split, count, 2)
        inputs, labels = stream.probe(split, 10, 2)
        assert torch.equal(inputs, all_inputs[:, :10]) and torch.equal(labels, all_labels[:, :10])
        assert all(len(row.unique()) > 1 for row in labels)  # not class by class
        assert not torch.equal(labels[0], labels[1])


def test_a_training_probe_is_what_the_task_shows_first():
    stream = incremental()
    x, y = walk_task(stream, 2)
    inputs, labels = stream.probe("train", 12, 2)
    assert torch.equal(inputs, x[:2].movedim(1, 0).flatten(1, 2)) and torch.equal(
        labels, y[:2].movedim(1, 0).flatten(1)
    )


def test_no_more_training_images_than_asked_for():
    stream = incremental(examples_per_class=6)
    assert [stream.probe_count("train", task) for task in range(4)] == [12, 24, 36, 48]
    shown = numbers(walk_task(stream, 3)[0])
    assert shown.min() >= 8 * 3 and shown.max() < 8 * 9  # those that follow the validation images
    assert stream.probe_count("new_classes", 1) == 2 * 9


def test_only_the_outputs_of_classes_shown_count():
    stream = incremental()
    outputs = torch.randn(5, 8, requires_grad=True)
    for task in range(4):
        read = stream.readout(outputs, torch.tensor(task))
        shown = 2 * (task + 1)
        assert torch.equal(read[:, :shown], outputs[:, :shown]) and (read[:, shown:] == -torch.inf).all()
        loss = torch.nn.functional.cross_entropy(read, torch.tensor([0, 1, 1, 0, 1]))
        torch.testing.assert_close(
            loss, torch.nn.functional.cross_entropy(outputs[:, :shown], torch.tensor([0, 1, 1, 0, 1]))
        )
        (gradient,) = torch.autograd.grad(loss, outputs)
        assert gradient.isfinite().all() and (gradient[:, shown:] == 0).all() and (gradient[:, :shown] != 0).all()


def test_fewer_tasks_and_all_classes_at_once():
    fewer, whole = incremental(tasks=2), incremental(classes_per_task=8)
    assert fewer.steps_per_task == incremental().steps_per_task[:2] and fewer.problem.outputs == 8
    assert torch.equal(walk(fewer, 0, 20, 3)[0], walk(incremental(), 0, 20, 3)[0])
    assert (whole.tasks, whole.steps_per_task) == (1, 2 * (8 * 17 // 6))
    assert torch.equal(whole.readout(torch.ones(2, 8), torch.tensor(0)), torch.ones(2, 8))


@pytest.mark.parametrize(("epochs", "updates"), [(100, 525_000), (200, 1_050_000)])
def test_sizes_of_the_published_protocol(epochs, updates):
    """CIFAR-100: 25 k minibatches an epoch in task k of 20 (SWR: 100 epochs a task, Nature: 200)."""
    data = generated(classes=100, shape=(1,), train_size=50_000, test_size=10_000)
    stream = ClassIncremental(data, SEEDS[:1], torch.float32, epochs_per_task=epochs)
    assert stream.tasks == 20 and stream.task_start(20) == updates
    for k in range(1, 21):
        assert stream.epoch_length(k - 1) == 25 * k and stream.task_length(k - 1) == 25 * k * epochs
        assert stream.probe_count("train", k - 1) == 2250 * k
        assert (stream.probe_count("validation", k - 1), stream.probe_count("test", k - 1)) == (250 * k, 500 * k)
        assert (stream.probe_count("new_classes", k - 1), stream.probe_count("old_classes", k - 1)) == (
            2500,
            2500 * (k - 1),
        )
    assert stream.prepare(0)["examples"].shape == (1, 500, 90)


STREAMS = {"plain": incremental, "augmented": augmented}


@pytest.mark.parametrize("name", STREAMS)
def test_what_is_seen_at_a_step_does_not_depend_on_how_it_was_reached(name):
    stream = STREAMS[name]()
    end = stream.task_start(2)
    assert_pure(stream, 0, end + 5)
    assert_resumes(STREAMS[name], stream.task_start(1) + 3, end + 2)
    assert_tables_keep_their_shapes(stream, stream.task_start(stream.tasks))
    assert boundaries(stream, end) == [
        stream.task_start(task) + epoch * stream.epoch_length(task) for task in (0, 1) for epoch in (0, 1)
    ]


@pytest.mark.parametrize("name", STREAMS)
def test_a_replica_sees_the_same_alone_and_among_others(name):
    assert_independent(STREAMS[name], 0, 20, probe=6)


def test_it_is_traced_whole():
    compiled_equals_eager(augmented(), start=2, n=2, backend="eager")


def test_a_copy_of_the_stream_shows_the_same():
    stream = augmented(augment_test=True)
    copy = dataclasses.replace(stream, seeds=SEEDS[1:2])
    assert copy.augmentations == stream.augmentations and copy.steps_per_task == stream.steps_per_task
    assert torch.equal(walk(copy, 3, 12, 4)[0], walk(stream, 3, 12, 4)[0][:, 1:2])
    assert torch.equal(copy.probe("test", 6, 1, step=5)[0], stream.probe("test", 6, 1, step=5)[0][1:2])


def test_test_images_are_augmented_anew_at_each_evaluation_if_asked_for():
    plain, stream = augmented(), augmented(augment_test=True)
    first, second = (stream.probe("test", 12, 1, step=step) for step in (5, 6))
    as_they_are, labels = plain.probe("test", 12, 1, step=5)
    assert torch.equal(plain.probe("test", 12, 1, step=6)[0], as_they_are)
    assert torch.equal(first[1], labels) and torch.equal(second[1], labels)
    drawn = source_pixels(stream.augmentations, SEEDS, torch.tensor([5]), 12, 6, 6, "test_augmentation")
    assert torch.equal(first[0], rearranged(as_they_are[None], *drawn)[0])
    assert not torch.equal(first[0], second[0]) and torch.equal(stream.probe("test", 12, 1, step=5)[0], first[0])
    for split in ("train", "validation", "new_classes", "old_classes"):
        assert torch.equal(stream.probe(split, 4, 1, step=5)[0], plain.probe(split, 4, 1, step=6)[0])


def test_without_test_images_there_is_no_test_split():
    stream = incremental(data=generated(classes=4, test_size=0), validation_per_class=0)
    assert stream.splits == ("train", "new_classes", "old_classes")
    with pytest.raises(UserError, match=r"has no 'test' examples .* it has train, new_classes, old_classes\."):
        stream.probe("test", 4, 0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"classes_per_task": 3},
            r"streams\.ClassIncremental\.classes_per_task is 3: it must divide the 8 classes of numbered\.",
        ),
        ({"classes_per_task": 9}, r"classes_per_task is 9: it must divide the 8 classes"),
        ({"classes_per_task": 0}, r"classes_per_task is 0: it must be an integer at least 1"),
        ({"tasks": 5}, r"streams\.ClassIncremental\.tasks is 5: with 2 classes a task, the 8 classes of .* make 4\."),
        (
            {"validation_per_class": 20},
            r"validation_per_class is 20 and examples_per_class None: that takes at least 21 train images of each "
            r"class, but class 0 of numbered has 20\.",
        ),
        ({"examples_per_class": 18}, r"takes at least 21 train images of each class, but class 0 of numbered has 20"),
        ({"examples_per_class": 0}, r"examples_per_class is 0: it must be an integer at least 1"),
        ({"data": uneven([9, 4, 9, 9], [2] * 4), "validation_per_class": 4}, r"but class 1 of numbered has 4\."),
        ({"data": uneven([9] * 4, [2, 2, 0, 2])}, r"at least 1 test images of each class, but class 2 .* has 0\."),
        ({"batch_size": 35}, r"ClassIncremental\.batch_size is 35: a task has only 34 examples of numbered\."),
        ({"augment_test": True}, r"augment_test is True, but .* bind streams\.ClassIncremental\.augmentations"),
        ({"augment_test": 1}, r"augment_test is 1: it must be True or False"),
        (
            {"data": generated(classes=4, shape=(7,)), "augmentations": [HorizontalFlip]},
            r"ClassIncremental\.augmentations is for images, .* shape \(7,\)",
        ),
        ({"steps_per_task": [5, 5]}, r"steps_per_task is \[5, 5\], but streams\.ClassIncremental\.tasks is 4"),
        ({"data": None}, r"streams\.ClassIncremental shows a data set: bind run\.source"),
    ],
)
def test_refused(fields, message):
    with pytest.raises(UserError, match=message):
        incremental(**fields)


def test_a_probe_of_more_than_there_is_is_refused():
    with pytest.raises(UserError, match=r"A probe of 11 examples is more than the 10 test examples"):
        incremental().probe("test", 11, 0)
    with pytest.raises(UserError, match=r"A probe of 1 examples is more than the 0 old_classes examples"):
        incremental().probe("old_classes", 1, 0)
