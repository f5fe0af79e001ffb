"""Interquartile means and bootstrap intervals: by hand, against SciPy, and laws of any numbers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lopbench.analysis.intervals import bootstrap_interval, interquartile_mean, interval

NUMBERS = st.lists(st.integers(-1_000, 1_000).map(lambda number: number / 8), min_size=3, max_size=12)
STATISTICS = st.sampled_from(["mean", "iqm"])
LAW = settings(max_examples=20, deadline=None)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([5.0], 5.0),
        ([1.0, 2.0, 9.0], 4.0),  # of fewer than four none is left out
        ([100.0, 2.0, 1.0, -7.0], 1.5),
        ([9.0, 1.0, 2.0, 3.0, 100.0, 4.0, 5.0], 4.6),  # of seven one at each end
        ([1.0, 1.0, 2.0, 3.0, 4.0, 5.0, 90.0, 80.0], 3.5),
    ],
)
def test_the_interquartile_mean_leaves_out_a_quarter_at_each_end(values, expected):
    assert interquartile_mean(np.array(values)) == pytest.approx(expected)
    assert interval(np.array(values), "iqm")[0] == pytest.approx(expected)


def test_the_interval_of_an_interquartile_mean_is_that_of_the_bootstrap():
    # by sorting 20,000 resamples, without SciPy
    values = np.random.default_rng(0).normal(size=(40, 2))
    center, lower, upper = bootstrap_interval(values, statistic="iqm")
    draws = np.random.default_rng(1).integers(0, 40, (20_000, 40))
    resampled = np.sort(values[draws], axis=1)[:, 10:30].mean(axis=1)
    np.testing.assert_allclose(center, np.sort(values, axis=0)[10:30].mean(axis=0))
    spread = resampled.std(axis=0)
    np.testing.assert_allclose((lower - np.quantile(resampled, 0.025, axis=0)) / spread, 0, atol=0.1)
    np.testing.assert_allclose((upper - np.quantile(resampled, 0.975, axis=0)) / spread, 0, atol=0.1)


def test_one_outlier_moves_the_mean_and_not_the_interquartile_mean():
    values = np.arange(12.0)
    far = np.r_[values[:-1], 1e6]
    assert interval(far, "iqm")[0] == interval(values, "iqm")[0]
    assert interval(far)[0] > 80_000


@LAW
@given(NUMBERS, STATISTICS, st.randoms(use_true_random=False))
def test_the_order_of_replicas_changes_no_bit(numbers, statistic, random):
    shuffled = list(numbers)
    random.shuffle(shuffled)
    assert interval(np.array(shuffled), statistic) == interval(np.array(numbers), statistic)


@LAW
@given(NUMBERS, STATISTICS, st.integers(-500, 500), st.sampled_from([0.5, 1.0, 4.0]))
def test_what_is_added_or_multiplied_to_all_is_so_to_center_and_bounds(numbers, statistic, shift, factor):
    values = np.array(numbers)
    expected = np.array(interval(values, statistic)) * factor + shift
    np.testing.assert_allclose(interval(values * factor + shift, statistic), expected, atol=1e-9)


@LAW
@given(NUMBERS, STATISTICS)
def test_the_center_lies_within_and_bounds_among_the_values(numbers, statistic):
    center, low, high = interval(np.array(numbers), statistic)
    assert min(numbers) - 1e-9 <= low <= high <= max(numbers) + 1e-9
    assert min(numbers) - 1e-9 <= center <= max(numbers) + 1e-9


def test_values_that_are_not_finite_are_left_out():
    values = np.array([3.0, 1.0, 4.0, 1.5, 9.0])
    assert interval(np.r_[values, np.nan, np.inf], "iqm") == interval(values, "iqm")
    assert np.isnan(interval(np.array([np.nan]))).all()
    assert np.isnan(interval(np.array([]))).all()
    center, low, high = interval(np.array([1.0, 2.0]))
    assert center == 1.5
    assert np.isnan([low, high]).all()


def test_the_interval_covers_the_truth_as_often_as_it_says():
    # of 400 samples of 30 normals: the percentile interval covers a little less than 95%, as a t-interval with z would
    samples = np.random.default_rng(2).normal(size=(30, 400))
    _, lower, upper = bootstrap_interval(samples, resamples=999)
    covered = int(((lower <= 0) & (upper >= 0)).sum())
    assert stats.binomtest(covered, 400, 0.94).pvalue > 0.01
