"""The shipped fragments of metrics, optimizers and strategies: each builds its parts, with the values that it binds."""

from __future__ import annotations

import functools
from typing import Any

import gin
import pytest

from lopbench import config
from lopbench.gin_text import Reference, names_in
from lopbench.lookup import shipped
from lopbench.registry import parts

#: what a fragment needs beside itself to be a run; these are not built
REST = ["run.stream = @streams.PermutedInputs", "run.architecture = @architectures.MLP"]

FOLDERS = ("metrics", "optimizers", "strategies")
FRAGMENTS = [f"{folder}/{file.name}" for folder in FOLDERS for file in sorted((shipped() / folder).glob("*.gin"))]


@functools.cache
def built(fragment: str) -> dict[str, Any]:
    """The metrics, optimizer, schedule and strategies of a run with this fragment, by class name."""
    others = [] if fragment.startswith("optimizers/") else ["run.optimizer = @optimizers.SGD"]
    request = config.read([fragment], [*REST, *others])
    [(variant, settings)] = request.settings.items()
    named = [name for key in settings if key.startswith("run.") for name in names_in(settings[key].value, Reference)]
    made = {}
    with request.variant(variant):
        for kind, name in (part.split(".") for part in named):
            if kind in (*FOLDERS, "schedules"):
                runtime = {"steps_per_task": 200} if kind == "schedules" else {}
                made[name] = gin.get_configurable(parts(kind)[name])(**runtime)
        operative = request.operative()
    unused = {key for key in settings if not key.startswith("run.")} - operative.keys()
    assert not unused, f"bound, but of no part that the fragment names: {unused}"
    return made


@pytest.mark.parametrize("fragment", FRAGMENTS)
def test_it_says_what_it_is_and_builds(fragment: str) -> None:
    text = (shipped() / fragment).read_text(encoding="utf-8")
    assert text.startswith("# ") and max(map(len, text.splitlines())) <= 120
    assert built(fragment)


PUBLISHED = [
    ("metrics/evaluation_by_epoch.gin", "Evaluation.every", "epoch_end"),
    ("metrics/evaluation_by_epoch.gin", "Evaluation.probe_size", None),
    ("metrics/incremental_cifar.gin", "Evaluation.probe_split", ["test", "validation"]),
    ("metrics/incremental_cifar.gin", "InactiveUnits.probe_split", ["new_classes", "old_classes"]),
    ("metrics/incremental_cifar.gin", "InactiveUnits.fraction", 0.01),
    ("metrics/incremental_cifar.gin", "WeightMagnitude.every", "task_end"),
    ("metrics/incremental_cifar_vit.gin", "DeadUnits.epsilon", 0.01),
    ("metrics/incremental_cifar_vit.gin", "Ranks.layers", "last"),
    ("metrics/incremental_cifar_vit.gin", "Ranks.probe_size", 1000),
    ("metrics/incremental_cifar_vit.gin", "AccuracyByClass.probe_size", None),
    ("metrics/incremental_cifar_vit.gin", "WeightMagnitude.statistics", ["mean", "median", "min"]),
    ("optimizers/sgd_multi_step.gin", "SGD.learning_rate", 0.1),
    ("optimizers/sgd_multi_step.gin", "SGD.weight_decay", 5e-4),
    ("optimizers/sgd_multi_step.gin", "MultiStep.milestones", [0.3, 0.6, 0.8]),
    ("optimizers/sgd_multi_step.gin", "MultiStep.factor", 0.2),
    ("optimizers/sgd_one_cycle.gin", "SGD.decay_tied_to_learning_rate", False),
    ("optimizers/sgd_one_cycle.gin", "OneCycle.cycle_momentum", True),
    ("strategies/restore_best.gin", "RestoreBest.criterion", "accuracy"),
    ("strategies/reset.gin", "Reset.parts", ("network", "momentum")),
]


@pytest.mark.parametrize(("fragment", "key", "value"), PUBLISHED)
def test_it_has_the_published_value(fragment: str, key: str, value: Any) -> None:
    part, _, field = key.partition(".")
    assert getattr(built(fragment)[part], field) == value
