"""The tables as text, and RESULTS.md: one section a suite and device, of which a run replaces those it measured."""

from __future__ import annotations

import datetime
import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.ours import Setting
from benchmarks.suites import SUITES, Row

RESULTS = Path(__file__).with_name("RESULTS.md")
DEVICES = ("cpu", "cuda")

def section(suite, setting, rows, command, seconds) -> str:
    return table(rows)

def table(rows):
    lines=["| case | executor, block | µs a step | µs a step and replica | over the loop | hot | rare | rare steps | tables | compile s |","|"+"---|"*10]
    for r in rows:
        lines.append(f"| {r.case} | {r.executor} | {spread(r.per_step)} | {np.median(r.per_step)/r.replicas:.1f} | {spread(r.ratio,2)} | {np.median(r.hot):.0f} | {'' if r.rare is None else round(float(np.median(r.rare)))} | {r.rare_share:.2%} | {r.tables:.1f} | {r.compile_seconds:.0f} |")
    return "\n".join(lines)

def spread(v, d=0):
    return f"{np.median(v):.{d}f} ({v.min():.{d}f}-{v.max():.{d}f})"

def update(output,name,device,section): pass
