"""How many units are replaced when: the host's shortcuts against one addition, one coin, one update at a time."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lopbench.strategies.replacement_counts import NEVER, Layer, add_repeatedly, uniform_sequence


def until(layer: Layer, updates: int) -> list[tuple[int, int]]:
    return list(itertools.takewhile(lambda event: event[0] <= updates, layer.replacements()))


def step_by_step(layer: Layer, updates: int) -> list[tuple[int, int]]:
    """The definition: ages of all units, and one addition to the credit in every update in which any is eligible."""
    ages, credit, events = [0] * layer.units, 0.0, []
    for t in range(1, updates + 1):
        ages = [age + 1 for age in ages]
        eligible = [unit for unit, age in enumerate(ages) if age > layer.maturity]
        if not eligible:
            continue
        credit += layer.rate * (layer.units if layer.count == "all" else len(eligible))
        replaced = int(credit)
        credit -= replaced
        replaced = min(replaced, len(eligible))
        if replaced:
            events.append((t, replaced))
        for unit in eligible[:replaced]:
            ages[unit] = 0
    return events


@settings(max_examples=200, deadline=None)
@given(
    rate=st.one_of(st.floats(1e-4, 1.0), st.integers(0, 10).map(lambda k: 2.0**-k)),
    maturity=st.integers(0, 40),
    units=st.integers(1, 40),
    count=st.sampled_from(["eligible", "all"]),
)
def test_the_numbers_are_those_of_a_simulation_unit_by_unit(rate, maturity, units, count):
    layer = Layer(rate, maturity, units, count)
    assert until(layer, 300) == step_by_step(layer, 300)


@settings(max_examples=300, deadline=None)
@given(
    credit=st.one_of(st.just(0.0), st.floats(0, 1, exclude_max=True)),
    quota=st.one_of(
        st.floats(1e-5, 1.0),
        st.tuples(st.sampled_from([1, 3, 5]), st.integers(5, 60)).map(lambda t: t[0] * 2.0 ** -t[1]),  # makes ties
    ),
    most=st.integers(1, 5000),
)
def test_additions_taken_at_once_are_additions_one_by_one_to_the_last_bit(credit, quota, most):
    expected, added = credit, 0
    while expected < 1 and added < most:
        expected, added = expected + quota, added + 1
    assert add_repeatedly(credit, quota, most) == (added, expected)


def test_without_waiting_the_total_is_the_floor_of_the_rate_times_units_times_updates():
    """Maturity 0: every unit is eligible in every update. Rates exact in binary, so that the floor is too."""
    for rate, units in ((1 / 64, 5), (3 / 1024, 7), (0.75, 3)):
        total, events = 0, dict(until(Layer(rate, 0, units, "eligible"), 1000))
        for t in range(1, 1001):
            total += events.get(t, 0)
            assert total == math.floor(rate * units * t)


@pytest.mark.parametrize("count", ["eligible", "all"])
@pytest.mark.parametrize("maturity", [0, 1, 7, 100])
def test_the_first_replacement_is_in_the_update_after_maturity_and_no_debt_has_gathered(maturity, count):
    assert until(Layer(1.0, maturity, 4, count), maturity + 1) == [(maturity + 1, 4)]
    delayed = Layer(1 / 32, maturity, 4, count)  # a quota of 1/8
    assert next(delayed.replacements()) == (maturity + 8, 1)


def test_a_replaced_unit_waits_for_maturity_again():
    """Rate 1: all units go together, every maturity + 1 updates."""
    assert until(Layer(1.0, 9, 6, "eligible"), 40) == [(10, 6), (20, 6), (30, 6), (40, 6)]


def test_count_all_never_replaces_more_than_are_eligible():
    """A quota of 1.5 a step, but after the first two steps of ten only those units that have matured again."""
    events = until(Layer(0.5, 9, 3, "all"), 200)
    waiting = []
    for t, replaced in events:
        waiting = [(since, r) for since, r in waiting if since > t - 10]
        assert replaced <= 3 - sum(r for _, r in waiting)
        waiting.append((t, replaced))


def test_a_vanishing_rate_and_no_rate_are_answered_at_once():
    for rate in (math.nan, 0.0, 1e-18, 1e-300):  # from about 1e-17 on the credit stops growing below 1
        assert list(Layer(rate, 100, 3, "eligible").replacements()) == []
    first = next(Layer(1e-12, 0, 1, "eligible").replacements())
    assert first[0] == pytest.approx(1e12, rel=1e-4) and first[1] == 1
    assert next(Layer(1e-300, 100, 3, "eligible", draws=(1, "p")).replacements(), None) is None


def test_random_rounding_replaces_one_unit_with_the_quotas_probability():
    """Maturity 0, so that the quota q is the same in every update: waits are geometric with mean 1/q."""
    q, updates = 0.05, 200_000
    events = until(Layer(q / 4, 0, 4, "eligible", draws=(5, "count")), updates)
    assert {count for _, count in events} == {1}
    assert abs(len(events) - q * updates) < 4 * math.sqrt(q * (1 - q) * updates)
    waits = np.diff([0] + [t for t, _ in events])
    for k in (1, 10, 40):
        expected = (1 - q) ** k
        assert abs((waits > k).mean() - expected) < 4 * math.sqrt(expected * (1 - expected) / len(waits))


def test_random_rounding_drops_the_fraction_of_a_quota_above_one():
    assert until(Layer(0.7, 0, 5, "eligible", draws=(5, "count")), 20) == [(t, 3) for t in range(1, 21)]


def test_random_rounding_depends_on_seed_and_purpose_and_is_the_same_again():
    def drawn(seed, purpose):
        return until(Layer(0.01, 3, 4, "eligible", draws=(seed, purpose)), 3000)

    assert drawn(5, "a") == drawn(5, "a")
    assert drawn(5, "a") != drawn(6, "a") and drawn(5, "a") != drawn(5, "b")


def test_uniforms_go_on_past_a_chunk():
    short, long = (list(itertools.islice(uniform_sequence(3, "p", chunk), 40)) for chunk in (16, 64))
    assert short[:16] == long[:16] and len(set(short)) == 40


def test_the_work_grows_with_replacements_and_not_with_updates():
    """A billion additions would take minutes one by one."""
    assert add_repeatedly(0.0, 1e-9, NEVER)[0] == pytest.approx(1e9, rel=1e-6)
    events = until(Layer(1e-4, 100, 100, "eligible"), 1_000_000)
    assert 9_800 < len(events) < 10_000
