"""However long a run is, it takes no more memory and no more files: a day in miniature."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch

from lopbench import checkpoint
from lopbench.choosing import missing_compiler
from lopbench.loggers import manifest
from tests.end_to_end.processes import Run, command

STEPS = 2_000_000
#: one example an update as in the quickstart, with rare work, 2,000 windows and 40 checkpoints
CONFIG = f"""
include 'streams/slowly_changing_regression.gin'
include 'architectures/scr_mlp.gin'
include 'optimizers/sgd.gin'
run.seeds = 2
run.max_steps = {STEPS}
run.executor = 'compiled'
run.window_steps = 1000
run.metrics = [@metrics.DeadUnits, @metrics.WeightMagnitude]
run.strategies = [@strategies.SelectiveWeightReinit]
run.checkpoint_steps = 50_000
streams.SlowlyChangingRegression.tasks = 200
metrics.DeadUnits.probe_size = 100
strategies.SelectiveWeightReinit.period = 1000
strategies.SelectiveWeightReinit.reinit_factor = 1e-2
"""
#: bytes: the table holds its last part, up to a million rows, and writes it anew each time; here all of 30,000 rows
MOST_GROWTH = 40 * 2**20
MOST_PASSING = 2  # files: one that is written aside, and a checkpoint before the oldest is removed


@dataclass(frozen=True)
class Sample:
    """What a run holds at a time: the newest checkpoint's step, bytes of memory, files."""

    step: int
    memory: int
    files: int


def samples(run: Run, workdir: Path) -> Iterator[Sample]:
    """Many a second while it trains."""
    process = psutil.Process(run.pid)
    while not run.ended_within(0.1):
        steps = [int(path.stem[5:]) for _, path in checkpoint.files_of(workdir) if path.stem.startswith("step-")]
        files = sum(path.is_file() for path in workdir.rglob("*"))
        if "frozen_replicas" not in manifest.read(workdir) and steps:  # that is noted when all training is done
            with suppress(psutil.Error):
                yield Sample(max(steps), process.memory_info().rss, files)


@pytest.mark.long
@pytest.mark.skipif(bool(missing_compiler(torch.device("cpu"))), reason="two million updates take too long uncompiled")
def test_memory_and_files_do_not_grow_with_steps(tmp_path: Path) -> None:
    (tmp_path / "long.gin").write_text(CONFIG)
    with command(tmp_path, "--gin_file=long.gin", "--workdir=out", "--device=cpu") as run:
        seen = list(samples(run, tmp_path / "out"))
        assert run.ended().status == 0, run.err
    early = [sample for sample in seen if 0.1 <= sample.step / STEPS < 0.2]
    late = [sample for sample in seen if sample.step / STEPS >= 0.9]
    before, growth = peak(early), peak(late) - peak(early)
    print(f"{before / 2**20:.0f} MB, and {growth / 2**20:+.1f} MB in the rest of the run")
    assert growth <= MOST_GROWTH
    assert max(sample.files for sample in late) - min(sample.files for sample in early) <= MOST_PASSING


def peak(seen: list[Sample]) -> int:
    return max(sample.memory for sample in seen)
