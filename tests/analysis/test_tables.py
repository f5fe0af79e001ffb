"""Tables: rounded for readers, exact in CSV, and safe in LaTeX whatever a variant is called."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lopbench.analysis.results_tables import plasticity_table, seeds_in_words, tasks_in_words
from lopbench.analysis.tables import MOST_DECIMALS, Table, decimals, latex, number, save, with_interval


def some_table(name="swr_1 100% {a} $b$ #c ~ ^ \\ & d"):
    frame = pd.DataFrame({"variant": [name], "score": [1 / 3]})
    return Table("scores", "Scores & more", frame, ("variant", "score"), [(name, "−0.33")])


def test_latex_is_booktabs_with_every_special_sign_escaped():
    text = latex(some_table())
    assert [line for line in text.splitlines() if "rule" in line] == [r"\toprule", r"\midrule", r"\bottomrule"]
    escaped = r"swr\_1 100\% \{a\} \$b\$ \#c \textasciitilde{} \textasciicircum{} \textbackslash{} \& d & $-$0.33 \\"
    assert escaped in text
    assert r"\caption{Scores \& more}" in text
    assert r"\begin{tabular}{lr}" in text
    assert text.count(r"\begin") == text.count(r"\end") == 2


def test_csv_has_the_numbers_unrounded(tmp_path):
    table = some_table()
    assert [path.name for path in save(table, tmp_path)] == ["scores.csv", "scores.tex"]
    read = pd.read_csv(tmp_path / "scores.csv")
    assert read["score"][0] == 1 / 3
    assert read["variant"][0] == table.frame["variant"][0]


@given(st.floats(1e-4, 1e3))
def test_an_interval_shows_two_digits_of_its_width(width):
    shown = round(width, decimals([width]))
    assert abs(shown - width) <= 0.05 * width or width >= 10  # of larger ones every digit before the point


def test_decimals_without_a_width_follow_the_values_and_have_bounds():
    assert decimals([math.nan], [0.12345]) == 4
    assert decimals([0.0], [1234.0]) == 0
    assert decimals([], []) == 1
    assert decimals([1e-12]) == MOST_DECIMALS


def test_cells_of_one_column_have_one_precision_and_no_interval_where_there_is_none():
    frame = pd.DataFrame({"x": [0.91234, -0.5], "low": [0.9, np.nan], "high": [0.92, np.nan]})
    assert with_interval(frame, "x", "low", "high") == ["0.912 [0.900, 0.920]", "−0.500"]
    assert with_interval(frame, "x", "low", "high", signed=True)[0] == "+0.912 [+0.900, +0.920]"
    assert number(math.nan, 2) == "–"


@pytest.mark.parametrize(
    ("seeds", "words"), [([0, 1, 2, 3], "0 to 3"), ([3], "3"), ([0, 1], "0, 1"), ([1, 5, 9], "1, 5, 9")]
)
def test_seeds_in_words(seeds, words):
    assert seeds_in_words(seeds) == words


def test_the_plasticity_table_names_the_two_tasks_that_it_compares():
    values = {name: [0.5] for name in ("first", "last", "change")}
    bounds = {f"{name}_{end}": [0.5 + shift] for name in values for end, shift in (("low", -0.1), ("high", 0.1))}
    found = pd.DataFrame({"variant": ["swr"], "seeds": [8], "diverged": [0], **values, **bounds})
    found.attrs["tasks"] = (0, 799)
    table = plasticity_table(found, "task/online_accuracy")
    assert table.headers[2:4] == ("task 0", "task 799")
    assert table.cells == [("swr", "8", "0.50 [0.40, 0.60]", "0.50 [0.40, 0.60]", "+0.50 [+0.40, +0.60]")]
    assert tasks_in_words(found) == "mean over tasks 0 to 799"
