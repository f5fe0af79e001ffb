"""The benchmarks stay runnable: the quickest case, run eagerly, and the file they write."""

import numpy as np
import pytest
import torch

from benchmarks import report, suites
from benchmarks.naive import loop_for
from benchmarks.ours import Ours, Setting, populations, single_step_share
from benchmarks.timing import Contender, interleave

SETTING = Setting(torch.device("cpu"), executor="eager", rounds=2, lasting=0.001, quick=True)


def regression(variant: str, replicas: int = 2):
    return populations(SETTING, suites.REGRESSION, replicas)[variant]


def test_every_variant_starts_with_the_losses_of_the_plain_loop():
    for variant in ("sgd", "continual_backprop", "l2_init", "shrink_and_perturb", "swr"):
        suites.check_same_work(Ours(SETTING, regression(variant)), 1)


def test_plain_sgd_goes_on_with_the_losses_of_the_plain_loop():
    ours, loop = Ours(SETTING, regression("sgd")), loop_for(regression("sgd"))
    assert ours.hot(20) == pytest.approx(loop.advance(20), rel=1e-4)


def test_other_work_is_refused():
    side = Ours(SETTING, regression("sgd"))
    side.hot(20)  # so that the loop, which begins anew, is behind
    with pytest.raises(AssertionError, match="mean loss of the first 5 steps"):
        suites.check_same_work(side, 5)


def test_a_table_holds_the_loop_and_each_case_with_its_rare_work():
    loop, row = suites.compare(SETTING, {"SWR": regression("swr")})
    assert loop.case == "loop" and (loop.ratio == 1).all()
    assert row.replicas == 2 and row.rare is not None and row.rare_share == 1 / 1000  # its period
    expected = (1 - row.rare_share) * row.hot + row.rare_share * row.rare + row.tables
    np.testing.assert_allclose(row.per_step, expected)
    np.testing.assert_allclose(row.ratio, expected / 2 / loop.hot)


def test_steps_before_an_event_that_fill_no_block_count_as_single():
    # period 1,000: of 999 steps before the event blocks of 5 leave 4 over
    assert single_step_share(regression("swr"), block_steps=5) == 5 / 1000


def test_contenders_take_turns():
    order = []
    contenders = {name: Contender(lambda steps, n=name: order.append(n), most=1) for name in "ab"}
    times = interleave(contenders, rounds=3, lasting=0.001)
    assert order == ["a", "b"] * 3 and times["a"].shape == (3,)


def test_a_run_replaces_its_own_section_and_leaves_the_others(tmp_path):
    path = tmp_path / "RESULTS.md"
    row = suites.Row("SGD", 2, "compiled, 5, 1", np.array([3.0, 1.0, 2.0]), np.array([0.5, 0.25, 0.3]), np.ones(3))
    for command in ("first", "second"):
        report.update(path, "single", "cpu", report.section("single", SETTING, report.table([row]), command, 1.0))
    report.update(path, "quickstart", "cpu", report.section("quickstart", SETTING, report.table([row]), "third", 1.0))
    text = path.read_text()
    assert "`first`" not in text and "`second`" in text and "`third`" in text
    assert text.count("\n## ") == len(suites.SUITES) * len(report.DEVICES)
    assert "| SGD | compiled, 5, 1 | 2 (1 to 3) | 1 | 0.3 (0.25 to 0.5) |" in text
    assert "## single on cuda\n\nNot yet measured: `python -m benchmarks.run --suite single --device cuda`." in text
