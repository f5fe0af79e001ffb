"""Variants against a baseline: pairs by seed, the probability of improvement by hand and by SciPy, laws."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lopbench.analysis.comparison import compare, probability_of_improvement
from lopbench.analysis.intervals import interval
from lopbench.errors import UserError
from tests.analysis.made_up import ACCURACY, LOSS, Population, members, read_back, study_of

SCORES = st.lists(st.integers(-8, 8).map(float), min_size=1, max_size=8)
LAW = settings(max_examples=25, deadline=None)


def of(found, variant):
    return found.set_index("variant").loc[variant]


def test_differences_are_taken_seed_by_seed():
    rng = np.random.default_rng(0)
    seeds, better = 100 * rng.normal(size=6), rng.normal(1, 0.1, size=6)
    found = compare(study_of({"base": seeds, "swr": seeds + better, "worse": seeds - better}), ACCURACY)
    assert found["variant"].tolist() == ["swr", "worse"]
    assert found.attrs == {"baseline": "base", "baseline_diverged": "", "tasks": (0, 0)}
    line = of(found, "swr")
    shown = [line["difference"], line["difference_low"], line["difference_high"]]
    np.testing.assert_allclose(shown, interval(better))  # the seeds' own spread, a hundred times as large, is gone
    np.testing.assert_allclose(of(found, "worse")["difference"], -better.mean())
    assert (line["pairs"], line["seeds"], line["diverged"], line["diverged_seeds"]) == (6, 6, 0, "")


def test_only_seeds_in_common_are_paired():
    everyone = members("base", [0, 1, 2, 3]) + members("swr", [2, 3, 9])
    study = read_back(Population(everyone, {ACCURACY: np.array([[1.0, 2.0, 3.0, 4.0, 13.0, 24.0, 100.0]])}))
    line = of(compare(study, ACCURACY), "swr")
    assert (line["pairs"], line["difference"], line["seeds"]) == (2, 15.0, 3)
    assert line["probability_of_improvement"] == 1


def test_a_baseline_may_be_named_and_an_unknown_one_is_refused():
    study = study_of({"base": [1.0], "swr": [3.0]})
    found = compare(study, ACCURACY, "swr")
    assert found["variant"].tolist() == ["base"]
    assert found["difference"].tolist() == [-2.0]
    with pytest.raises(UserError, match=r"no variant 'sw' to compare with\. Did you mean swr"):
        compare(study, ACCURACY, "sw")
    assert len(compare(study_of({"base": [1.0]}), ACCURACY)) == 0


@pytest.mark.parametrize(("tag", "expected"), [(ACCURACY, 1.0), (LOSS, 0.0)])
def test_of_a_loss_less_is_an_improvement(tag, expected):
    line = of(compare(study_of({"base": [1.0, 2.0, 3.0], "swr": [4.0, 5.0, 6.0]}, tag), tag), "swr")
    assert line["difference"] == 3
    assert line["probability_of_improvement"] == expected
    assert line["probability_of_improvement_low"] == line["probability_of_improvement_high"] == expected


def test_a_variant_does_not_look_better_for_its_diverged_replicas():
    base = [0.4, 0.5, 0.6, 0.7]
    whole = of(compare(study_of({"base": base, "swr": [0.3, 0.8, 0.9, 0.9]}), ACCURACY), "swr")
    study = study_of({"base": base, "swr": [np.nan, 0.8, 0.9, np.nan]})
    line = of(compare(study, ACCURACY), "swr")
    assert (line["pairs"], line["seeds"], line["diverged"], line["diverged_seeds"]) == (2, 2, 2, "0, 3")
    assert line["difference"] == pytest.approx((0.3 + 0.3) / 2)
    assert line["probability_of_improvement"] == 8 / 16 < whole["probability_of_improvement"]
    reverse = compare(study, ACCURACY, "swr")
    assert of(reverse, "base")["probability_of_improvement"] == 8 / 16
    assert reverse.attrs["baseline_diverged"] == "0, 3"


def test_the_probability_of_improvement_by_hand():
    # 2 beats 1 and equals 2; 3 beats both; a diverged run loses against both
    assert probability_of_improvement(np.array([2.0, 3.0, np.nan]), np.array([1.0, 2.0]))[0] == (1.5 + 2 + 0) / 6
    assert probability_of_improvement(np.array([np.nan]), np.array([np.nan]))[0] == 0.5
    assert np.isnan(probability_of_improvement(np.array([]), np.array([1.0]))).all()


@LAW
@given(SCORES, SCORES)
def test_the_probability_of_improvement_is_mann_whitneys_u(ours, theirs):
    found = probability_of_improvement(np.array(ours), np.array(theirs))[0]
    expected = stats.mannwhitneyu(ours, theirs, method="asymptotic").statistic / (len(ours) * len(theirs))
    assert found == pytest.approx(expected)


@LAW
@given(SCORES, SCORES, st.randoms(use_true_random=False))
def test_probabilities_add_up_to_one_and_do_not_depend_on_order(ours, theirs, random):
    found = probability_of_improvement(np.array(ours), np.array(theirs))
    shuffled = list(ours)
    random.shuffle(shuffled)
    np.testing.assert_array_equal(probability_of_improvement(np.array(shuffled), np.array(theirs)), found)
    assert found[0] + probability_of_improvement(np.array(theirs), np.array(ours))[0] == pytest.approx(1)
    if not np.isnan(found[1]):
        assert 0 <= found[1] <= found[0] <= found[2] <= 1


@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(-8, 8).map(float) | st.just(np.nan), min_size=3, max_size=6))
def test_a_variant_against_a_copy_of_itself(values):
    line = of(compare(study_of({"base": values, "copy": values}), ACCURACY), "copy")
    assert line["probability_of_improvement"] == 0.5
    assert line["probability_of_improvement_low"] <= 0.5 <= line["probability_of_improvement_high"]
    finite = int(np.isfinite(values).sum())
    assert (line["pairs"], line["diverged"]) == (finite, len(values) - finite)
    assert line["difference"] == 0 if finite else np.isnan(line["difference"])
    if finite >= 3:
        assert line["difference_low"] == line["difference_high"] == 0


def test_the_interval_of_the_probability_covers_the_truth():
    # normals a standard deviation apart: the truth is Phi(1 / sqrt(2))
    rng = np.random.default_rng(1)
    truth, covered = stats.norm.cdf(1 / np.sqrt(2)), 0
    for _ in range(60):
        _, low, high = probability_of_improvement(rng.normal(1, 1, 20), rng.normal(0, 1, 20))
        covered += low <= truth <= high
    assert stats.binomtest(covered, 60, 0.94).pvalue > 0.01
