"""Ranks agree with the published implementation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lopbench.metrics import Ranks
from tests.metrics.by_hand import probe_of
from tests.parity.reference import cases

#: their names for ours
NAMES = {
    "rank": "rank",
    "effective_rank": "effective",
    "approximate_rank_99": "approximate_0.99",
    "stable_rank_99": "srank_0.01",
}


CASES = [pytest.param(*case, id=case[0]) for case in cases("rank_metrics")]


@pytest.mark.parametrize(("name", "config", "arrays"), CASES)
def test_ranks(name: str, config: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    metric = Ranks(rank_tolerance=0.0)  # theirs counts every singular value that is not exactly 0
    values = metric.measure(probe_of({"matrix": torch.from_numpy(arrays["matrix"])[None]}))
    for theirs, ours in NAMES.items():
        value = values[f"ranks/{ours}.matrix"].item()
        assert value == pytest.approx(arrays[theirs].item(), rel=1e-5), f"{name}: {theirs}"
