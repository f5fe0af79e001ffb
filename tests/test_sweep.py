"""Sweeps: which points are drawn, what a variant at a point is called, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gin
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import qmc

from lopbench import config, sweep
from lopbench.errors import UserError
from lopbench.gin_text import Binding, Place

RATE, WEIGHT, WIDTH = "optimizers.SGD.learning_rate", "strategies.L2.l2_weight", "architectures.MLP.width"
AXES = {RATE: ("log_uniform", 1e-4, 1e-1), WEIGHT: ("uniform", 0, 2), WIDTH: ("integer", 3, 6)}
BASE = """
run.stream = @streams.SlowlyChangingRegression
run.architecture = @architectures.MLP
run.optimizer = @optimizers.SGD
run.max_tasks = 1
"""
METHODS = (
    "run.variants = {'plain': [], 'l2': ['run.strategies = [@strategies.L2]', 'strategies.L2.l2_weight = 1e-3']}\n"
)


@pytest.fixture(autouse=True)
def no_bindings() -> Iterator[None]:
    gin.clear_config()
    yield
    gin.clear_config()


def points(**bound: Any) -> list[dict[str, Any]]:
    """The points of `sweep.<name> = value` for each of `bound`."""
    plans = {f"sweep.{name}": Binding(f"sweep.{name}", value, Place("a test")) for name, value in bound.items()}
    return sweep.points(plans)


def read(folder: Path, text: str, *bindings: str) -> config.Request:
    (folder / "mine.gin").write_text(BASE + text)
    return config.read([str(folder / "mine.gin")], bindings)


# Drawing -------------------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(
    how=st.sampled_from(["random", "sobol"]), few=st.integers(1, 20), more=st.integers(0, 20), seed=st.integers(0, 99)
)
def test_more_samples_keep_those_before(how: str, few: int, more: int, seed: int) -> None:
    first = points(**{how: AXES}, samples=few, seed=seed)
    assert points(**{how: AXES}, samples=few + more, seed=seed)[:few] == first


@settings(max_examples=20, deadline=None)
@given(how=st.sampled_from(["random", "sobol"]), seed=st.integers(0, 99))
def test_drawn_values_lie_within_their_axes_and_have_four_digits(how: str, seed: int) -> None:
    for point in points(**{how: AXES}, samples=32, seed=seed):
        assert 1e-4 <= point[RATE] <= 1e-1 and 0 <= point[WEIGHT] <= 2 and point[WIDTH] in (3, 4, 5, 6)
        assert float(f"{point[RATE]:.4g}") == point[RATE]
        assert isinstance(point[WIDTH], int)


@pytest.mark.parametrize("how", ["random", "sobol"])
def test_axes_are_drawn_as_they_say(how: str) -> None:
    """Median of the geometric and the plain middle, every integer and every listed value equally often."""
    found = points(**{how: {**AXES, "run.dtype": ["float32", "float64"]}}, samples=1024)
    rates, weights = ([point[key] for point in found] for key in (RATE, WEIGHT))
    assert np.median(np.log10(rates)) == pytest.approx(-2.5, abs=0.15)
    assert np.median(weights) == pytest.approx(1.0, abs=0.1)
    counts = np.bincount([point[WIDTH] for point in found], minlength=7)[3:]
    assert (counts > 200).all() and counts.sum() == 1024
    assert 440 < [point["run.dtype"] for point in found].count("float64") < 584


def test_an_axis_beside_changes_nothing_of_a_random_one() -> None:
    alone = [point[RATE] for point in points(random={RATE: AXES[RATE]}, samples=8)]
    assert [point[RATE] for point in points(random=AXES, samples=8)] == alone


def test_sobol_points_fill_the_space_more_evenly_than_random_ones() -> None:
    axes = {f"a.B.c{i}": ("uniform", 0.0, 1.0) for i in range(4)}
    evenness = {
        how: qmc.discrepancy(np.array([list(point.values()) for point in points(**{how: axes}, samples=64)]))
        for how in ("random", "sobol")
    }
    assert evenness["sobol"] < 0.5 * evenness["random"]


def test_another_seed_draws_other_points() -> None:
    for how in ("random", "sobol"):
        assert points(**{how: AXES}, samples=4, seed=1) != points(**{how: AXES}, samples=4, seed=2)


def test_a_point_that_is_drawn_twice_counts_once() -> None:
    assert len(points(random={"run.dtype": ["float32", "float64"]}, samples=50)) == 2


def test_a_grid_is_combined_with_every_sample() -> None:
    found = points(grid={"run.dtype": ["float32", "float64"]}, sobol={RATE: AXES[RATE]}, samples=3)
    assert len(found) == 6
    assert {point["run.dtype"] for point in found} == {"float32", "float64"}
    assert len({point[RATE] for point in found}) == 3


# Variants ------------------------------------------------------------------------------------------------------------


def test_a_method_that_does_not_use_a_key_has_no_such_axis(tmp_path: Path) -> None:
    text = METHODS.replace(", 'strategies.L2.l2_weight = 1e-3'", "")
    request = read(
        tmp_path, f"{text}sweep.grid = {{'strategies.L2.l2_weight': [0.1, 0.2], 'SGD.learning_rate': [0.5]}}"
    )
    assert {name: dict(point.values) for name, point in request.points.items()} == {
        "plain learning_rate=0.5": {RATE: 0.5},
        "l2 l2_weight=0.1 learning_rate=0.5": {WEIGHT: 0.1, RATE: 0.5},
        "l2 l2_weight=0.2 learning_rate=0.5": {WEIGHT: 0.2, RATE: 0.5},
    }
    assert WEIGHT not in request.settings["plain learning_rate=0.5"]
    assert [point.method for point in request.points.values()] == ["plain", "l2", "l2"]


def test_a_sweep_wins_over_a_file_but_not_over_a_variants_own_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "l2.gin").write_text("run.strategies = [@strategies.L2]\nstrategies.L2.l2_weight = 1e-3\n")
    swept = "sweep.grid = {'strategies.L2.l2_weight': [0.1]}\n"
    monkeypatch.chdir(tmp_path)
    request = read(tmp_path, f"run.variants = {{'l2': ['l2.gin']}}\n{swept}", "run.seeds = 2")
    assert request.settings["l2 l2_weight=0.1"][WEIGHT].value == 0.1
    with pytest.raises(
        UserError, match=r"^strategies\.L2\.l2_weight is swept by sweep\.grid: bind sweep\.grid instead"
    ):
        read(tmp_path, f"{METHODS}{swept}")


def test_what_was_asked_for_tells_the_points_again(tmp_path: Path) -> None:
    request = read(
        tmp_path, f"sweep.sobol = {{'{RATE}': ('uniform', 0, 1)}}\nsweep.samples = 3\nsweep.most_replicas = 2"
    )
    (tmp_path / "again.gin").write_text(request.asked_text())
    again = config.read([str(tmp_path / "again.gin")])
    assert again.points == request.points and again.most_replicas == 2
    assert again.asked_text().splitlines()[2:] == request.asked_text().splitlines()[2:]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "sweep.grid = {'strategies.L2.l2_wait': [1]}",
            "strategies.L2 has no parameter l2_wait. Did you mean l2_weight?",
        ),
        ("sweep.grid = {'strategies.L2.l2_weight': [1]}", "sweep.grid sweeps strategies.L2.l2_weight, and nothing in"),
        ("sweep.grid = {}", "sweep.grid is {}: it must be {'kind.Part.parameter': [value"),
        ("sweep.grid = {'run.max_steps': []}", "sweep.grid['run.max_steps'] is []: it must be a list of values"),
        ("sweep.grid = {'sweep.seed': [1]}", "sweep.grid names sweep.seed, which can't be swept"),
        ("sweep.gird = {'run.max_steps': [1]}", "There is no sweep.gird. Did you mean sweep.grid"),
        (
            "sweep.sobol = {'run.max_steps': ('uniform', 1, 2)}",
            "How many points shall sweep.sobol draw? Bind sweep.samples",
        ),
        ("sweep.samples = 3", "sweep.samples is bound, and nothing is drawn: bind sweep.sobol or sweep.random, too"),
        ("sweep.samples = 0\nsweep.random = {'run.max_steps': [1, 2]}", "sweep.samples is 0: it must be an integer at"),
        ("sweep.random = {'run.max_steps': ('normal', 1, 2)}\nsweep.samples = 3", "it must be ('uniform', low, high)"),
        ("sweep.random = {'run.max_steps': ('uniform', 2, 1)}\nsweep.samples = 3", "its low end must be below"),
        ("sweep.random = {'run.max_steps': ('log_uniform', 0, 1)}\nsweep.samples = 3", "must be above 0"),
        (
            "sweep.random = {'run.max_steps': ('integer', 0.5, 1)}\nsweep.samples = 3",
            "ends of 'integer' must be integers",
        ),
        (
            "sweep.random = {'run.max_steps': [1]}\nsweep.sobol = {'run.seeds': [1]}\nsweep.samples = 1",
            "Both sweep.random and sweep.sobol are bound",
        ),
        (
            "sweep.random = {'run.seeds': [1]}\nsweep.grid = {'run.seeds': [1]}\nsweep.samples = 1",
            "sweep.random names run.seeds, and so does sweep.grid",
        ),
        ("sweep.most_replicas = 0", "sweep.most_replicas is 0: it must be an integer at least 1"),
        ("sweep.points = {'mine': 3}", "sweep.points is {'mine': 3}: it must be {'variant': {'method': 'name'"),
    ],
)
def test_a_wrong_sweep_gets_one_message(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as refusal:
        read(tmp_path, text)
    assert message in str(refusal.value)
