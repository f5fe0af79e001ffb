"""The shipped gin files: headers, coverage table, published values, and that every complete run builds and trains.

Each is trained for three updates with tiny.gin and tests/few_steps.gin, on generated data: a few of them here, all
with `pytest -m gin`.
"""

from __future__ import annotations

import csv
import functools
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from lopbench import config
from lopbench.checks import is_number
from lopbench.choosing import choose
from lopbench.experiment import imitation
from lopbench.loggers.records import Record
from lopbench.lookup import shipped
from lopbench.protocols import Dataset, Source
from lopbench.registry import kind_of
from lopbench.training import train
from lopbench.variants import Surroundings, Variant, populate, run
from tests import gin_coverage
from tests.gin_coverage import FOLDER, FOLDERS, FRAGMENTS, complete_runs, readme

CPU = torch.device("cpu")
OVERLAYS = ["tiny.gin", str(Path(__file__).parent / "few_steps.gin")]
PUBLISHED = FOLDER.parent / "third_party" / "published"

RUNS = complete_runs()
NAMES = [each.name for each in RUNS]


def sample() -> list[str]:
    """Of every folder the run in its middle, and the runs that lie in none."""
    groups = {folder: [each.name for each in RUNS if each.folder == folder] for folder in FOLDERS}
    return [*groups.pop(""), *(names[len(names) // 2] for names in groups.values() if names)]


SAMPLE = sample()


# Headers and table ----------------------------------------------------------------------------------


def test_the_readme_is_what_the_generator_gives() -> None:
    assert gin_coverage.README.read_text(encoding="utf-8") == readme(), "run: python -m tests.gin_coverage"


def test_every_folder_has_a_place_in_the_readme() -> None:
    folders = {path.relative_to(FOLDER).parts[0] for path in FOLDER.rglob("*.gin") if path.parent != FOLDER}
    assert folders == {*FOLDERS, *FRAGMENTS} - {""}


def test_the_headers_of_the_runs_are_complete() -> None:
    command = {each.name: rf"{re.escape(gin_coverage.COMMAND)}{re.escape(each.name)}( |$)" for each in RUNS}
    wrong = {
        "no sentence first": [each.name for each in RUNS if not each.title.endswith(".")],
        "the command is another's": [each.name for each in RUNS if not re.match(command[each.name], each.command)],
        "no source": [each.name for each in RUNS if not each.notes.get("Source")],
        "no expected": [each.name for each in RUNS if not each.notes.get("Expected")],
    }
    assert {what: names for what, names in wrong.items() if names} == {}


# Every run builds and trains ------------------------------------------------------------------------


@functools.cache
def generated(source: Source) -> Dataset:
    """Data of the source's shape, made once."""
    return imitation(CPU)(source)


@functools.cache
def read(name: str, *overlays: str) -> config.Request:
    return config.read([name, *overlays])


def sorts(request: config.Request) -> list[str]:
    """One variant of each sort: the points of a sweep over numbers are of one."""
    found: dict[frozenset[tuple[str, str]], str] = {}
    for name, settings in request.settings.items():
        values = {
            key: "a number" if is_number(binding.value) else repr(binding.value) for key, binding in settings.items()
        }
        found.setdefault(frozenset(values.items()), name)
    return list(found.values())


def built(request: config.Request, name: str) -> tuple[Variant, dict[str, Any]]:
    """A variant on generated data, and the values that gin handed on; nothing that shipped files bind goes unused."""
    with request.variant(name):
        variant = run(Surroundings(CPU, generated))
        used = request.operative()
    bound = {key: binding.place.source for key, binding in request.settings[name].items() if is_shipped(binding)}
    idle = [key for key, source in bound.items() if key not in used and source not in request.overlays]
    assert not idle, f"nothing uses {idle}"
    return variant, used


def is_shipped(binding: Any) -> bool:
    """Whether a binding stands in a shipped file."""
    return isinstance(binding.place.source, Path) and binding.place.source.is_relative_to(shipped())


def builds_and_trains(name: str) -> None:
    """A variant of each sort: at full size it is only built."""
    request, shrunk = read(name), read(name, *OVERLAYS)
    for variant in sorts(request):
        built(request, variant)
        trains(built(shrunk, variant)[0])


def trains(variant: Variant) -> None:
    records: list[Record] = []
    population = populate([variant])
    choice = choose(population, variant.plan.steps, variant.executor, variant.block_steps, variant.replicas_together)
    end = train(population, choice.build(population), variant.plan, records.extend)
    assert end["alive"].all()
    losses = [record.values for record in records if record.tag == "online/loss"]
    assert losses and all(math.isfinite(value) for values in losses for value in values)


@pytest.mark.parametrize("name", SAMPLE)
def test_a_run_builds_and_trains(name: str) -> None:
    builds_and_trains(name)


@pytest.mark.gin
@pytest.mark.parametrize("name", [name for name in NAMES if name not in SAMPLE])
def test_every_other_run_builds_and_trains(name: str) -> None:
    builds_and_trains(name)


# Published values reach the parts -------------------------------------------------------------------

REGRESSION, PERMUTED, SEQUENCE = "streams.SlowlyChangingRegression", "streams.PermutedInputs", "streams.ClassSequence"
CBP, RESET = "strategies.ContinualBackprop", "strategies.Reset"

#: run -> what its first variant is built with; "parameters" is the size of the network
VALUES: dict[str, dict[str, Any]] = {
    "slowly_changing_regression/sgd_relu.gin": {
        "run.seeds": 100,
        "optimizers.SGD.learning_rate": 0.01,
        f"{REGRESSION}.change": "redraw",
        f"{REGRESSION}.tasks": 100,
        "architectures.MLP.width": 5,
        "parameters": 20 * 5 + 5 + 5 + 1,
    },
    "slowly_changing_regression/flip_one_swish.gin": {
        f"{REGRESSION}.change": "flip_one",
        f"{REGRESSION}.tasks": 300,
        "architectures.MLP.activation": "silu",
        "architectures.MLP.gain": "relu",
    },
    "slowly_changing_regression/adam_elu_shrink_perturb.gin": {
        "optimizers.Adam.learning_rate": 0.01,
        "optimizers.Adam.weight_decay": 1e-4,
        "strategies.ShrinkAndPerturb.perturb_std": 1e-6,
    },
    "slowly_changing_regression/sgd_relu_continual_backprop.gin": {
        "run.seeds": 1,
        f"{CBP}.replacement_rate": 1e-6,
        f"{CBP}.maturity_threshold": 10,
        f"{CBP}.utility": "adaptable_contribution",
        f"{CBP}.rounding": "random",
    },
    "slowly_changing_regression/adam_linear_5m.gin": {"run.steps": 5_000_000, "optimizers.Adam.learning_rate": 0.003},
    "permuted_mnist_online/continual_backprop.gin": {
        "run.seeds": 10,
        "run.steps": 48_000_000,
        f"{PERMUTED}.batch_size": 1,
        f"{CBP}.replacement_rate": 1e-4,
        f"{CBP}.utility_decay": 0.99,
        f"{CBP}.rounding": "accumulated",
        "metrics.DeadUnits.probe_size": 2000,
        "parameters": 9_588_000 + 6_010,
    },
    "permuted_mnist_online/sgd_rate.gin": {"run.steps": 48_000_000, f"{PERMUTED}.steps_per_task": 10_000},
    "permuted_mnist_online/sgd_width.gin": {"run.steps": 150 * 60_000, "architectures.MLP.width": 100},
    "permuted_mnist_l2_init/adam/redo.gin": {
        f"{PERMUTED}.batch_size": 16,
        f"{PERMUTED}.steps_per_task": 625,
        f"{PERMUTED}.tasks": 500,
        "strategies.ReDo.incoming": "initial",
        "strategies.ReDo.reset_silent_layers": False,
        "parameters": 89_610,
    },
    "permuted_mnist_l2_init/adam/crelu.gin": {"parameters": 89_918},
    "permuted_mnist_l2_init/adam/continual_backprop.gin": {
        "optimizers.Adam.per_weight_steps": True,
        f"{CBP}.maturity_threshold": 100,
        f"{CBP}.rounding": "random",
        f"{CBP}.initialization": "kaiming_uniform",
    },
    "permuted_mnist_l2_init/forgetting/l2_init_and_ewc.gin": {
        "run.seeds": 5,
        "run.steps": 20 * 625,
        "strategies.L2Init.l2_weight": 1e-3,
        "strategies.EWC.ewc_weight": 10.0,
        "strategies.EWC.use_fisher": False,
    },
    "permuted_mnist_l2_init/ablation/resample.gin": {"strategies.L2Init.sample_init_values": True},
    "random_label_mnist/sgd/base.gin": {
        "streams.RandomLabels.steps_per_task": 30_000,
        "streams.RandomLabels.tasks": 50,
        "optimizers.SGD.momentum": 0.0,
    },
    "random_label_cifar/adam/base.gin": {"parameters": 58_842},
    "random_label_cifar/adam/crelu.gin": {"parameters": 59_321},
    "random_label_cifar/deep/base.gin": {"parameters": 33_566},
    "five_plus_one_cifar/adam/base.gin": {
        f"{SEQUENCE}.classes_per_task": (5, 1),
        f"{SEQUENCE}.steps_per_task": 780,
        f"{SEQUENCE}.batch_size": 32,
        f"{SEQUENCE}.tasks": 30,
        "parameters": 67_932,
    },
    "five_plus_one_cifar/adam/crelu.gin": {"parameters": 68_407},
    "continual_imagenet_l2_init/sgd/base.gin": {
        f"{SEQUENCE}.steps_per_task": 120,
        f"{SEQUENCE}.tasks": 500,
        "parameters": 58_034,
    },
    "continual_imagenet_l2_init/adam/crelu.gin": {"parameters": 58_145},
    "continual_imagenet/sgd.gin": {
        "run.seeds": 30,
        "run.steps": 2000 * 3000,
        "optimizers.SGD.momentum": 0.9,
        f"{RESET}.parts": ("head",),
        f"{RESET}.clear_optimizer": False,
        "parameters": 177_218,
    },
    "continual_imagenet/continual_backprop.gin": {
        "run.steps": 5000 * 3000,
        "optimizers.SGD.learning_rate": 0.01,
        f"{CBP}.replacement_rate": 3e-4,
        f"{CBP}.count": "all",
        f"{RESET}.parts": ("head",),
    },
    "continual_imagenet/l2.gin": {"optimizers.SGD.learning_rate": 0.03, "optimizers.SGD.weight_decay": 3e-6},
    "incremental_cifar/base.gin": {
        "run.steps": 1_050_000,
        "optimizers.SGD.weight_decay": 5e-4,
        "schedules.MultiStep.milestones": [0.3, 0.6, 0.8],
        "streams.ClassIncremental.batch_size": 90,
        "streams.ClassIncremental.validation_per_class": 50,
        "strategies.RestoreBest.criterion": "accuracy",
        "metrics.Evaluation.every": "epoch_end",
        "parameters": 11_224_932,
    },
    "incremental_cifar/continual_backprop.gin": {
        f"{CBP}.replacement_rate": 1e-5,
        f"{CBP}.maturity_threshold": 1000,
        f"{CBP}.utility": "contribution",
        f"{CBP}.clear_optimizer": False,
    },
    "incremental_cifar/retrained.gin": {f"{RESET}.parts": ("network", "momentum")},
    "permuted_mnist/swr.gin": {
        "run.seeds": 30,
        "run.steps": 1000 * 2000,
        "optimizers.SGDW.learning_rate": 0.05,
        "strategies.SelectiveWeightReinit.period": 2048,
        "strategies.SelectiveWeightReinit.reinit_factor": 1e-5,
        "parameters": 99_710,
    },
}


def settings(name: str) -> dict[str, Any]:
    """What a run's first variant is built with, named as in gin, and "run.steps" and "parameters"."""
    request = read(name)
    variant, used = built(request, next(iter(request.variants)))
    found = {key: value for key, value in used.items() if key.startswith("architectures.")}
    for part in (variant.stream, variant.optimizer, variant.schedule, *variant.strategies, *variant.plan.metrics):
        kind = kind_of(type(part))
        found |= {f"{kind}.{type(part).__name__}.{field}": value for field, value in vars(part).items()}
    parameters = sum(parameter.numel() for parameter in variant.module.parameters())
    return {**found, "run.seeds": len(variant.seeds), "run.steps": variant.plan.steps, "parameters": parameters}


@pytest.mark.parametrize("name", VALUES)
def test_published_values_reach_the_parts(name: str) -> None:
    found, wanted = settings(name), VALUES[name]
    assert {key: found.get(key, "is not there") for key in wanted} == wanted


def tuned() -> list[tuple[str, dict[str, float]]]:
    """The runs of L2 Init's tables 3 and 4, and the values that these give."""
    folders = {
        "permuted_mnist": "permuted_mnist_l2_init",
        "rl_mnist": "random_label_mnist",
        "rl_cifar": "random_label_cifar",
        "five_plus_one": "five_plus_one_cifar",
        "continual_imagenet": "continual_imagenet_l2_init",
    }
    names = {"problem", "optimizer", "method", "source"}
    with (PUBLISHED / "l2_init_hyperparameters.csv").open(encoding="utf-8") as file:
        return [
            (
                f"{folders[row['problem']]}/{row['optimizer']}/{row['method']}.gin",
                {key: float(value) for key, value in row.items() if value and key not in names},
            )
            for row in csv.DictReader(file)
        ]


@pytest.mark.parametrize("name, wanted", tuned()[::11], ids=lambda value: value if isinstance(value, str) else "")
def test_the_tuned_values_of_l2_init_reach_the_parts(name: str, wanted: dict[str, float]) -> None:
    check_tuned(name, wanted)


@pytest.mark.gin
@pytest.mark.parametrize("name, wanted", tuned(), ids=lambda value: value if isinstance(value, str) else "")
def test_all_tuned_values_of_l2_init_reach_the_parts(name: str, wanted: dict[str, float]) -> None:
    check_tuned(name, wanted)


def check_tuned(name: str, wanted: dict[str, float]) -> None:
    """Every value is some part's field of that name, and no field of that name has another value."""
    found = settings(name)
    for field, value in wanted.items():
        assert {each for key, each in found.items() if key.endswith(f".{field}")} == {value}


# Fragments ------------------------------------------------------------------------------------------


FILES = {path.relative_to(FOLDER).as_posix(): path.read_text(encoding="utf-8") for path in FOLDER.rglob("*.gin")}
MENTIONED = {name for text in FILES.values() for name in re.findall(r"""['"]([\w/]+\.gin)['"]""", text)}
#: overlays, and fragments that no run includes
ALONE = sorted(set(FILES) - MENTIONED - set(NAMES))


def test_every_file_that_is_mentioned_exists() -> None:
    assert sorted(MENTIONED - set(FILES)) == []


@pytest.mark.parametrize("name", ALONE)
def test_a_fragment_that_no_run_includes_builds_after_one(name: str) -> None:
    request = read("permuted_mnist/sgd.gin", name)
    (only,) = request.variants
    with request.variant(only):
        run(Surroundings(CPU, generated))
        used = request.operative()
    bound = {key for key, binding in request.settings[only].items() if binding.place.source == FOLDER / name}
    assert bound & set(used)
    assert bound <= set(used) or FOLDER / name in request.overlays
