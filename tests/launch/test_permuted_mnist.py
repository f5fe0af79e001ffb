"""A study of real digits: six methods, eight seeds each, and the same bits from two processes as from one."""

from __future__ import annotations

from pathlib import Path

import pytest

from lopbench.analysis.studies import read
from tests.end_to_end.test_permuted_mnist import DATA, needs_mnist
from tests.launch.test_local import launch, same

pytestmark = pytest.mark.study

STUDY = "include 'permuted_mnist/methods.gin'\n"
#: over what the methods' files bind, so that each of them acts within so few steps
BINDINGS = (
    "run.seeds = 8",
    "run.max_tasks = 2",
    "run.metrics = []",
    "run.window_steps = 50",
    "streams.PermutedInputs.steps_per_task = 150",
    "strategies.SelectiveWeightReinit.period = 128",
    "strategies.ReDo.period = 100",
)


@needs_mnist
def test_two_processes_give_what_one_gives(tmp_path: Path) -> None:
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        bindings = [f"--gin_bindings={line}" for line in BINDINGS]
        status, out, err = launch(folder, STUDY, f"--processes={processes}", f"--data_dir={DATA}", *bindings)
        assert status == 0, err
        assert "48 points in 6 populations" in out
    same(tmp_path / "1" / "study", tmp_path / "2" / "study")
    rows = read([tmp_path / "2" / "study"], ["task/online_accuracy"]).rows
    means = rows.pivot_table("value", "task", "variant", observed=True)
    assert means.shape == (2, 6)
    assert (means > 0.5).all(axis=None), means  # 150 batches a task: all of them learn
    curves = rows.groupby(["variant", "seed"], observed=True)["value"].apply(tuple)
    assert len(curves) == 48 and curves.nunique() >= 40  # ReDo may find nothing dormant, and is then plain SGD
