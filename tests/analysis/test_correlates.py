"""Predictors of the next task: which numbers make a pair, and their rank correlations against SciPy's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lopbench.analysis import correlates
from lopbench.analysis.correlates import MOST_TASKS, pairs_of, predictors
from lopbench.errors import UserError
from tests.analysis.made_up import ACCURACY, DEAD, MAGNITUDE, RANK, STEPS, Population, members, read_back

LEARNED = "task/online_loss"


def study_with(learned, frozen=None, **measures):
    """A study of one variant; `measures` by the constants' names, measured as each task begins."""
    named = {globals()[name]: values for name, values in measures.items()}
    return read_back(Population(members("a", learned.shape[1]), {LEARNED: learned, **named}, frozen=frozen or {}))


def line(found, measure):
    return found.set_index("measure").loc[measure]


def test_a_pair_is_what_was_measured_as_a_task_began_and_what_was_learned_in_it():
    dead, learned = np.arange(8.0).reshape(4, 2), 10 + np.arange(8.0).reshape(4, 2)
    pairs = pairs_of(study_with(learned, DEAD=dead), DEAD, LEARNED)
    np.testing.assert_array_equal(pairs.learned, learned[1:].T)  # without the first task
    np.testing.assert_array_equal(pairs.before, dead[1:].T)


def test_nothing_that_was_measured_later_and_nothing_that_is_old_makes_a_pair():
    learned = np.arange(4.0)[:, None]
    study = study_with(learned, DEAD=np.array([[0.0], [1.0], [2.0], [3.0]]))
    at = study.rows["tag"] == DEAD
    # task 1 begins after 100 updates; its own measurement is one update late, so that of task 0 counts
    study.rows.loc[at, "step"] = [0, STEPS + 1, 2 * STEPS, 2 * STEPS + 1]
    np.testing.assert_array_equal(pairs_of(study, DEAD, LEARNED).before, [[0, 2, 3]])
    study.rows.loc[at, "step"] = [0, 0, 0, 3 * STEPS]  # in task 2 nothing was measured since task 1 began
    np.testing.assert_array_equal(pairs_of(study, DEAD, LEARNED).before, [[2, np.nan, 3]])


def test_a_replica_that_was_not_measured_has_no_pairs_and_borrows_none():
    learned = np.arange(8.0).reshape(4, 2)
    measured = Population(members("a", 2), {LEARNED: learned, DEAD: learned})
    study = read_back(measured, Population(members("b", 2), {LEARNED: learned}), measured)
    before = pairs_of(study, DEAD, LEARNED).before
    np.testing.assert_array_equal(before[:2], before[4:])
    assert np.isnan(before[2:4]).all()


def test_correlations_are_scipys():
    rng = np.random.default_rng(0)
    learned = rng.normal(size=(7, 5)).round(1)  # with equal values
    dead = (learned + rng.normal(size=(7, 5))).round(1)
    found = line(predictors(study_with(learned, DEAD=dead), LEARNED), DEAD)
    x, y = dead[1:], learned[1:]
    assert found["pooled"] == pytest.approx(stats.spearmanr(x.ravel(), y.ravel()).statistic)
    over_time = [stats.spearmanr(x[:, r], y[:, r]).statistic for r in range(5)]
    assert found["over_time"] == pytest.approx(np.mean(over_time))
    across = [stats.spearmanr(x[task], y[task]).statistic for task in range(6)]
    assert found["across_replicas"] == pytest.approx(np.mean(across))
    assert (found["pairs"], found["replicas"]) == (30, 5)
    for name in ("pooled", "over_time", "across_replicas"):
        assert found[f"{name}_low"] < found[name] < found[f"{name}_high"]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 3)), min_size=3, max_size=9))
def test_repeated_pairs_correlate_as_if_they_were_written_out(pairs):
    x, y, times = np.array(pairs, float).T
    # a second column, whose least value is the first's largest
    codes = (correlates._codes(np.stack([v, v - v.min() + v.max()], axis=1)) for v in (x, y))
    found, again = correlates._correlations(*codes, np.stack([times, times], axis=1))
    np.testing.assert_allclose(found, again)
    long_x, long_y = np.repeat(x, times.astype(int)), np.repeat(y, times.astype(int))
    if len(long_x) < 3 or len(set(long_x)) == 1 or len(set(long_y)) == 1:
        assert np.isnan(found)
    else:
        assert found == pytest.approx(stats.spearmanr(long_x, long_y).statistic)


def test_a_measure_that_decides_is_told_from_one_that_does_not():
    rng = np.random.default_rng(1)
    learned = rng.normal(size=(20, 12)) + np.arange(20)[:, None]
    measures = {"DEAD": np.exp(learned), "RANK": -learned, "MAGNITUDE": rng.normal(size=(20, 12))}
    found = predictors(study_with(learned, **measures), LEARNED)
    assert found["measure"].tolist() == [RANK, DEAD, MAGNITUDE]
    for name in ("pooled", "over_time", "across_replicas"):
        of = found.set_index("measure")
        np.testing.assert_allclose(of.loc[DEAD, [name, f"{name}_low", f"{name}_high"]].astype(float), 1)
        np.testing.assert_allclose(of.loc[RANK, [name, f"{name}_low", f"{name}_high"]].astype(float), -1)
        assert abs(of.loc[MAGNITUDE, name]) < 0.25


def test_time_and_replicas_are_told_apart():
    # each replica's measure falls as its loss rises, while replicas with more of it have more loss: Simpson's paradox
    time, replica = np.arange(12.0)[:, None], np.arange(5.0)
    learned, dead = time + 100 * replica, -time + 100 * replica
    found = line(predictors(study_with(learned, DEAD=dead), LEARNED), DEAD)
    assert found["over_time"] == pytest.approx(-1)
    assert found["across_replicas"] == pytest.approx(1)
    assert 0.8 < found["pooled"] < 1


def test_the_order_of_replicas_changes_nothing():
    rng = np.random.default_rng(2)
    learned, dead = rng.normal(size=(6, 8)), rng.normal(size=(6, 8))
    order = rng.permutation(8)
    one, other = (
        line(predictors(study_with(learned[:, o], DEAD=dead[:, o]), LEARNED), DEAD) for o in (np.arange(8), order)
    )
    names = ["pooled", "over_time", "across_replicas", "pairs", "replicas"]
    np.testing.assert_allclose(one[names].astype(float), other[names].astype(float))


def test_what_a_diverged_replica_has_left_are_its_pairs_from_before():
    rng = np.random.default_rng(3)
    learned, dead = rng.normal(size=(6, 4)), rng.normal(size=(6, 4))
    learned[3:, 2], dead[4:, 2] = np.nan, np.nan
    found = line(predictors(study_with(learned, {2: 350}, DEAD=dead), LEARNED), DEAD)
    assert (found["pairs"], found["replicas"]) == (5 * 3 + 2, 4)


def test_of_many_tasks_some_are_taken():
    learned = np.arange(1_000.0)[:, None]
    pairs = pairs_of(study_with(learned, DEAD=learned), DEAD, LEARNED)
    assert pairs.learned.shape == (1, MOST_TASKS)
    assert (pairs.learned.min(), pairs.learned.max()) == (1, 999)
    np.testing.assert_array_equal(pairs.before, pairs.learned)


def test_where_there_is_nothing_to_correlate():
    study = study_with(np.ones((1, 3)), DEAD=np.ones((1, 3)))  # one task
    found = line(predictors(study, LEARNED), DEAD)
    assert (found["pairs"], found["replicas"]) == (0, 0)
    assert np.isnan(found["pooled"])
    constant = study_with(np.random.default_rng(4).normal(size=(5, 3)), DEAD=np.zeros((5, 3)))
    found = line(predictors(constant, LEARNED), DEAD)
    assert found["pairs"] == 12
    assert found[["pooled", "over_time", "across_replicas"]].isna().all()
    assert len(predictors(study_with(np.ones((2, 2))), LEARNED)) == 0
    with pytest.raises(UserError, match="no records of 'task/online_accuracy'"):
        predictors(study, ACCURACY)
