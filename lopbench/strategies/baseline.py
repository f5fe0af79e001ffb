"""The baseline: a strategy too, so that a study names what it compares with."""

from __future__ import annotations

from dataclasses import dataclass

import lopbench
from lopbench.protocols import Strategy


@lopbench.register("strategies")
@dataclass(frozen=True)
class Baseline(Strategy):
    """Does nothing: plain training; the metrics log what other strategies would act on."""
