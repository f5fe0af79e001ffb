"""RESULTS.md: what it must reach, and a section a suite and device; a run replaces those that it measured."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
from pathlib import Path

import torch

from benchmarks.bounds import BOUNDS
from benchmarks.comparing import has_jax
from benchmarks.ours import Setting
from benchmarks.suites import SUITES, Measured
from benchmarks.tables import markdown
from benchmarks.targets import TARGETS

RESULTS = Path(__file__).with_name("RESULTS.md")
DEVICES = ("cpu", "cuda")

HEAD = """# What lopbench costs

Written by `python -m benchmarks.run`; a run replaces the sections that it measured. Times are medians over rounds
(smallest to largest in brackets); the sides of a match took turns in one process, and ratios are formed round by
round. All sides start from the same weights and are shown the same examples in the same order; that the losses of
replica 0 in the first steps agree is asserted. Whatever the stream does to a batch, gathering, permuting, scaling and
augmenting, is in the time of all sides. Ours also sums accuracies, and checks that replicas are finite.

- **The loop**: `benchmarks/naive.py`, one network in plain PyTorch under `torch.optim.SGD` with the momentum, weight
  decay and schedule of the gin file; with a `DataLoader` on the host (without worker processes), or gathering its
  batches from tensors on the device. It has torch's own dropout and fused attention, and augments a batch at a time.
- **JAX**: `benchmarks/jax_side.py`, `vmap` over as many replicas of `lax.scan` over steps, jitted. On a CPU it takes
  all cores; torch, on both sides, the number of threads that the row says. Examples of slowly-changing regression are
  drawn for all steps of a call at once (the loop finds its own drawn). Products are of float32. The vision transformer
  and ResNet-18 are not written.
- Both are plain SGD, also where the row is another method.

In the tables,

- **executor, block, threads**: how the population is run, how many steps a call, and torch's threads; "4 together":
  four replicas at a time, while the others wait.
- **a step**: microseconds of all replicas together, with rare work (reinitialisation) and tables (an epoch's order, a
  task's permutation) in their shares: (1 - share) hot + share rare + tables. Metrics and logging are not in it.
- **a replica**: the same divided by the replicas.
- **memory**: on a GPU the most that was allocated while the population was built, compiled and took its first steps,
  and the data set; on a CPU what `--dry_run` goes by: tensors alive at the peak of eager steps, the data set included
  (not measured where these take minutes).
- **over the loop, over JAX**: our replica-steps a second over theirs; above 1 ours is faster.
- **hot**: a step without rare work, in blocks of as many steps a call as a run chooses. **rare**: a step with it.
- **share**: of the steps, how many run singly, as something is due, or is due before a block would end.
- **over plain SGD**: a method's step over one of plain SGD in the same match.
- **compile**: seconds until the first call of each block has returned, on the wall's clock.
- **MFLOP, MB, GFLOP/s**: what a step of plain SGD of all replicas computes in matrix products, and must move at least
  (parameters, gradients and momentum once in and once out, and the batch), counted; and the rate that comes to.
- **kernels**: that a hot step runs on a GPU.

What is said to be "tried apart", "measured apart" or "by itself" below, shares of a profile, and times on a "quiet
machine" come from single tries outside of these suites, on the same machine and day; no command repeats them.
"""


def update(path: Path, suite: str, device: str, section: str, measured: Measured) -> None:
    """Put a section and its targets into the file; the others stay, or say that they are to be measured."""
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    known = {part.splitlines()[0]: part.rstrip() for part in re.split(r"^## ", old, flags=re.MULTILINE)[1:]}
    known[_title(suite, device)] = section.removeprefix("## ").rstrip()
    sections = [
        known.get(_title(name, on), f"{_title(name, on)}\n\nNot yet measured: `{_command(name, on)}`.")
        for on in DEVICES
        for name in SUITES
    ]
    reached = f"What it must reach\n\n{reached_table(old, suite, device, measured)}"
    parts = [HEAD.rstrip(), *(f"## {part}" for part in (reached, *sections))]
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def reached_table(old: str, suite: str, device: str, measured: Measured) -> str:
    """Every target with what was measured, now or, as the old text has it, before."""
    before = {line.rsplit(" | ", 2)[0] + " |": line for line in old.splitlines() if line.startswith("| ")}
    lines = []
    for target in TARGETS:
        now = target.line(measured) if (target.suite, target.device) == (suite, device) else None
        unknown = f"{target.key} not yet measured: `{_command(target.suite, target.device)}` | |"
        lines.append(now or before.get(target.key, unknown))
    return "\n".join([markdown(["target", "suite", "measured", ""], [], texts=4), *lines])


def section(suite: str, setting: Setting, text: str, command: str, seconds: float) -> str:
    """Title, machine, command, tables (`text`), and what bounds it."""
    sample = f"up to {setting.rounds} rounds of samples of about {setting.lasting} s"
    clock = {"wall": "wall-clock time", "process": "processor time, as others' load lengthens that less"}[setting.clock]
    load = f"load average {os.getloadavg()[0]:.1f} at the end" if hasattr(os, "getloadavg") else "load unknown"
    cache = "a cold compiler cache" if setting.cold else "the usual compiler cache, cold or warm"
    data = "generated images" if setting.data_dir is None else "the data set itself"
    parts = [
        f"## {_title(suite, setting.device.type)}",
        f"{machine(setting.device)}; {datetime.date.today()}; {load}.",
        f"`{command}`: {sample}, {clock}, {cache}, {data}; {seconds:.0f} s altogether.",
        text,
        BOUNDS.get((suite, setting.device.type), "").rstrip(),
    ]
    return "\n\n".join(part for part in parts if part)


def machine(device: torch.device) -> str:
    """Processor or GPU, cores, and versions."""
    where = f"{_processor()}, {os.cpu_count()} cores"
    if device.type == "cuda":
        where = f"{torch.cuda.get_device_name(device)} ({where})"
    jax = f"JAX {importlib.metadata.version('jax')}" if has_jax(device) else "no JAX, whose columns are empty"
    return f"{where}; torch {torch.__version__}, {jax}, Python {platform.python_version()}"


def _title(suite: str, device: str) -> str:
    return f"{suite} on {device}"


def _command(suite: str, device: str) -> str:
    return f"python -m benchmarks.run --suite {suite} --device {device}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    named = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE) if info.exists() else None
    return named[1] if named else platform.processor() or platform.machine()
