"""Of many variants a figure shows the best of each method, and says so."""

import numpy as np
import pandas as pd
import pytest

from lopbench.analysis.selection import select

ACCURACY, LOSS = "task/online_accuracy", "task/online_loss"


def scores(table):
    """{variant: (method, scores)} as one row a replica."""
    rows = [(v, method, score) for v, (method, found) in table.items() for score in found]
    return pd.DataFrame(rows, columns=["variant", "method", "score"])


POINTS = {"a 1": ("a", [0.1, 0.2]), "a 2": ("a", [0.5, 0.6]), "b 1": ("b", [0.4, 0.4]), "c": ("c", [0.3, 0.3])}


def test_a_few_are_all_shown():
    chosen = select(list(POINTS), scores(POINTS), ACCURACY, most=4)
    assert (list(chosen.variants), chosen.note) == (list(POINTS), "")


@pytest.mark.parametrize(("tag", "best"), [(ACCURACY, ["a 2", "b 1", "c"]), (LOSS, ["a 1", "b 1", "c"])])
def test_of_many_the_best_of_each_method_is_shown(tag, best):
    chosen = select(list(POINTS), scores(POINTS), tag, most=3)
    assert chosen.variants == best
    assert chosen.note.startswith("There are 4 variants; the 3 shown are the best of each method, chosen")


def test_of_many_methods_the_best_are_shown():
    chosen = select(list(POINTS), scores(POINTS), ACCURACY, most=2)
    assert chosen.variants == ["a 2", "b 1"]
    assert "of the 2 best methods" in chosen.note


def test_a_diverged_replica_does_not_make_its_variant_look_better():
    table = POINTS | {"a 2": ("a", [0.9, np.nan]), "a 1": ("a", [0.8, 0.8])}
    assert select(list(table), scores(table), ACCURACY, most=3).variants == ["a 1", "b 1", "c"]


def test_variants_without_a_score_are_not_shown():
    chosen = select([*POINTS, "d"], scores(POINTS), ACCURACY, most=3)
    assert "d" not in chosen.variants
