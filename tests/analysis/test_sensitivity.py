"""Sensitivity to what was swept, and the best point: chosen on some seeds, reported on others."""

import numpy as np
import pytest

from lopbench.analysis.intervals import interval
from lopbench.analysis.sensitivity import best, sensitivity
from lopbench.errors import UserError
from tests.analysis.made_up import ACCURACY, FACTOR, LOSS, RATE, study_of


def swept(scores, tag=ACCURACY, method="swr", key=FACTOR):
    """A method at several values of one key, beside a base without: `scores` {value: of each seed}."""
    values = {f"{method} {value}": of_seeds for value, of_seeds in scores.items()}
    told = {f"{method} {value}": (method, {key: value}) for value in scores}
    return study_of({"base": [0.5] * len(next(iter(values.values()))), **values}, tag, told)


def test_one_row_for_each_value_in_order():
    scores = {0.5: [0.7, 0.8, 0.9], None: [0.1, 0.2, 0.3], 0.01: [0.4, 0.6, 0.8]}
    found = sensitivity(swept(scores), ACCURACY)
    assert found["value"].tolist() == [None, 0.01, 0.5]
    assert set(found["method"]) == {"swr"}  # the base was not swept
    assert set(found["key"]) == {FACTOR}
    for line in found.to_dict("records"):
        assert (line["center"], line["low"], line["high"]) == interval(np.array(scores[line["value"]]))
        assert (line["seeds"], line["diverged"], line["others"], line["points"]) == (3, 0, {}, 1)


def test_texts_and_truth_values_are_values_too():
    scores = {"relu": [0.1], True: [0.2], None: [0.3], 7: [0.4]}
    assert sensitivity(swept(scores), ACCURACY)["value"].tolist() == [None, True, 7, "relu"]


def grid(tag=ACCURACY, sign=1):
    """Two keys of two values each, on which the score depends together."""
    centers = {(0.1, 1.0): 0.5, (0.1, 2.0): 0.9, (0.2, 1.0): 0.6, (0.2, 2.0): 0.7}
    values = {
        f"{factor} {rate}": [sign * (center + d) for d in (-0.01, 0, 0.01)]
        for (factor, rate), center in centers.items()
    }
    return study_of(values, tag, {f"{f} {r}": ("swr", {FACTOR: f, RATE: r}) for f, r in centers})


@pytest.mark.parametrize(("tag", "sign"), [(ACCURACY, 1), (LOSS, -1)])
def test_other_keys_are_at_their_best_and_said(tag, sign):
    found = sensitivity(grid(tag, sign), tag)
    shown = found[["key", "value", "variant", "points"]].to_numpy().tolist()
    assert shown == [
        [FACTOR, 0.1, "0.1 2.0", 2],
        [FACTOR, 0.2, "0.2 2.0", 2],
        [RATE, 1.0, "0.2 1.0", 2],
        [RATE, 2.0, "0.1 2.0", 2],
    ]
    np.testing.assert_allclose(found["center"], sign * np.array([0.9, 0.7, 0.6, 0.9]))
    assert found["others"].tolist() == [{RATE: 2.0}, {RATE: 2.0}, {FACTOR: 0.2}, {FACTOR: 0.1}]


def test_without_a_sweep_there_is_nothing_to_show():
    found = sensitivity(study_of({"a": [1.0], "b": [2.0]}), ACCURACY)
    assert len(found) == 0
    assert "center" in found.columns


def test_a_point_is_not_chosen_for_what_its_diverged_seeds_leave():
    scores = {0.1: [0.9, np.nan, np.nan, 0.9], 0.2: [0.8, 0.8, 0.8, 0.8]}
    line = best(swept(scores), ACCURACY).set_index("method").loc["swr"]
    assert line["values"] == {FACTOR: 0.2}
    found = sensitivity(swept(scores), ACCURACY)
    assert found["center"].tolist() == [0.9, 0.8]
    assert found["diverged"].tolist() == [2, 0]


def test_the_best_point_is_chosen_on_half_the_seeds_and_reported_on_the_others():
    rng = np.random.default_rng(0)
    lucky, good = rng.normal(0.5, 0.01, 8), rng.normal(0.7, 0.01, 8)
    lucky[4:] += 0.4  # in the seeds that are reported, which must have no say
    found = best(swept({0.1: lucky, 0.2: good}), ACCURACY).set_index("method")
    line = found.loc["swr"]
    assert (line["variant"], line["points"], line["chosen_on"]) == ("swr 0.2", 2, (0, 1, 2, 3))
    assert line["chosen_score"] == pytest.approx(good[:4].mean())
    assert (line["mean"], line["mean_low"], line["mean_high"]) == interval(good[4:])
    assert (line["seeds"], line["diverged"]) == (4, 0)
    assert (found.loc["base", "values"], found.loc["base", "points"], found.loc["base", "seeds"]) == ({}, 1, 4)
    line = best(swept({0.1: lucky, 0.2: good}), ACCURACY, choose=[5, 6, 77]).set_index("method").loc["swr"]
    assert (line["variant"], line["chosen_on"], line["seeds"]) == ("swr 0.1", (5, 6), 6)


def test_the_choice_among_many_equal_points_is_reported_without_the_luck_of_the_choice():
    # 200 points of pure noise: the best on three seeds is well above 0, on the others it is not
    noise = np.random.default_rng(1).normal(size=(200, 6))
    line = best(swept({float(n): row for n, row in enumerate(noise)}), ACCURACY).set_index("method").loc["swr"]
    assert line["chosen_score"] > 1.2
    assert line["mean"] < 0.9


def test_diverged_seeds_of_the_others_are_counted():
    line = best(swept({0.1: [0.5, 0.6, np.nan, 0.8, 0.9, np.nan]}), ACCURACY).set_index("method").loc["swr"]
    assert (line["seeds"], line["diverged"]) == (2, 1)
    assert line["mean"] == pytest.approx(0.85)


def test_seeds_to_choose_by_must_be_there_and_one_seed_leaves_none():
    with pytest.raises(UserError, match=r"None of the seeds 8, 9 to choose by is of base: 0, 1"):
        best(swept({0.1: [0.5, 0.6]}), ACCURACY, choose=[8, 9])
    line = best(swept({0.1: [0.5], 0.2: [0.6]}), ACCURACY).set_index("method").loc["swr"]
    assert (line["variant"], line["chosen_on"], line["seeds"]) == ("swr 0.2", (0,), 0)
    assert np.isnan(line["mean"])
