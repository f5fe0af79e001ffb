"""Curves of a study: values by hand, bins, steps, and who is in them."""

import numpy as np
import pytest
from scipy import stats

from lopbench.analysis.curves import curves
from lopbench.analysis.intervals import bootstrap_interval
from lopbench.errors import UserError
from tests.analysis.made_up import ACCURACY, DEAD, STEPS, Population, members, read_back

RNG = np.random.default_rng


def two_variants(tasks):
    """Four seeds of one variant and three of another, in two populations; the study and both's values."""
    first, second = RNG(0).normal(size=(tasks, 4)), RNG(1).normal(size=(tasks, 3))
    populations = [Population(members(name, v.shape[1]), {ACCURACY: v}) for name, v in (("a", first), ("b", second))]
    return read_back(*populations), first, second


def of(found, variant):
    return found[found["variant"] == variant]


def test_a_point_is_the_mean_over_seeds_and_its_bootstrap_interval():
    study, *given = two_variants(5)
    found = curves(study, ACCURACY)
    assert list(found.columns) == ["variant", "x", "center", "lower", "upper", "seeds", "diverged"]
    assert found.attrs == {"width": 1}
    assert list(found["variant"].unique()) == ["a", "b"]
    for variant, values in zip("ab", given, strict=True):
        own = of(found, variant)
        np.testing.assert_array_equal(own["x"], np.arange(5))
        np.testing.assert_allclose(own[["center", "lower", "upper"]].T, bootstrap_interval(values.T))
        assert (own["seeds"] == values.shape[1]).all()


def test_interquartile_means_are_scipys():
    values = RNG(2).normal(size=(3, 9))
    study = read_back(Population(members("a", 9), {ACCURACY: values}))
    found = curves(study, ACCURACY, statistic="iqm")
    np.testing.assert_allclose(found["center"], stats.trim_mean(values, 0.25, axis=1))
    assert (found["lower"] < found["center"]).all()


def test_neighbouring_tasks_are_averaged_where_there_are_many():
    study, values, _ = two_variants(25)
    found = of(curves(study, ACCURACY, most_points=10), "a")
    assert curves(study, ACCURACY, most_points=10).attrs == {"width": 3}
    np.testing.assert_array_equal(found["x"], [1, 4, 7, 10, 13, 16, 19, 22, 24])
    np.testing.assert_allclose(found["center"], [values[start : start + 3].mean() for start in range(0, 25, 3)])
    assert len(of(curves(study, ACCURACY, most_points=1), "a")) == 1


def test_over_steps_a_point_stands_where_it_was_recorded():
    study, values, _ = two_variants(6)
    found = of(curves(study, ACCURACY, over="step"), "a")
    np.testing.assert_array_equal(found["x"], STEPS * np.arange(1, 7))
    pairs = of(curves(study, ACCURACY, over="step", most_points=3), "a")
    np.testing.assert_array_equal(pairs["x"], STEPS * np.array([1.5, 3.5, 5.5]))
    np.testing.assert_allclose(pairs["center"], values.reshape(3, 2, 4).mean(axis=(1, 2)))


def test_the_diverged_are_counted_and_left_out_from_then_on():
    values = RNG(3).normal(size=(4, 5))
    values[2:, 1] = np.nan
    values[3:, 4] = np.inf
    study = read_back(Population(members("a", 5), {ACCURACY: values}, frozen={1: 250, 4: 350}))
    found = curves(study, ACCURACY)
    assert found["seeds"].tolist() == [5, 5, 4, 3]
    assert found["diverged"].tolist() == [0, 0, 1, 2]
    np.testing.assert_allclose(found["center"].iloc[3], values[3, [0, 2, 3]].mean())
    binned = curves(study, ACCURACY, most_points=1)
    assert (binned["seeds"].item(), binned["diverged"].item()) == (3, 2)


def test_a_variant_has_no_points_where_it_has_no_values_yet():
    late = Population(members("late", 3), {ACCURACY: RNG(4).normal(size=(2, 3))}, "interrupted")
    waiting = Population(members("waiting", 3), {}, None)
    study = read_back(Population(members("early", 3), {ACCURACY: RNG(5).normal(size=(6, 3))}), late, waiting)
    found = curves(study, ACCURACY)
    assert of(found, "late")["x"].tolist() == [0, 1]
    assert of(found, "early")["x"].tolist() == list(range(6))
    assert "waiting" not in set(found["variant"])


def test_two_seeds_have_a_mean_and_no_band():
    found = curves(read_back(Population(members("a", 2), {ACCURACY: np.array([[1.0, 2.0]])})), ACCURACY)
    assert found["center"].tolist() == [1.5]
    assert found[["lower", "upper"]].isna().all(axis=None)


def test_what_can_not_be_drawn_is_refused():
    study, *_ = two_variants(2)
    with pytest.raises(UserError, match="no records of 'units/dead'"):
        curves(study, DEAD)
    with pytest.raises(UserError, match="over='epoch': a curve goes over 'task' or 'step'"):
        curves(study, ACCURACY, over="epoch")
    with pytest.raises(UserError, match="most_points=0"):
        curves(study, ACCURACY, most_points=0)
