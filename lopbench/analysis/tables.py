"""Tables: as numbers (CSV), for papers (LaTeX with booktabs), and as cells of text for pages."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lopbench import files

if TYPE_CHECKING:
    import pandas as pd

MOST_DECIMALS = 6
#: what LaTeX takes for a command, and how it is written as text
LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {
    sign: "\\" + sign for sign in "&%$#_{}"
}


@dataclass(frozen=True)
class Table:
    """`frame`: the numbers; `headers`, `cells`: the same as text, rounded; the first `texts` columns are words."""

    name: str
    caption: str
    frame: pd.DataFrame
    headers: Sequence[str]
    cells: Sequence[Sequence[str]]
    texts: int = 1


def save(table: Table, folder: Path) -> list[Path]:
    """Write NAME.csv and NAME.tex into a folder that is there; their paths."""
    sink = io.StringIO()
    table.frame.to_csv(sink, index=False)
    paths = [folder / f"{table.name}.csv", folder / f"{table.name}.tex"]
    for path, content in zip(paths, (sink.getvalue(), latex(table)), strict=True):
        files.write_atomically(path, content)
    return paths


def latex(table: Table) -> str:
    """A `table` environment; needs \\usepackage{booktabs}. Written out, so that pandas needs no template engine."""
    columns = "l" * table.texts + "r" * (len(table.headers) - table.texts)
    rows = [" & ".join(map(_escaped, cells)) + r" \\" for cells in table.cells]
    head = " & ".join(map(_escaped, table.headers)) + r" \\"
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_escaped(table.caption)}}}",
        rf"\label{{tab:{table.name}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        *(r"\toprule", head, r"\midrule", *rows, r"\bottomrule"),
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return "".join(LATEX.get(sign, sign) for sign in text).replace("\N{MINUS SIGN}", "$-$")


def with_interval(frame: pd.DataFrame, value: str, low: str, high: str, signed: bool = False) -> list[str]:
    """Cells such as "0.927 [0.925, 0.929]", of one number of decimals: an interval's width shows two digits."""
    places = decimals(frame[high] - frame[low], frame[value])
    cells = []
    for middle, *ends in frame[[value, low, high]].itertuples(index=False, name=None):
        bounds = ", ".join(number(end, places, signed) for end in ends)
        cells.append(number(middle, places, signed) + (f" [{bounds}]" if np.isfinite(ends).all() else ""))
    return cells


def decimals(widths: Iterable[float], values: Iterable[float] = ()) -> int:
    """As many decimals as show two digits of the median width that is not 0; without one, four digits of a value."""
    known = [width for width in widths if math.isfinite(width) and width > 0]
    if known:
        return int(np.clip(1 - math.floor(math.log10(float(np.median(known)))), 0, MOST_DECIMALS))
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    return int(np.clip(3 - math.floor(math.log10(largest)), 0, MOST_DECIMALS)) if largest else 1


def number(value: float, places: int, signed: bool = False) -> str:
    """A number with a true minus sign; a dash where there is none."""
    if not math.isfinite(value):
        return "–"
    return f"{value:{'+' if signed else ''},.{places}f}".replace("-", "\N{MINUS SIGN}")
