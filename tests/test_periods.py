"""When periodic work is due."""

from itertools import islice

import numpy as np
import pytest

from lopbench.errors import UserError
from lopbench.periods import due_every
from lopbench.strategies.reset import Reset
from lopbench.strategies.shrink_and_perturb import ShrinkAndPerturbInit


def test_a_period_of_three_is_due_at_updates_3_6_9():
    assert [update for update, _ in islice(due_every(np.array([3.0])), 3)] == [3, 6, 9]


def test_replicas_with_different_periods_share_the_updates_and_each_is_due_at_its_own():
    found = {update: table["due"].tolist() for update, table in islice(due_every(np.array([2.0, 3.0, np.nan])), 4)}
    assert found == {2: [True, False, False], 3: [False, True, False], 4: [True, False, False], 6: [True, True, False]}


def test_without_a_period_nothing_is_ever_due():
    assert list(due_every(np.array([np.nan, np.nan]))) == []


@pytest.mark.parametrize("part", [Reset, ShrinkAndPerturbInit])
def test_a_period_that_would_be_ignored_is_refused(part):
    with pytest.raises(UserError, match=r"period is 10, but when is 'task'"):
        part(when="task", period=10)
    with pytest.raises(UserError, match=r"period is 2.5: it must be an integer at least 1"):
        part(when="period", period=2.5)
    with pytest.raises(UserError, match=r"when is 'perod'.*Did you mean period"):
        part(when="perod")
