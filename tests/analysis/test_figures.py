"""The figure of a run: its intervals by closed form, its lines' values, and the PNG itself."""

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from lopbench.analysis.figures import curves, plasticity_figure, standard_figures
from lopbench.analysis.intervals import bootstrap_interval, student_interval
from lopbench.analysis.lines import spread
from lopbench.analysis.results import load
from lopbench.errors import UserError
from lopbench.loggers.records import Record, Replica
from lopbench.loggers.table import Table

RATE, FACTOR = "optimizers.SGD.learning_rate", "strategies.SelectiveWeightReinit.reinit_factor"
ACCURACY, LOSS = "task/online_accuracy", "task/online_loss"


def make_run(workdir, replicas, values, tag=ACCURACY):
    """A run in which task k has the k-th row of `values` `[tasks, replicas]`."""
    table = Table(workdir, replicas)
    table.write(replicas, [Record(100 * task, task, tag, row) for task, row in enumerate(values)])
    table.close()


def seeds(count, variant="base", hyper=None, first=0):
    return [Replica(first + seed, variant, seed, hyper or {}) for seed in range(count)]


@pytest.mark.parametrize("ones", [3, 8, 15])
def test_the_bootstrap_of_zeros_and_ones_is_a_binomial(ones):
    # a resampled mean of n zeros and ones, k of them ones, is Binomial(n, k / n) / n
    n = 20
    mean, lower, upper = bootstrap_interval(np.r_[np.ones(ones), np.zeros(n - ones)][:, None])
    assert mean == ones / n
    assert lower * n == stats.binom.ppf(0.025, n, ones / n)
    assert upper * n == stats.binom.ppf(0.975, n, ones / n)


def test_the_bootstrap_of_many_normals_is_the_normal_interval():
    values = np.random.default_rng(1).normal(size=(400, 3)) * [1.0, 10.0, 0.1]
    mean, lower, upper = bootstrap_interval(values)
    half = 1.959964 * values.std(axis=0) / np.sqrt(400)
    np.testing.assert_allclose(mean, values.mean(axis=0))
    np.testing.assert_allclose((upper - mean) / half, 1, atol=0.06)
    np.testing.assert_allclose((mean - lower) / half, 1, atol=0.06)


def test_the_bootstrap_leaves_out_what_is_not_finite_and_needs_three_values():
    values = np.random.default_rng(2).normal(size=(6, 4))
    holes = values.copy()
    holes[0, 1] = holes[5, 2] = np.nan
    holes[1, 2] = np.inf
    holes[:4, 3] = np.nan
    mean, lower, upper = bootstrap_interval(holes)
    for column, rows in enumerate([slice(None), [1, 2, 3, 4, 5], [0, 2, 3, 4]]):
        alone = bootstrap_interval(values[rows][:, [column]])
        np.testing.assert_array_equal(np.ravel(alone), [mean[column], lower[column], upper[column]])
    assert mean[3] == values[4:, 3].mean()
    assert np.isnan([lower[3], upper[3]]).all()


def test_the_student_interval_is_scipys():
    values = np.random.default_rng(3).normal(size=(7, 2))
    values[0, 1] = np.nan
    mean, half = student_interval(values)
    for column in range(2):
        finite = values[np.isfinite(values[:, column]), column]
        expected = stats.t.interval(0.95, len(finite) - 1, finite.mean(), stats.sem(finite))
        np.testing.assert_allclose((mean[column] - half[column], mean[column] + half[column]), expected)
    assert np.isnan(student_interval(values[:2])[1]).all()


def test_replicas_that_agree_have_a_band_of_no_width():
    mean, lower, upper = bootstrap_interval(np.full((5, 2), 0.25))
    np.testing.assert_array_equal([mean, lower, upper], 0.25)


def test_one_line_for_each_variant_and_point(tmp_path):
    base, swr = seeds(3, "base", {RATE: 0.1}), seeds(2, "swr", {FACTOR: 0.5}, first=6)
    replicas = [*base, *seeds(3, "base", {RATE: None}, first=3), *swr]
    values = np.random.default_rng(4).normal(size=(5, 8))
    make_run(tmp_path, replicas, values)
    found, width = curves(load(tmp_path, [ACCURACY]))
    assert width == 1
    labels = [curve.label for curve in found]
    assert labels == ["base, learning_rate=0.1", "base, learning_rate=off", "swr"]
    for curve, columns in zip(found, (slice(0, 3), slice(3, 6), slice(6, 8)), strict=True):
        np.testing.assert_array_equal(curve.tasks, np.arange(5))
        expected = bootstrap_interval(values[:, columns].T)
        np.testing.assert_allclose([curve.mean, curve.lower, curve.upper], expected, atol=1e-15)
    assert np.isnan(found[2].lower).all()


def test_many_tasks_are_binned(tmp_path):
    values = np.random.default_rng(5).normal(size=(25, 3))
    values[12, 1] = np.nan
    make_run(tmp_path, seeds(3), values)
    (curve,), width = curves(load(tmp_path, [ACCURACY]), most_points=10)
    assert width == 3
    np.testing.assert_array_equal(curve.tasks, [1, 4, 7, 10, 13, 16, 19, 22, 24])
    np.testing.assert_allclose(curve.mean[0], values[:3].mean())
    np.testing.assert_allclose(curve.mean[4], values[12:15][:, [0, 2]].mean())  # without the non-finite one
    np.testing.assert_allclose(curve.mean[8], values[24].mean())
    assert curve.lost == 1


def test_labels_keep_their_distance_and_their_order():
    ends = np.array([0.5, 0.1, 0.11, 0.9])
    np.testing.assert_allclose(spread(ends, gap=0.05), [0.5, 0.08, 0.13, 0.9])


def size_and_ink(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.info["dpi"] == pytest.approx((150, 150), abs=0.1)
        return image.size, len(np.unique(np.asarray(image.convert("L"))))


def test_the_png_is_written_where_expected(tmp_path):
    make_run(tmp_path, seeds(4) + seeds(4, "swr", first=4), np.random.default_rng(6).normal(size=(6, 8)))
    path = plasticity_figure(tmp_path)
    assert path == tmp_path / "figures" / "plasticity.png"
    size, shades = size_and_ink(path)
    assert size == (1200, 750)
    assert shades > 50
    first = path.read_bytes()
    assert plasticity_figure(tmp_path).read_bytes() == first  # the same results give the same figure


def test_the_loss_stands_in_where_there_is_no_accuracy_and_a_tag_may_be_named(tmp_path):
    make_run(tmp_path, seeds(2), np.ones((1, 2)), LOSS)
    assert plasticity_figure(tmp_path).exists()
    assert plasticity_figure(tmp_path, tag=LOSS) == tmp_path / "figures" / "plasticity_task.online_loss.png"
    assert plasticity_figure(tmp_path, tmp_path / "mine.png", LOSS) == tmp_path / "mine.png"
    assert (tmp_path / "mine.png").exists()
    with pytest.raises(UserError, match=r"no records of 'task/online_los'. Did you mean task/online_loss"):
        plasticity_figure(tmp_path, tag="task/online_los")


def test_many_lines_get_a_legend_below_and_dead_ones_do_not_hurt(tmp_path):
    replicas = [Replica(i, f"variant {i}", 0) for i in range(14)]
    values = np.random.default_rng(7).normal(size=(4, 14))
    values[2:, 0] = np.nan
    values[:, 1] = np.inf
    make_run(tmp_path, replicas, values)
    (width, height), _ = size_and_ink(plasticity_figure(tmp_path))
    assert width == 1200
    assert height > 750


@pytest.mark.parametrize("tag", ["task/best_accuracy.test", "evaluation/accuracy.test"])
def test_test_accuracy_gets_a_figure_of_its_own_where_it_was_measured(tmp_path, tag):
    replicas = seeds(2)
    table = Table(tmp_path, replicas)
    table.write(replicas, [Record(5, 0, "task/online_accuracy", np.ones(2))])
    table.flush()
    assert standard_figures(tmp_path) == [tmp_path / "figures" / "plasticity.png"]
    table.write(replicas, [Record(5, 0, tag, np.ones(2))])
    table.close()
    figures = [tmp_path / "figures" / name for name in ("plasticity.png", "test_accuracy.png")]
    assert standard_figures(tmp_path) == figures
    assert all(size_and_ink(path)[0] == (1200, 750) for path in figures)
