"""Final scores and plasticity: numbers by hand, and what becomes of replicas that diverged or are not there yet."""

import numpy as np
import pytest

from lopbench.analysis.intervals import interval
from lopbench.analysis.scores import final, judged, plasticity, summary
from lopbench.errors import UserError
from tests.analysis.made_up import ACCURACY, FACTOR, LOSS, Population, members, read_back, study_of


def ramp(tasks, slopes):
    """Task t is t times each replica's slope."""
    return np.arange(tasks)[:, None] * np.asarray(slopes, float)


def test_the_final_score_is_the_mean_over_the_last_tenth():
    study = read_back(Population(members("a", 2, {FACTOR: 0.5}, "m"), {ACCURACY: ramp(25, [1, 2])}))
    found = final(study, ACCURACY)
    assert list(found.columns) == ["replica", "variant", "method", "seed", FACTOR, "score"]
    assert found["score"].tolist() == [23.5, 47.0]  # tasks 23 and 24
    assert found.attrs["tasks"] == (23, 24)
    assert final(study, ACCURACY, last=25)["score"].tolist() == [12.0, 24.0]
    for last in (0, 26):
        with pytest.raises(UserError, match=f"last={last}: task/online_accuracy has values in 25 tasks"):
            final(study, ACCURACY, last=last)


def test_of_few_tasks_the_last_one_counts():
    assert final(study_of({"a": [3.0, 4.0]}), ACCURACY)["score"].tolist() == [3.0, 4.0]


def test_each_task_counts_once_however_often_it_was_measured():
    study = read_back(Population(members("a", 1), {ACCURACY: np.array([[0.0], [1.0], [2.0]])}))
    study.rows["task"] = [0, 0, 1]  # as of a metric that is measured each epoch
    assert final(study, ACCURACY, last=2)["score"].tolist() == [(0.5 + 2) / 2]


def test_a_diverged_replica_has_no_score_and_is_counted():
    values = ramp(10, [1, 2, 3, 4, 5])
    values[9:, 4] = np.nan
    study = read_back(Population(members("a", 5), {ACCURACY: values}, frozen={4: 950}))
    assert final(study, ACCURACY)["score"].isna().tolist() == [False] * 4 + [True]
    assert final(study, ACCURACY, last=3)["score"].isna().tolist() == [False] * 4 + [True]  # not the mean of the rest
    (line,) = summary(study, ACCURACY).to_dict("records")
    assert (line["seeds"], line["diverged"]) == (4, 1)
    assert line["mean"] == pytest.approx(9 * 2.5)


@pytest.mark.parametrize(("tag", "expected"), [(ACCURACY, [5.0, 1.0, 1.0]), (LOSS, [-5.0, -1.0, -5.0])])
def test_where_variants_are_ranked_a_diverged_replica_is_the_worst(tag, expected):
    study = study_of({"a": [5.0], "b": [1.0], "c": [np.nan]}, tag)
    assert judged(final(study, tag), tag).tolist() == expected


def test_who_is_not_there_yet_is_neither_scored_nor_counted():
    late = Population(members("late", 3), {ACCURACY: ramp(3, [1, 2, 3])}, "interrupted")
    study = read_back(Population(members("early", 3), {ACCURACY: ramp(20, [1, 2, 3])}), late)
    assert set(final(study, ACCURACY)["variant"]) == {"early"}
    assert final(study, ACCURACY).attrs["tasks"] == (18, 19)
    lines = summary(study, ACCURACY).set_index("variant")
    assert lines["seeds"].to_dict() == {"early": 3, "late": 0}
    assert lines["diverged"].to_dict() == {"early": 0, "late": 0}
    assert np.isnan(lines.loc["late", "mean"])


def test_who_diverged_is_counted_wherever_the_others_are():
    late = Population(members("late", 3), {ACCURACY: ramp(3, [1, np.nan, 3])}, "interrupted", {1: 50})
    study = read_back(Population(members("early", 3), {ACCURACY: ramp(20, [1, 2, 3])}), late)
    for found in (summary(study, ACCURACY), plasticity(study, ACCURACY)):
        line = found.set_index("variant").loc["late"]
        assert (line["seeds"], line["diverged"]) == (0, 1)


def test_a_summary_has_means_and_interquartile_means_of_each_variant():
    rng = np.random.default_rng(0)
    given = {"a": rng.normal(size=8), "b": rng.normal(size=5)}
    found = summary(study_of(given), ACCURACY)
    assert found["variant"].tolist() == ["a", "b"]
    for line in found.to_dict("records"):
        values = given[line["variant"]]
        assert (line["mean"], line["mean_low"], line["mean_high"]) == interval(values)
        assert (line["iqm"], line["iqm_low"], line["iqm_high"]) == interval(values, "iqm")


def test_plasticity_is_the_last_task_less_the_first():
    first, last = np.array([0.9, 0.8, 0.7, 0.9]), np.array([0.5, 0.2, 0.6, 0.8])
    study = read_back(Population(members("a", 4), {ACCURACY: np.stack([first, first + 9, last])}))
    found = plasticity(study, ACCURACY)
    (line,) = found.to_dict("records")
    assert found.attrs["tasks"] == (0, 2)
    for name, values in (("first", first), ("last", last), ("change", last - first)):
        assert (line[name], line[f"{name}_low"], line[f"{name}_high"]) == interval(values)
    assert (line["seeds"], line["diverged"]) == (4, 0)


def test_plasticity_is_of_the_same_replicas_at_both_ends():
    values = np.array([[1.0, 2.0, 3.0, 60.0], [0.0, 1.0, 2.0, np.nan]])
    late = Population(members("late", 1), {ACCURACY: values[:1, :1]}, "interrupted")
    study = read_back(Population(members("a", 4), {ACCURACY: values}, frozen={3: 120}), late)
    line = plasticity(study, ACCURACY).set_index("variant").loc["a"]
    assert (line["first"], line["last"], line["change"]) == (2.0, 1.0, -1.0)
    assert (line["seeds"], line["diverged"]) == (3, 1)
    line = plasticity(study, ACCURACY).set_index("variant").loc["late"]
    assert (line["seeds"], line["diverged"]) == (0, 0)
    assert np.isnan(line["change"])
