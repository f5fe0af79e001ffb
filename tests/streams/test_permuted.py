"""What a task changes: the inputs' places, the labels' names, the labels' places."""

from __future__ import annotations

import pytest
import torch

from lopbench.errors import UserError
from lopbench.protocols import Problem
from lopbench.streams import PermutedInputs, PermutedLabels, RandomLabels
from tests.streams.common import SEEDS, generated, numbered, walk


def permutations_of(stream: PermutedInputs, tasks: int) -> torch.Tensor:
    return torch.stack([stream.prepare(k * stream.steps_per_task)["permutation"] for k in range(tasks)])


@pytest.mark.parametrize("permute_first_task", [True, False])
def test_every_example_of_a_task_is_permuted_alike(permute_first_task):
    stream = PermutedInputs(numbered(50), SEEDS, torch.float64, batch_size=10, permute_first_task=permute_first_task)
    assert stream.problem == Problem((16, 16), 5, "cross_entropy")
    permutations = permutations_of(stream, 4)
    identity = torch.arange(256)
    assert torch.equal(permutations.sort(dim=-1).values, identity.expand(4, len(SEEDS), -1))
    assert (permutations[0] == identity).all() == (not permute_first_task)
    different = {tuple(p.tolist()) for p in permutations.flatten(0, 1)}
    assert len(different) == 4 * len(SEEDS) - (0 if permute_first_task else len(SEEDS) - 1)

    inputs, labels = walk(stream, 0, 4 * stream.steps_per_task, 5)
    entries = (inputs.flatten(3) * 255).round().long().view(4, 5, len(SEEDS), 10, 256)
    for task in range(4):
        for r in range(len(SEEDS)):
            seen, p = entries[task, :, r].flatten(0, 1), permutations[task, r]
            number = seen[:, p == 0][:, 0]  # entry 0 holds the example's number
            assert torch.equal(seen[:, p != 0], p[p != 0].expand(50, -1))
            assert torch.equal(number.sort().values, torch.arange(50))
            assert torch.equal(labels.view(4, 5, -1, 10)[task, :, r].flatten(), number % 5)


def test_colour_is_scaled_by_channel_before_it_is_permuted():
    data = generated(shape=(3, 4, 4), train_size=60)
    stream = PermutedInputs(data, SEEDS, torch.float64, batch_size=60, scaling="standard")
    tables = stream.prepare(0)
    inputs, _ = walk(stream, 0, 1, 1)
    mean, std = torch.tensor(data.mean).double().view(3, 1, 1), torch.tensor(data.std).double().view(3, 1, 1)
    scaled = (data.inputs["train"] / 255.0 - mean) / std
    for r in range(len(SEEDS)):
        expected = scaled[tables["examples"][r, 0]].flatten(1)[:, tables["permutation"][r]]
        torch.testing.assert_close(inputs[0, r].flatten(1), expected, rtol=1e-5, atol=1e-6)


def test_random_labels_are_shuffled_and_keep_their_counts():
    data = numbered(50)
    stream = RandomLabels(data, SEEDS, torch.float64, batch_size=6, epochs_per_task=2, examples_per_task=30)
    assert stream.steps_per_task == 10
    inputs, labels = walk(stream, 0, 30, 5)
    numbers = (inputs[:, :, :, 0, 0] * 255).round().long()
    tasks: list[list[dict[int, int]]] = []
    for task in range(3):
        tasks.append([])
        for r in range(len(SEEDS)):
            shown, given = (each[10 * task : 10 * task + 10, r].flatten().tolist() for each in (numbers, labels))
            pairs = set(zip(shown, given, strict=True))
            assert len(pairs) == 30  # one label an image throughout the task
            counts = torch.bincount(torch.tensor([label for _, label in pairs]), minlength=5)
            true = torch.bincount(torch.tensor([number % 5 for number, _ in pairs]), minlength=5)
            assert torch.equal(counts, true)
            tasks[-1].append(dict(pairs))
    for r in range(len(SEEDS)):
        first, *others = (task[r] for task in tasks)
        assert any(label != number % 5 for number, label in first.items())  # the first task is shuffled too
        assert all(other.keys() == first.keys() and other != first for other in others)


def test_random_labels_have_no_test_split():
    stream = RandomLabels(numbered(50), SEEDS, torch.float32, batch_size=5, examples_per_task=20)
    assert stream.probe("train", 20, 1)[1].shape == (3, 20)
    with pytest.raises(UserError, match=r"streams\.RandomLabels has no 'test' examples to probe .* it has train\."):
        stream.probe("test", 5, 0)


@pytest.mark.parametrize("permute_first_task", [True, False])
def test_permuted_labels_rename_the_classes(permute_first_task):
    classes = 8
    stream = PermutedLabels(
        numbered(48, classes), SEEDS, torch.float64, steps_per_task=48, permute_first_task=permute_first_task
    )
    inputs, labels = walk(stream, 0, 144, 48)
    true = (inputs[:, :, 0, 0, 0] * 255).round().long() % classes
    renamed = set()
    for task in range(3):
        for r in range(len(SEEDS)):
            steps = slice(48 * task, 48 * task + 48)
            names = {(int(a), int(b)) for a, b in zip(true[steps, r], labels[steps, r, 0], strict=True)}
            assert len(names) == classes and len({b for _, b in names}) == classes
            if task == 0:
                assert all(a == b for a, b in names) == (not permute_first_task)
            renamed.add(tuple(sorted(names)))
    assert len(renamed) == 9 - (0 if permute_first_task else 2)
