"""The tables as text, and RESULTS.md: one section a suite and device, of which a run replaces those it measured."""

from __future__ import annotations

import datetime
import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmarks.ours import Setting

if TYPE_CHECKING:
    from benchmarks.suites import Row

RESULTS = Path(__file__).with_name("RESULTS.md")
DEVICES = ("cpu", "cuda")
HEADER = ["case", "executor, block, threads", "a step (µs)", "a replica", "over the loop"]
HEADER += ["hot", "rare", "share", "tables", "compile (s)"]

HEAD = """# What lopbench costs

Written by `python -m benchmarks.run`; a run replaces the sections that it measured. Times are medians over rounds
(smallest to largest in brackets); the contenders of a table took turns in one process, and ratios are formed round
by round. The loop is that of `benchmarks/naive.py`: one network, `nn.Sequential` and `torch.optim.SGD`, with the first
weights and the examples, in their order, of replica 0. On permuted MNIST both sides gather, permute and scale rows of
uint8 images at every step; on regression the loop finds its examples ready made. That the losses of the first steps
agree is asserted. The loop sums its loss; a population also sums its accuracy and checks that replicas are finite.

- **a step**: microseconds of all replicas together, with rare work (reinitialisation) and tables (an epoch's order, a
  task's permutation) in their shares: (1 - share) hot + share rare + tables. Metrics and logging are not in it.
- **a replica**: the same divided by the replicas. **over the loop**: that, over a step of the loop.
- **hot**: a step without rare work, in blocks of as many steps a call as a run chooses. **rare**: a step with it.
- **share**: of the steps, how many run singly, as something is due, or is due before a block would end.
- **compile**: seconds until the first call of each block has returned, on the wall's clock.
"""

BOUNDS = {
    "single": """\
What bounds it. Permuted MNIST: four tenths of a compiled step are matrix products, most of the rest is the pass over
weights and gradients that updates them and checks that they are finite; the loop adds autograd's bookkeeping and a
kernel for every operation. Regression: neither side computes anything to speak of. Nine tenths of our step are the
entry of a compiled call (four of them for guards), shared by the steps of a block; the loop calls kernel by kernel.
""",
    "quickstart": """\
What bounds it. The entry of a compiled call, half of it for checking guards: the arithmetic of 30 replicas is less than
a tenth, so that replicas cost next to nothing up to a hundred. With shrink and perturb, whose noise is drawn for every
parameter and step, half of a step of 30 replicas goes into random numbers.
""",
    "permuted_mnist": """\
What bounds it. Of a step of 30 replicas half are matrix products, a quarter the memory traffic of update and finiteness
check (12 MB of weights, so that on one thread a replica gains nothing from its neighbours), a sixth gathering and
permuting pixels. Rare work draws a candidate for every weight. SWR's is due too seldom to be worth compiling, and runs
eagerly: 0.5 % of a run's time.
""",
    "swr_vit": """\
What bounds it. Matrix products: a step of one replica takes 90 images of 65 tokens through 14.2 million weights, three
passes: about 0.5 TFLOP. The whole run is 525,000 steps. TF32 is set by this benchmark; a run multiplies in float32,
and bfloat16 is not offered yet.
""",
}


def update(path: Path, suite: str, device: str, section: str) -> None:
    """Put a section into the file; those of other suites and devices stay, or say that they are to be measured."""
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    known = {part.splitlines()[0]: part.rstrip() for part in re.split(r"^## ", old, flags=re.MULTILINE)[1:]}
    known[_title(suite, device)] = section.removeprefix("## ").rstrip()
    sections = [
        known.get(_title(name, on), f"{_title(name, on)}\n\nNot yet measured: `{_command(name, on)}`.")
        for on in DEVICES
        for name in BOUNDS
    ]
    path.write_text("\n\n".join([HEAD.rstrip(), *(f"## {part}" for part in sections)]) + "\n", encoding="utf-8")


def section(suite: str, setting: Setting, body: str, command: str, seconds: float) -> str:
    """Title, machine, command, table (`body`), and what bounds it."""
    sample = f"{setting.rounds} rounds of samples of about {setting.lasting} s"
    clock = {"wall": "wall-clock time", "process": "processor time, as others' load lengthens that less"}[setting.clock]
    load = f"load average {os.getloadavg()[0]:.1f} at the end" if hasattr(os, "getloadavg") else "load unknown"
    cache = "the usual compiler cache, cold or warm" if setting.quick else "a cold compiler cache"
    data = "generated images" if setting.data_dir is None else "the data set itself"
    lines = [
        f"## {_title(suite, setting.device.type)}",
        f"{machine(setting.device)}; {datetime.date.today()}; {load}.",
        f"`{command}`: {sample}, {clock}, {cache}, {data}; {seconds:.0f} s altogether.",
        body,
        BOUNDS[suite].rstrip(),
    ]
    return "\n\n".join(lines)


def machine(device: torch.device) -> str:
    """Processor or GPU, cores, and versions."""
    where = f"{_processor()}, {os.cpu_count()} cores"
    if device.type == "cuda":
        where = f"{torch.cuda.get_device_name(device)} ({where})"
    return f"{where}; torch {torch.__version__}, Python {platform.python_version()}"


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    lines = [HEADER, ["---", "---", *["---:"] * (len(HEADER) - 2)], *map(_cells, rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cells(row: Row) -> list[str]:
    ours = bool(row.executor)
    return [
        row.case,
        row.executor,
        _spread(row.per_step),
        _number(np.median(row.per_step) / row.replicas),
        _spread(row.ratio),
        _number(np.median(row.hot)) if ours else "",
        "" if row.rare is None else _number(np.median(row.rare)),
        "" if row.rare is None else f"{row.rare_share:.2%}",
        _number(row.tables) if ours else "",
        f"{row.compile_seconds:.0f}" if ours else "",
    ]


def _spread(values: np.ndarray) -> str:
    low, middle, high = (_number(value) for value in (values.min(), np.median(values), values.max()))
    return middle if low == high else f"{middle} ({low} to {high})"


def _number(value: float) -> str:
    """Three digits, or the whole part."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _title(suite: str, device: str) -> str:
    return f"{suite} on {device}"


def _command(suite: str, device: str) -> str:
    return f"python -m benchmarks.run --suite {suite} --device {device}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    named = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE) if info.exists() else None
    return named[1] if named else platform.processor() or platform.machine()
