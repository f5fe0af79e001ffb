"""The shipped fragments of streams say what the published protocols are."""

from __future__ import annotations

from pathlib import Path

import gin
import pytest
import torch

import lopbench.streams  # noqa: F401  (registers the parts)
from lopbench.registry import parts

FOLDER = Path(__file__).parents[2] / "gin_configs" / "streams"

#: fragment -> source, tasks, batch size, steps a task, steps an epoch
PUBLISHED = {
    "slowly_changing_regression": (None, 100, 1, 10_000, None),
    "slowly_changing_regression_flip_one": (None, 300, 1, 10_000, None),
    "permuted_mnist": ("MNIST", 1000, 30, 2000, 2000),
    "permuted_mnist_online": ("MNIST", 800, 1, 60_000, 60_000),
    "permuted_mnist_l2_init": ("MNIST", 500, 16, 625, 624),
    "random_label_mnist": ("MNIST", 50, 16, 30_000, 74),
    "random_label_cifar": ("CIFAR10", 50, 16, 30_000, 74),
    "label_permuted_emnist": ("EMNIST", 400, 1, 2500, 2500),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_fragment(name, monkeypatch):
    text = (FOLDER / f"{name}.gin").read_text()
    bound = dict(line.replace(" ", "").split("=@") for line in text.splitlines() if line.startswith("run."))
    assert text.startswith("# ") and "# Source: " in text
    source, tasks, batch_size, steps, epoch = PUBLISHED[name]
    gin.clear_config()
    try:
        gin.parse_config("\n".join(line for line in text.splitlines() if not line.startswith("run.")))
        data = None
        if source is not None:
            assert bound["run.source"] == f"sources.{source}"
            data = gin.get_configurable(parts("sources")[source])().imitation().load(None, "cpu")
        part = parts("streams")[bound["run.stream"].removeprefix("streams.")]
        stream = gin.get_configurable(part)(data=data, seeds=torch.tensor([5]), dtype=torch.float32)
    finally:
        gin.clear_config()
    assert (stream.tasks, stream.batch_size, stream.steps_per_task) == (tasks, batch_size, steps)
    assert epoch is None or stream.steps_per_epoch == epoch
    inputs, targets = stream.probe("train", 3, tasks - 1)
    assert inputs.shape == (1, 3, *stream.problem.input_shape) and len(targets[0]) == 3


def test_every_fragment_is_listed():
    assert {file.stem for file in FOLDER.glob("*.gin")} >= set(PUBLISHED)
