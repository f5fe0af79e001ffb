"""The shipped fragments of streams say what the published protocols are."""

from __future__ import annotations

import functools
from pathlib import Path

import gin
import pytest
import torch

from lopbench import config
from lopbench.protocols import Dataset, Source, Stream
from lopbench.registry import parts

FOLDER = Path(__file__).parents[2] / "gin_configs" / "streams"
#: what makes a run of a fragment; neither is built
REST = ["run.architecture = @architectures.MLP", "run.optimizer = @optimizers.SGD"]

#: fragment -> source, tasks, batch size, steps of the first task, steps of its epochs
PUBLISHED = {
    "slowly_changing_regression": (None, 100, 1, 10_000, None),
    "slowly_changing_regression_flip_one": (None, 300, 1, 10_000, None),
    "permuted_mnist": ("MNIST", 1000, 30, 2000, 2000),
    "permuted_mnist_online": ("MNIST", 800, 1, 60_000, 60_000),
    "permuted_mnist_l2_init": ("MNIST", 500, 16, 625, 624),
    "random_label_mnist": ("MNIST", 50, 16, 30_000, 74),
    "random_label_cifar": ("CIFAR10", 50, 16, 30_000, 74),
    "label_permuted_emnist": ("EMNIST", 400, 1, 2500, 2500),
    "class_incremental_cifar100": ("CIFAR100", 20, 90, 2500, 25),
    "class_incremental_cifar100_full": ("CIFAR100", 1, 90, 50_000, 500),
    "class_incremental_cifar100_resnet": ("CIFAR100", 20, 90, 5000, 25),
    "continual_imagenet": ("ImageNet32", 5000, 100, 3000, 12),
    "continual_imagenet_l2_init": ("ImageNet32", 500, 100, 120, 11),
    "five_plus_one_cifar": ("CIFAR100", 30, 32, 780, 78),
    "stationary_cifar10": ("CIFAR10", 100, 100, 500, 500),
}
#: updates of a whole run, where tasks differ
UPDATES = {"class_incremental_cifar100": 525_000, "class_incremental_cifar100_resnet": 1_050_000}
#: fragments that are no stream by themselves
PIECES = {"augmentation_cifar"}


@functools.lru_cache(maxsize=2)
def imitation(source: Source) -> Dataset:
    """Generated data of a source's shape; large ones take a second to make."""
    return source.imitation().load(None, "cpu")


def built(name: str) -> tuple[str | None, Stream]:
    """The name of the source that a fragment binds, and its stream on generated data of that shape."""
    request = config.read([str(FOLDER / f"{name}.gin")], REST)
    with request.variant(name):
        bound = {key: str(binding.value) for key, binding in request.settings[name].items()}
        source = bound.get("run.source", "").removeprefix("@sources.") or None
        data = imitation(gin.get_configurable(parts("sources")[source])()) if source else None
        stream = gin.get_configurable(parts("streams")[bound["run.stream"].removeprefix("@streams.")])
        return source, stream(data=data, seeds=torch.tensor([5]), dtype=torch.float32)


@pytest.mark.parametrize("name", PUBLISHED)
def test_fragment(name):
    source, stream = built(name)
    expected_source, tasks, batch_size, steps, epoch = PUBLISHED[name]
    assert source == expected_source
    assert (stream.tasks, stream.batch_size, stream.task_length(0)) == (tasks, batch_size, steps)
    assert epoch is None or stream.epoch_length(0) == epoch
    assert stream.task_start(tasks) == UPDATES.get(name, tasks * steps)
    inputs, targets = stream.probe("train", 3, tasks - 1)
    assert inputs.shape == (1, 3, *stream.problem.input_shape) and len(targets[0]) == 3


@pytest.mark.parametrize("name", ["class_incremental_cifar100", "class_incremental_cifar100_resnet"])
def test_augmentation_of_class_incremental_cifar(name):
    _, stream = built(name)
    assert [type(part).__name__ for part in stream.augmentations] == ["HorizontalFlip", "RandomCrop", "RandomRotation"]
    assert stream.augment_test == name.endswith("resnet")  # the published numbers of the ResNet have it


def test_every_fragment_has_a_row_and_a_source():
    assert {file.stem for file in FOLDER.glob("*.gin")} == set(PUBLISHED) | PIECES
    for file in FOLDER.glob("*.gin"):
        text = file.read_text()
        assert text.startswith("# ") and "# Source: " in text, file.name
