"""Published numbers are found for what reproduces them, and for nothing else."""

import re

import pytest

from lopbench import lookup
from lopbench.analysis.published import Number, numbers, shipped_name
from lopbench.analysis.reproductions import LONG, REPRODUCTIONS, SHORT

RATE, FACTOR = "optimizers.SGD.learning_rate", "strategies.SelectiveWeightReinit.reinit_factor"
ACCURACY, LOSS, TEST = "task/online_accuracy", "task/online_loss", "task/best_accuracy.test"


def found(file, method, values, tag):
    """(first task, last task, value, low, high) of each number of a tag."""
    own = [n for n in numbers(file, method, values, swept=values) if n.tag == tag]
    return [(n.first, n.last, *(round(x, 6) for x in (n.value, n.low, n.high))) for n in own]


@pytest.mark.parametrize(
    ("file", "method", "values", "tag", "expected"),
    [
        # a mean over all tasks with its standard error, 0.38 %
        ("permuted_mnist/large/swr_mean.gin", "swr_mean", {}, ACCURACY, [(0, None, 0.8539, 0.8501, 0.8577)]),
        # two tasks read off a chart; "its highest" is no task, and is left out
        ("permuted_mnist/methods.gin", "sgd", {}, ACCURACY, [(99, 99, *[0.89] * 3), (999, 999, *[0.835] * 3)]),
        ("permuted_mnist/small/sgd.gin", "sgd", {}, ACCURACY, [(0, 0, *[0.86] * 3), (999, 999, *[0.77] * 3)]),
        ("permuted_mnist/methods.gin", "swr", {}, "weights/magnitude", [(999, 999, 0.055, 0.05, 0.06)]),
        # the row of the value that was swept
        ("permuted_mnist/swr.gin", "swr", {FACTOR: 1e-5}, ACCURACY, [(0, None, 0.9279, 0.92788, 0.92792)]),
        (
            "permuted_mnist_online/sgd.gin",
            "sgd",
            {RATE: 0.01},
            ACCURACY,
            [(0, 0, *[0.946] * 3), (799, 799, *[0.902] * 3)],
        ),
        (
            "slowly_changing_regression/sgd_relu.gin",
            "sgd_relu",
            {RATE: 0.003},
            LOSS,
            [(0, 1, *[0.75] * 3), (80, 99, 1.1, 1.07, 1.13)],
        ),
        # the last of 100 classes, five a task; a range
        ("incremental_cifar_vit/coupled_decay.gin", "coupled_decay", {}, TEST, [(19, 19, 0.45, 0.43, 0.47)]),
        ("incremental_cifar/retrained.gin", "retrained", {}, TEST, [(19, 19, *[0.7605] * 3)]),
        ("quickstart.gin", "continual_backprop", {}, LOSS, [(80, 99, 0.577, 0.56, 0.594)]),
        ("permuted_mnist_l2_init/forgetting/ewc.gin", "ewc", {}, ACCURACY, [(0, None, *[0.758] * 3)]),
    ],
)
def test_the_numbers_are_those_of_the_table_in_our_units(file, method, values, tag, expected):
    assert found(file, method, values, tag) == expected


@pytest.mark.parametrize(
    ("file", "method", "values"),
    [
        ("permuted_mnist/swr.gin", "swr", {FACTOR: 1e-4}),  # not the published factor
        ("permuted_mnist/sgd.gin", "sgd", {RATE: 0.123}),
        ("permuted_mnist/methods.gin", "swr", {"architectures.MLP.width": 50}),  # no row says of which width it is
        ("permuted_mnist/methods.gin", "l2_init", {}),  # nothing is published of it
        ("permuted_mnist/tanh/swr.gin", "swr", {}),
        ("permuted_mnist_online/sgd.gin", "sgd", {RATE: None}),
        ("mine.gin", "sgd", {}),
    ],
)
def test_what_is_not_the_published_setting_has_none(file, method, values):
    assert numbers(file, method, values, swept=values) == []


def test_a_value_that_no_point_differs_in_need_not_be_stated():
    decay = {"optimizers.SGD.weight_decay": 0.0}
    assert numbers("quickstart.gin", "sgd", decay) == numbers("quickstart.gin", "sgd", {}) != []
    assert numbers("quickstart.gin", "sgd", decay, swept=decay) == []


def test_rows_that_leave_out_what_others_tell_apart_are_of_nobody():
    """Dead units were published for two step sizes and once without any, as of which nobody knows."""
    assert not [n for n in numbers("permuted_mnist_online/sgd.gin", "sgd", {RATE: 0.003}) if n.tag == "units/dead"]


def test_a_source_is_cited_with_every_number():
    assert all(n.source for n in numbers("permuted_mnist/methods.gin", "sgd", {}))
    assert isinstance(numbers("quickstart.gin", "sgd", {})[0], Number)


@pytest.mark.parametrize("rule", REPRODUCTIONS, ids=lambda rule: f"{rule.table}:{rule.holds.__name__}")
def test_every_rule_is_of_gin_files_that_there_are_and_finds_numbers(rule):
    names = [name for name in lookup.shipped_names() if re.fullmatch(rule.files, name)]
    assert names
    methods = {*SHORT, *LONG, *(name.rpartition("/")[2].removesuffix(".gin") for name in names)}
    swept = [{}, {RATE: 0.01}, {"x.width": 100.0}, {"x.steps_per_task": 1e5}, {"x.replacement_rate": 1e-4}]
    assert any(numbers(name, method, values) for name in names for method in methods for values in swept)


def test_a_shipped_file_is_known_wherever_it_was_found():
    assert shipped_name("/somewhere/gin_configs/permuted_mnist/swr.gin") == "permuted_mnist/swr.gin"
    assert shipped_name("permuted_mnist/swr.gin") == "permuted_mnist/swr.gin"
    assert shipped_name("/home/me/swr.gin") is None
