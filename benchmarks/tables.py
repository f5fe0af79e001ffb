"""Numbers and Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np


def markdown(header: Sequence[str], lines: Iterable[Sequence[str]], texts: int) -> str:
    """A table whose first `texts` columns are text, the others numbers."""
    rule = ["---"] * texts + ["---:"] * (len(header) - texts)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, rule, *lines])


def number(value: float) -> str:
    """Three digits, or the whole part; powers of ten above millions."""
    if abs(value) >= 1e7:
        return f"{value:.2e}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def spread(values: np.ndarray) -> str:
    """Median (smallest to largest)."""
    low, middle, high = (number(value) for value in (values.min(), np.median(values), values.max()))
    return middle if low == high else f"{middle} ({low} to {high})"


def mebibytes(count: float | None) -> str:
    """Of bytes; nothing for None."""
    return "" if count is None else number(count / 2**20)
