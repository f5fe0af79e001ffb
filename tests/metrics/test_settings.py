"""Wrong settings of metrics are refused when they are made, in one sentence."""

import dataclasses
import re

import pytest

from lopbench.errors import UserError
from lopbench.metrics import DeadUnits, DormantUnits, InactiveUnits, Ranks, WeightMagnitude
from lopbench.registry import parts

METRICS = parts("metrics")
ON_A_BATCH = [name for name, metric in METRICS.items() if "probe_size" in metric.__dataclass_fields__]


@pytest.mark.parametrize("name", METRICS)
def test_when_it_is_measured(name):
    for every in ("task_start", "task_end", "epoch_end", 1, 2000):
        assert METRICS[name](every=every).every == every
    for every in ("task_begin", 0, -5, 2.5, True, None, "100"):
        with pytest.raises(UserError, match=f"metrics.{name}.every is {every!r}: it must be 'task_start'"):
            METRICS[name](every=every)


@pytest.mark.parametrize("name", ON_A_BATCH)
def test_its_batch(name):
    for size in (1, 2000, None):
        assert METRICS[name](probe_size=size).probe_size == size
    for size in (0, -1, 2.5, "7", True):
        with pytest.raises(
            UserError, match=f"metrics.{name}.probe_size is {size!r}: it must be an integer at least 1, or"
        ):
            METRICS[name](probe_size=size)
    for split in ("test", ["test"], ("train", "new_classes")):
        assert METRICS[name](probe_split=split).probe_split == split
    for split in ("", [], ["test", "test"], ["test", ""], ["test", 3], None, 5):
        message = re.escape(f"metrics.{name}.probe_split is {split!r}: it must be the name of a split")
        with pytest.raises(UserError, match=message):
            METRICS[name](probe_split=split)


@pytest.mark.parametrize("name", METRICS)
def test_what_reads_no_batch_has_no_setting_for_it(name):
    metric = METRICS[name]()
    assert (metric.probe_size != 0) == (name in ON_A_BATCH)
    assert dataclasses.is_dataclass(metric)


@pytest.mark.parametrize(
    ("metric", "field", "value"),
    [
        (DeadUnits, "epsilon", -0.1),
        (DeadUnits, "epsilon", 0.5),
        (DeadUnits, "upstream_upper_bound", 1),
        (DormantUnits, "threshold", "0.1"),
        (DormantUnits, "threshold", -1),
        (InactiveUnits, "fraction", 0),
        (InactiveUnits, "fraction", 1.5),
        (Ranks, "layers", "first"),
        (Ranks, "token", 0.5),
        (Ranks, "rank_tolerance", 1),
        (Ranks, "rank_tolerance", None),
        (Ranks, "batch_statistics", 1),
        (InactiveUnits, "batch_statistics", None),
        (WeightMagnitude, "statistics", "mean"),
        (WeightMagnitude, "statistics", ["mean", "mean"]),
        (WeightMagnitude, "statistics", []),
    ],
)
def test_its_own_fields(metric, field, value):
    with pytest.raises(UserError, match=f"^metrics.{metric.__name__}.{field} is {re.escape(repr(value))}: it must be "):
        metric(**{field: value})


def test_a_statistic_of_another_name_is_refused():
    with pytest.raises(UserError, match=r"metrics.WeightMagnitude.statistics is 'medium'.*Did you mean median"):
        WeightMagnitude(statistics=["mean", "medium"])
