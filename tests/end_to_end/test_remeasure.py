"""Metrics from checkpoints: what is measured afterwards is what the run measured, to the bit.

Small eager runs on generated data, through `lopbench.experiment.execute`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import gin
import pandas as pd
import pytest
import torch

from lopbench import checkpoint, config
from lopbench import remeasure as command
from lopbench.analysis.checkpoints import remeasure
from lopbench.errors import UserError
from lopbench.experiment import Setting, execute

ROOT = Path(command.__file__).parent.parent
RATE = "optimizers.SGD.learning_rate"

#: two populations of two replicas each, three tasks of 10 steps; "huge" turns non-finite in the first task
RUN = f"""
run.stream = @streams.PermutedInputs
run.source = @sources.Generated
run.architecture = @architectures.MLP
run.optimizer = @optimizers.SGD
run.executor = 'eager'
run.keep_tasks = 1
run.metrics = [@metrics.DeadUnits, @metrics.Ranks, @metrics.WeightMagnitude, @metrics.Evaluation]
sources.Generated.shape = (4, 4)
sources.Generated.classes = 3
sources.Generated.train_size = 60
sources.Generated.test_size = 30
streams.PermutedInputs.batch_size = 6
streams.PermutedInputs.tasks = 3
architectures.MLP.depth = 1
architectures.MLP.width = 5
metrics.DeadUnits.probe_size = 10
metrics.Ranks.probe_size = 10
metrics.Evaluation.probe_size = 20
strategies.SelectiveWeightReinit.period = 4
run.variants = {{
    'sane': ['run.seeds = [3]'],
    'huge': ['run.seeds = [4]', '{RATE} = 1e30'],
    'swr': ['run.seeds = 2', 'architectures.MLP.width = 7', 'run.strategies = [@strategies.SelectiveWeightReinit]'],
}}
"""


@pytest.fixture(autouse=True)
def nothing_bound() -> Iterator[None]:
    gin.clear_config()
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    gin.clear_config()


def trained(folder: Path, *bindings: str) -> Path:
    """The workdir of a finished run."""
    (folder / "mine.gin").write_text(RUN)
    request = config.read([str(folder / "mine.gin")], bindings)
    assert execute(request, Setting(str(folder / "out"), device="cpu")) == 0
    return folder / "out"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of a run with checkpoints. Not to be changed."""
    return trained(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def workdir(finished: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(finished, tmp_path / "out"))


def rows(workdir: Path, folder: str) -> pd.DataFrame:
    """A table's values by what they are of."""
    keys = ["variant", "replica", "seed", "step", "task", "tag"]
    return pd.read_parquet(workdir / folder).set_index(keys).sort_index()


def measured(workdir: Path, *bindings: str) -> pd.DataFrame:
    remeasure(workdir, bindings, device="cpu")
    return rows(workdir, "remeasured")


# What a run saves -----------------------------------------------------------------------------------


def test_a_run_saves_each_population_as_each_task_begins_and_at_the_end(finished: Path) -> None:
    found = checkpoint.saved(finished)
    assert list(found) == [0, 1]
    for number, paths in found.items():
        assert [path.name for path in paths] == [
            *("task-0000.safetensors", "task-0001.safetensors", "task-0002.safetensors", "end.safetensors")
        ]
        checkpoints = [checkpoint.load(path) for path in paths]
        assert [(one.step, one.task) for one in checkpoints] == [(0, 0), (10, 1), (20, 2), (30, 2)]
        names = [(replica.index, replica.variant, replica.seed) for replica in checkpoints[0].replicas]
        assert names == ([(0, "sane", 3), (1, "huge", 4)], [(2, "swr", 0), (3, "swr", 1)])[number]
        assert {path.name for path in paths[0].parent.iterdir()} == {path.name for path in paths}


def test_a_run_that_ends_within_a_task_saves_its_end(tmp_path: Path) -> None:
    workdir = trained(tmp_path, "run.max_steps = 17")
    last = checkpoint.load(checkpoint.path_of(workdir, 1))
    assert (last.step, last.task) == (17, 1)


def test_saving_changes_no_number(finished: Path, tmp_path: Path) -> None:
    workdir = trained(tmp_path, "run.keep_tasks = None", "run.checkpoint_steps = 3", "run.keep_checkpoints = 100")
    assert {path.stem for path in (workdir / "checkpoints/population-0").iterdir()} == {"end"}  # once it has finished
    one, other = (
        table[~table.index.get_level_values("tag").str.startswith("time/")]
        for table in (rows(finished, "metrics"), rows(workdir, "metrics"))
    )
    pd.testing.assert_frame_equal(one, other, check_exact=True)


@pytest.mark.parametrize(
    "binding",
    [
        "checkpoint_minutes = 0",
        "checkpoint_steps = 0.5",
        "checkpoint_tasks = True",
        "keep_tasks = 0",
        "keep_checkpoints = 0",
    ],
)
def test_when_to_save_is_checked(tmp_path: Path, binding: str) -> None:
    with pytest.raises(UserError, match=rf"run\.{binding.split()[0]} is .*: it must be a"):
        trained(tmp_path, f"run.{binding}")
    assert not (tmp_path / "out").exists()


def test_overwrite_removes_checkpoints_and_what_was_remeasured(workdir: Path) -> None:
    measured(workdir)
    request = config.read([str(workdir / "config.gin")], ["run.keep_tasks = None"])
    assert execute(request, Setting(str(workdir), device="cpu", overwrite=True)) == 0
    assert {path.stem for path in workdir.glob("checkpoints/*/*")} == {"end"} and not (workdir / "remeasured").exists()


# What is measured afterwards ------------------------------------------------------------------------


def test_what_is_remeasured_is_what_the_run_measured_to_the_bit(workdir: Path) -> None:
    online, later = rows(workdir, "metrics"), measured(workdir)
    assert list(later.columns) == list(online.columns) == ["value", RATE]
    step, tag = later.index.get_level_values("step"), later.index.get_level_values("tag")
    # online, networks were evaluated as tasks ended, and all else was measured as they began
    both = later[(step == 30) == tag.str.startswith("evaluation/")]
    assert {"units/dead", "ranks/effective", "weights/magnitude.output.weight"} < set(tag)
    assert len(both) == 4 * (3 * len(set(tag[~tag.str.startswith("evaluation/")])) + 2)
    pd.testing.assert_frame_equal(both, online.loc[both.index], check_exact=True)
    assert both.loc["sane"]["value"].notna().all()
    huge = both.loc["huge"]["value"]
    assert (huge.isna() == (huge.index.get_level_values("step") > 0)).all()  # frozen, so without values


def test_other_metrics_can_be_measured_and_replace_what_was_there(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured(workdir)
    capsys.readouterr()
    dormant = "metrics.DormantUnits"
    bindings = [f"run.metrics = [@{dormant}]", f"{dormant}.threshold = 0.5", f"{dormant}.probe_size = 10"]
    later = measured(workdir, *bindings)
    assert set(later.index.get_level_values("tag")) == {"units/dormant_0.5", "units/dormant_0.5.hidden.0"}
    assert capsys.readouterr().out.splitlines() == [
        "population 0 (sane, huge): 4 checkpoints, 16 rows",
        "population 1 (swr): 4 checkpoints, 16 rows",
        f"results:     {workdir / 'remeasured'}, 32 rows",
    ]


def test_a_population_that_was_not_saved_is_passed_by(workdir: Path) -> None:
    shutil.rmtree(workdir / "checkpoints" / "population-0")
    assert set(measured(workdir).index.get_level_values("variant")) == {"swr"}


# What is refused ------------------------------------------------------------------------------------

MISTAKES = {
    "other widths": (
        ["architectures.MLP.depth = 2"],
        r"In .*population-0/task-0000\.safetensors parameters/hidden\.1\.weight is missing, "
        r"and in the network that the config makes float32 \[2, 5, 5\]\.",
    ),
    "other shapes": (
        ["sources.Generated.shape = (5, 5)"],
        r"In .*parameters/hidden\.0\.weight is float32 \[2, 5, 16\], and in .* makes float32 \[2, 5, 25\]\.",
    ),
    "another dtype": (["run.dtype = 'float64'"], r"In .* is float32 \[2, 5, 16\], and in .* float64 \[2, 5, 16\]\."),
    "other seeds": (
        ["run.seeds = [7]"],
        r".*task-0000\.safetensors holds replica 0 \(sane, seed 3, .*\) where the config makes .* \(sane, seed 7",
    ),
    "more seeds": (["run.seeds = 3"], r".*task-0000\.safetensors holds 2 replicas where the config makes 6\."),
    "fewer populations": (
        [
            "architectures.MLP.width = 5",
            f"run.variants = {{'sane': ['run.seeds = [3]'], 'huge': ['run.seeds = [4]', '{RATE} = 1e30']}}",
        ],
        r".*population-1 is no population of the config, which makes 1\.",
    ),
    "nothing to measure": (["run.metrics = []"], r"run\.metrics is empty"),
    "a metric that does not exist": (["run.metrics = [@metrics.Rank]"], r".*Did you mean"),
}


@pytest.mark.parametrize("bindings, message", MISTAKES.values(), ids=MISTAKES)
def test_a_config_that_does_not_fit_is_refused_and_earlier_values_stay(
    workdir: Path, bindings: list[str], message: str
) -> None:
    (workdir / "remeasured").mkdir()
    (workdir / "remeasured" / "part-000000.parquet").write_text("an earlier call's")
    with pytest.raises(UserError, match=message):
        remeasure(workdir, bindings, device="cpu")
    assert (workdir / "remeasured" / "part-000000.parquet").read_text() == "an earlier call's"


def test_a_folder_without_a_run_or_without_checkpoints_is_refused(workdir: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no run in .*: it holds no config\.gin\."):
        remeasure(tmp_path / "elsewhere")
    shutil.rmtree(workdir / "checkpoints")
    with pytest.raises(UserError, match=r"There are no checkpoints in .*run\.keep_tasks = 1 one a task\."):
        remeasure(workdir)


def test_a_damaged_checkpoint_is_named(workdir: Path) -> None:
    path = checkpoint.path_of(workdir, 1, 2)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"population-1/task-0002\.safetensors is damaged"):
        remeasure(workdir, device="cpu")


# The command ----------------------------------------------------------------------------------------


def test_the_command_measures(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    binding = "--gin_bindings=run.metrics = [@metrics.WeightMagnitude]"
    assert command.main(["remeasure.py", f"--workdir={workdir}", "--device=cpu", binding]) == 0
    assert capsys.readouterr().out.endswith(" rows\n")
    assert "weights/magnitude" in set(rows(workdir, "remeasured").index.get_level_values("tag"))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "Which run? Name its folder: --workdir=DIR.\n"),
        (["--workdir=gone"], "There is no run in gone: it holds no config.gin.\n"),
        (["--wokdir=a"], "Unknown command line flag 'wokdir'. Did you mean: workdir ? --help shows the flags.\n"),
        (["a"], "a: not a flag. --help shows the flags.\n"),
    ],
)
def test_a_mistake_is_one_line_and_status_1(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = command.main(["remeasure.py", *arguments])
    except SystemExit as stop:
        status = int(stop.code or 0)
    assert (status, capsys.readouterr()) == (1, ("", message))


def test_help_begins_with_what_it_does_and_names_every_flag(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    called = [sys.executable, "-m", "lopbench.remeasure", "--help"]
    done = subprocess.run(called, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Measures a run's networks afterwards")
    flags = {line.split(":")[0].strip() for line in done.stdout.splitlines() if line.startswith("  --")}
    assert flags == {*("--workdir", "--gin_bindings", "--gin_search_path", "--data_dir", "--device", "--[no]help")}
