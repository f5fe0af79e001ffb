"""What tags are called, which way is better, and which of them stand for whole networks."""

import pytest

from lopbench.analysis.tags import HEADLINES, better, headline, label, measures
from lopbench.errors import UserError


@pytest.mark.parametrize("tag", ["task/online_loss", "task/best_loss.test", "units/dead", "units_test/dead.hidden.0"])
def test_less_is_better_of_losses_and_idle_units(tag):
    assert better(tag) == "lower"


@pytest.mark.parametrize("tag", ["task/online_accuracy", "evaluation/accuracy.test", "ranks/effective", "mine/own"])
def test_more_is_better_of_the_rest(tag):
    assert better(tag) == "higher"


@pytest.mark.parametrize(
    ("tag", "text"),
    [
        ("task/online_accuracy", "online accuracy, mean over each task"),
        ("task/best_accuracy.test", "test accuracy, best epoch of each task"),
        ("task/best_accuracy.validation", "best accuracy, validation"),
        ("units/dead.hidden.0", "dead units (fraction), hidden.0"),
        ("units/dormant_0.025", "dormant units (fraction; threshold 0.025)"),
        ("units/dormant_0.025.hidden.0", "dormant units (fraction; threshold 0.025), hidden.0"),
        ("ranks/srank_0.01", "stable rank of the features (threshold 0.01)"),
        ("weights/magnitude.hidden.0.weight", "mean weight magnitude, hidden.0.weight"),
        ("weights/median_magnitude", "median magnitude"),
        ("mine/my_own_tag", "my own tag"),
        ("untidy", "untidy"),
    ],
)
def test_an_axis_is_called_what_the_field_calls_it(tag, text):
    assert label(tag) == text


def test_measures_are_those_of_whole_networks():
    whole = [
        "gradients/magnitude",
        "ranks/rank",
        "units/dead",
        "units/dormant_0.025",
        "units_test/dead",
        "weights/magnitude",
    ]
    layers = [
        "units/dead.hidden.0",
        "units/dormant_0.025.hidden.0",
        "weights/magnitude.0",
        "weights/magnitude.0.weight",
    ]
    layers += ["ranks/effective.hidden.1"]  # of which there is no whole
    others = ["task/online_loss", "strategy/reinitialized_units", "online/loss"]
    assert measures([*layers, *whole, *others]) == whole


def test_the_headline_is_the_first_that_there_is():
    for number, tag in enumerate(HEADLINES):
        assert headline({*HEADLINES[number:], "online/loss"}) == tag
    with pytest.raises(UserError, match="nothing to judge by: none of task/selected_accuracy"):
        headline(["online/loss"])
