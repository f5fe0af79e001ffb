"""Whole runs as a user starts them: what they leave in the workdir, that they repeat, and what mistakes say.

All run in this process (but one) through `lopbench_main`, eagerly, on a few dozen steps of generated data.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gin
import numpy as np
import pandas as pd
import pytest
from absl.testing import flagsaver
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lopbench import main, registry
from lopbench.loggers import manifest

ROOT = Path(main.__file__).parent.parent
COLUMNS = ["variant", "replica", "seed", "step", "task", "tag", "value"]
RATE = "optimizers.SGD.learning_rate"
FACTOR = "strategies.SelectiveWeightReinit.reinit_factor"
OWN_MODULES = ("refresh_output", "ctrl_c")  # that tests write and import

#: three tasks of 10 steps; a window is 4 steps, or the 2 that a task leaves over
BASE = """
run.stream = @streams.PermutedInputs
run.source = @sources.Generated
run.architecture = @architectures.MLP
run.optimizer = @optimizers.SGD
run.seeds = 2
run.executor = 'eager'
run.window_steps = 4
run.metrics = [@metrics.DeadUnits, @metrics.WeightMagnitude]
sources.Generated.shape = (4, 4)
sources.Generated.classes = 3
sources.Generated.train_size = 60
sources.Generated.test_size = 30
streams.PermutedInputs.batch_size = 6
streams.PermutedInputs.tasks = 3
architectures.MLP.width = 5
architectures.MLP.depth = 1
metrics.DeadUnits.probe_size = 10
"""

VARIANTS = f"""
run.dtype = 'float64'
strategies.SelectiveWeightReinit.period = 6
run.variants = {{
    'plain': ['{RATE} = 0.1'],
    'fast': ['{RATE} = 0.5'],
    'swr': ['{RATE} = 0.1', 'run.strategies = [@strategies.SelectiveWeightReinit]', '{FACTOR} = 0.5'],
    'swr_off': ['{RATE} = 0.1', 'run.strategies = [@strategies.SelectiveWeightReinit]', '{FACTOR} = None'],
}}
"""


@dataclass(frozen=True)
class Done:
    """How a call of main ended."""

    status: int
    out: str
    err: str


def lopbench_main(folder: Path, *arguments: str) -> Done:
    """Call main in this process, in a working directory, with these flags."""
    gin.clear_config()
    out, err, path = io.StringIO(), io.StringIO(), list(sys.path)
    with (
        flagsaver.flagsaver(),
        contextlib.chdir(folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            status = main.main(main.parse(["main.py", *arguments]))
        except SystemExit as stop:
            status = int(stop.code or 0)
        finally:
            sys.path[:] = path
            gin.clear_config()
    return Done(status, out.getvalue(), err.getvalue())


def write(folder: Path, lines: str = "", name: str = "mine.gin") -> Path:
    """A gin file: `BASE` and further lines."""
    (folder / name).write_text(BASE + lines)
    return folder / name


def finished(folder: Path, *arguments: str, workdir: str = "out") -> pd.DataFrame:
    """The table of a run that must finish."""
    done = lopbench_main(folder, *arguments, f"--workdir={workdir}")
    assert done.status == 0, done.err
    assert manifest.read(folder / workdir)["status"] == "finished"
    return table(folder / workdir)


def table(workdir: Path) -> pd.DataFrame:
    return pd.read_parquet(workdir / "metrics")


def numbers(rows: pd.DataFrame) -> pd.DataFrame:
    """What a run that is repeated must give again: all but how long things took."""
    return rows[~rows["tag"].str.startswith("time/")].reset_index(drop=True)


def assert_same_numbers(one: pd.DataFrame, other: pd.DataFrame) -> None:
    """All columns are equal, the values to the bit."""
    pd.testing.assert_frame_equal(numbers(one), numbers(other), check_exact=True)


def values(rows: pd.DataFrame) -> pd.Series:
    """The values of a variant by what they are of, whichever run they are from.

    Without NaN, which also stands for what only other replicas of the population have.
    """
    return numbers(rows).set_index(["seed", "step", "task", "tag"])["value"].dropna().sort_index()


def series(rows: pd.DataFrame, tag: str, replica: int = 0) -> pd.Series:
    """One replica's values of a tag by step."""
    return rows[(rows["tag"] == tag) & (rows["replica"] == replica)].set_index("step")["value"]


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """No bindings, and none of the parts that a test's own files have registered."""
    gin.clear_config()
    yield
    gin.clear_config()
    for known in registry._parts.values():
        for name in [name for name, part in known.items() if part.__module__ in OWN_MODULES]:
            del known[name]


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of a finished run of four variants in two populations, of two replicas each. Not to be changed."""
    folder = tmp_path_factory.mktemp("variants")
    write(folder, VARIANTS)
    finished(folder, "--gin_file=mine.gin")
    return folder / "out"


# What a run leaves ----------------------------------------------------------------------------------


def test_a_workdir_holds_the_configs_the_numbers_the_curves_and_how_it_went(variants: Path) -> None:
    assert {path.name for path in variants.iterdir()} == {
        *("config.gin", "operative_config.gin", "run.json", "metrics", "tensorboard", "figures", "checkpoints")
    }
    assert (variants / "figures" / "plasticity.png").read_bytes().startswith(b"\x89PNG")
    run = json.loads((variants / "run.json").read_text())
    assert run["status"] == "finished" and run["started"] <= run["ended"] and run["resumed"] == []
    assert run["seeds"] == {name: [0, 1] for name in ("plain", "fast", "swr", "swr_off")}
    assert {"python", "lopbench", "torch", "numpy"} <= run["versions"].keys()
    assert run["device"].startswith(("cpu", "cuda")) and "git" in run and isinstance(run["command"], list)
    assert {own["executor"] for own in run["executors"].values()} == {"eager"}
    assert run["frozen_replicas"] == {}
    assert "swr_off" in (variants / "config.gin").read_text()
    assert "optimizers.SGD.nesterov = False" in (variants / "operative_config.gin").read_text()  # a default


def test_the_parts_are_one_table_with_a_column_for_each_hyperparameter_that_varies(variants: Path) -> None:
    rows = table(variants)
    assert list(rows.columns) == [*COLUMNS, RATE, FACTOR]
    of_variant = rows.groupby("variant", observed=True)
    assert {name: set(own["replica"]) for name, own in of_variant} == {
        **{"plain": {0, 1}, "fast": {2, 3}, "swr": {4, 5}, "swr_off": {6, 7}}
    }
    assert {name: own[RATE].unique().tolist() for name, own in of_variant} == {
        **{"plain": [0.1], "fast": [0.5], "swr": [0.1], "swr_off": [0.1]}
    }
    assert rows.loc[rows["variant"] == "swr", FACTOR].unique().tolist() == [0.5]
    assert rows.loc[rows["variant"] != "swr", FACTOR].isna().all()  # off, or without the strategy
    assert not rows.duplicated(["replica", "step", "task", "tag"]).any()


def test_what_is_recorded_when(variants: Path) -> None:
    rows = table(variants)
    windows = [4, 8, 10, 14, 18, 20, 24, 28, 30]
    for replica in range(8):
        assert series(rows, "online/accuracy", replica).index.tolist() == windows
        assert series(rows, "task/online_loss", replica).index.tolist() == [10, 20, 30]
        assert series(rows, "units/dead", replica).index.tolist() == [0, 10, 20]
        assert rows[(rows["replica"] == replica) & (rows["step"] > 20)]["task"].unique().tolist() == [2]
    reinitialized = [series(rows, "strategy/reinitialized_weights", replica) for replica in (4, 6)]
    assert (reinitialized[0] > 0).tolist() == [step in (8, 14, 18, 24, 30) for step in windows]  # those with a 6, 12...
    assert (reinitialized[1] == 0).all()


def test_a_task_s_online_mean_is_that_of_its_windows_weighted_by_their_steps(variants: Path) -> None:
    rows = table(variants)
    for tag in ("accuracy", "loss"):
        for replica in range(8):
            windows, tasks = series(rows, f"online/{tag}", replica), series(rows, f"task/online_{tag}", replica)
            weighted = windows.to_numpy() * np.diff(windows.index, prepend=0)
            means = weighted.reshape(3, 3).sum(axis=1) / 10
            np.testing.assert_allclose(tasks.to_numpy(), means, rtol=1e-12)


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Every scalar of a TensorBoard run, {tag: {step: value}}, by TensorBoard's own reader."""
    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: {e.step: e.value for e in reader.Scalars(tag)} for tag in reader.Tags()["scalars"]}


def test_tensorboard_shows_the_table_s_numbers(variants: Path) -> None:
    rows = table(variants)
    for (variant, seed), own in rows.dropna(subset="value").groupby(["variant", "seed"], observed=True):
        shown = scalars(variants / "tensorboard" / variant / f"seed_{seed:03d}")
        assert shown.keys() == set(own["tag"])
        for tag, of_tag in own.groupby("tag"):
            expected = dict(zip(of_tag["step"], of_tag["value"].to_numpy(np.float32).tolist(), strict=True))
            assert shown[tag] == expected
    for variant, own in rows.groupby("variant", observed=True):
        means = own[own["tag"] == "task/online_loss"].groupby("step")["value"].mean()
        shown = scalars(variants / "tensorboard" / variant / "mean")["task/online_loss"]
        assert shown == pytest.approx(means.to_dict(), rel=1e-6)


# Runs repeat, and variants don't touch each other ---------------------------------------------------


@pytest.mark.parametrize("saved", ["operative_config.gin", "config.gin"])
def test_a_saved_config_repeats_the_run_to_the_bit(variants: Path, tmp_path: Path, saved: str) -> None:
    assert_same_numbers(finished(tmp_path, f"--gin_file={variants / saved}"), table(variants))
    assert (tmp_path / "out" / "run.json").exists()


def test_variants_that_differ_in_numbers_share_a_population(variants: Path) -> None:
    assert list(manifest.read(variants)["executors"]) == ["plain, fast", "swr, swr_off"]


@pytest.mark.parametrize("name", ["plain", "fast", "swr", "swr_off"])
def test_a_variant_s_numbers_are_those_of_the_variant_run_alone(variants: Path, tmp_path: Path, name: str) -> None:
    factor = {"swr": 0.5, "swr_off": None}.get(name, 0)
    bindings = [f"run.variants = {{'{name}': []}}", f"{RATE} = {0.5 if name == 'fast' else 0.1}"]
    if name.startswith("swr"):
        bindings += ["run.strategies = [@strategies.SelectiveWeightReinit]", f"{FACTOR} = {factor}"]
    write(tmp_path, VARIANTS)
    alone = finished(tmp_path, "--gin_file=mine.gin", *(f"--gin_bindings={line}" for line in bindings))
    assert list(alone.columns) == COLUMNS  # nothing varies any more
    together = table(variants)
    mine = values(together[together["variant"] == name])
    pd.testing.assert_series_equal(values(alone), mine, rtol=1e-9, atol=1e-12)


def test_seeds_may_be_listed_and_each_is_a_replica_of_its_own(tmp_path: Path) -> None:
    write(tmp_path, "run.dtype = 'float64'\n")
    listed = finished(tmp_path, "--gin_file=mine.gin", f"--gin_bindings=run.seeds = [5, {2**40}, -3]")
    assert listed.drop_duplicates("replica")["seed"].tolist() == [5, 2**40, -3]
    assert manifest.read(tmp_path / "out")["seeds"] == {"mine": [5, 2**40, -3]}
    alone = finished(tmp_path, "--gin_file=mine.gin", "--gin_bindings=run.seeds = [-3]", workdir="alone")
    pd.testing.assert_series_equal(values(alone), values(listed[listed["seed"] == -3]), rtol=1e-9, atol=1e-12)
    losses = listed[(listed["tag"] == "online/loss") & (listed["step"] == 4)]["value"]
    assert losses.nunique() == 3


def test_max_steps_may_lie_in_the_middle_of_a_task(tmp_path: Path) -> None:
    write(tmp_path)
    whole = finished(tmp_path, "--gin_file=mine.gin")
    cut = finished(tmp_path, "--gin_file=mine.gin", "--gin_bindings=run.max_steps = 17", workdir="cut")
    assert series(cut, "online/loss").index.tolist() == [4, 8, 10, 14, 17]
    assert series(cut, "task/online_loss").index.tolist() == [10]  # the second task has no mean
    until = whole[whole["step"] <= 14]
    assert_same_numbers(cut[cut["step"] <= 14], until)


def test_the_shipped_quickstart_with_the_overlay_tiny_runs(tmp_path: Path) -> None:
    cut = "--gin_bindings=streams.SlowlyChangingRegression.period = 100"
    rows = finished(tmp_path, "--gin_file=quickstart.gin", "--gin_file=tiny.gin", cut)
    assert rows["seed"].unique().tolist() == [0, 1] and rows["step"].max() == 200
    assert series(rows, "online/loss").index.tolist() == [50, 100, 150, 200]
    assert rows["variant"].nunique() >= 5
    assert not (rows["tag"] == "online/accuracy").any()  # it is a regression


# A strategy of the user's own ------------------------------------------------------------------------

STRATEGY = '''
"""A strategy outside of the package."""

from dataclasses import dataclass

from lopbench import register
from lopbench.checks import check_number
from lopbench.periods import due_every
from lopbench.population import along
from lopbench.protocols import PerReplica, Strategy


@register("strategies")
@dataclass(frozen=True)
class RefreshOutput(Strategy):
    """Draws the output layer's weights anew every `period` updates."""

    period: PerReplica[int | None] = 5
    reports = ("reinitialized_weights",)

    def __post_init__(self):
        check_number(self, "period", self.period, at_least=1, integer=True, optional=True)

    def events(self, population, hyper):
        return due_every(hyper["period"])

    def after_update(self, learner):
        if learner.event is not None:
            due = learner.event["due"]
            learner.reinitialize("output.weight", along(due, learner.parameters["output.weight"]))
            learner.report("reinitialized_weights", due * learner.parameters["output.weight"][0].numel())
'''


def test_a_strategy_in_a_file_of_one_s_own_is_imported_by_the_gin_file_and_trains(tmp_path: Path) -> None:
    """Once as a command, from a folder that is no checkout; then what it saved, in this process."""
    (tmp_path / "refresh_output.py").write_text(STRATEGY)
    own = "import refresh_output\nrun.strategies = [@strategies.RefreshOutput]\n"
    write(tmp_path, own + "strategies.RefreshOutput.period = 7\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "lopbench.main", "--gin_file=mine.gin"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    workdir = tmp_path / "runs" / "mine"
    assert manifest.read(workdir)["status"] == "finished"
    assert manifest.read(workdir)["command"][1:] == ["--gin_file=mine.gin"]
    rows = table(workdir)
    drawn = series(rows, "strategy/reinitialized_weights")
    assert drawn[drawn > 0].to_dict() == {8: 15, 14: 15, 24: 15, 28: 15}  # 5 x 3 weights in updates 7, 14, 21, 28
    assert "import refresh_output" in (workdir / "operative_config.gin").read_text()
    again = finished(tmp_path, f"--gin_file={workdir / 'operative_config.gin'}")
    assert_same_numbers(again, rows)
    done = lopbench_main(tmp_path, "--gin_file=mine.gin", "--gin_bindings=strategies.RefreshOutput.period = 0")
    assert done.status == 1 and "strategies.RefreshOutput.period is 0: it must be an integer at least 1" in done.err


# Mistakes -------------------------------------------------------------------------------------------

LINEAR = "--gin_bindings=run.architecture = @architectures.Linear"
MISTAKES = {
    "gin file": (["--gin_file=nowhere.gin"], "There is no gin file 'nowhere.gin'"),
    "part": (["--gin_bindings=run.optimizer = @optimizers.SDG"], r"(?s).*SDG.*Did you mean .*SGD"),
    "parameter": ([f"--gin_bindings={RATE}s = 0.1"], r"optimizers\.SGD has no parameter learning_rates"),
    "unused": (["--gin_bindings=optimizers.Adam.beta1 = 0.5"], r"Nothing in this run uses optimizers\.Adam\.beta1"),
    "width 0": (
        ["--gin_bindings=architectures.MLP.width = 0"],
        r"architectures\.MLP\.width is 0: it must be an integer at least 1\.",
    ),
    "negative rate": (
        [f"--gin_bindings={RATE} = -0.1"],
        r"optimizers\.SGD\.learning_rate is -0\.1: it must be a number at least 0\.",
    ),
    "a variant's mistake": (
        ["--gin_bindings=run.variants = {'good': [], 'bad': ['architectures.MLP.depth = 0']}"],
        r"(?s)architectures\.MLP\.depth is 0: .*bad",
    ),
    "no data": (
        ["--gin_bindings=run.source = @sources.MNIST", "--gin_bindings=sources.MNIST.download = False", "--data_dir=."],
        r"sources\.MNIST: there is no MNIST in .*--data_dir",
    ),
    "no GPU": (["--device=cuda:7"], r"--device is 'cuda:7', but (torch sees no GPU here|there are \d GPUs here)"),
    "endless": (
        ["--gin_bindings=streams.PermutedInputs.tasks = None"],
        r"streams\.PermutedInputs never ends: set run\.max_tasks or run\.max_steps\.",
    ),
    "precision": (
        ["--gin_bindings=run.precision = 'tf32'", "--device=cpu"],
        r"run\.precision is 'tf32', which GPUs have",
    ),
    "captured": (
        ["--gin_bindings=run.executor = 'captured'", "--device=cpu"],
        r"run\.executor is 'captured', but CUDA graphs",
    ),
    "seed twice": (["--gin_bindings=run.seeds = [1, 2, 1]"], r"run\.seeds names 1 twice"),
    "probe too large": (
        ["--gin_bindings=metrics.DeadUnits.probe_size = 1000"],
        r"A probe of 1000 examples is more than the 60 train examples",
    ),
    "metric twice": (
        ["--gin_bindings=run.metrics = [@metrics.DeadUnits, @metrics.DeadUnits]"],
        r"run\.metrics names DeadUnits twice",
    ),
    "fisher examples": (
        ["--gin_bindings=run.strategies = [@strategies.EWC]", "--gin_bindings=strategies.EWC.use_fisher = True"],
        r"A probe of 1000 examples is more than the 60 train examples",
    ),
    "type": (["--gin_bindings=run.dtype = ['float32']"], r"run\.dtype is \['float32'\]: it must be one of"),
    "no test split": (
        ["--gin_bindings=sources.Generated.test_size = 0", "--gin_bindings=run.metrics = [@metrics.Evaluation]"],
        r"streams\.PermutedInputs has no 'test' examples to probe on Generated",
    ),
    "strategy that does not fit": (
        [
            "--gin_bindings=run.strategies = [@strategies.ReDo]",
            "--gin_bindings=run.architecture = @architectures.Linear",
        ],
        r"strategies\.ReDo replaces units",
    ),
    "workdir is a file": (["--workdir=mine.gin"], r"--workdir=mine\.gin is a file"),
}


@pytest.mark.parametrize("arguments, message", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_message_and_nothing_is_written(tmp_path: Path, arguments: list[str], message: str) -> None:
    write(tmp_path)
    done = lopbench_main(tmp_path, *([] if "gin_file" in arguments[0] else ["--gin_file=mine.gin"]), *arguments)
    assert done.status == 1
    assert re.match(message, done.err), done.err
    assert "Traceback" not in done.err and len(done.err.splitlines()) <= 5
    assert [path.name for path in tmp_path.iterdir()] == ["mine.gin"]


def test_a_workdir_with_other_results_is_refused_and_stays_as_it_was(tmp_path: Path) -> None:
    write(tmp_path)
    finished(tmp_path, "--gin_file=mine.gin")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    done = lopbench_main(tmp_path, "--gin_file=mine.gin", "--gin_bindings=run.seeds = 3", "--workdir=out")
    assert done.status == 1
    assert done.err.splitlines() == [
        "out holds the results of another run. The first difference:",
        "    there:  run.seeds = 2",
        "    asked:  run.seeds = 3",
        "Choose another --workdir, or give --overwrite to remove what is there.",
    ]
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_overwrite_starts_afresh_and_keeps_the_files_of_others(tmp_path: Path) -> None:
    write(tmp_path)
    finished(tmp_path, "--gin_file=mine.gin", "--gin_bindings=run.seeds = 3")
    notes = [tmp_path / "out" / "notes.txt", tmp_path / "out" / "tensorboard" / "notes.txt"]
    for note in notes:
        note.write_text("keep me")
    rows = finished(tmp_path, "--gin_file=mine.gin", "--overwrite")
    assert set(rows["replica"]) == {0, 1}
    assert not (tmp_path / "out" / "tensorboard" / "mine" / "seed_002").exists()
    assert [note.read_text() for note in notes] == ["keep me"] * 2


def test_a_mistake_with_overwrite_leaves_the_old_results(tmp_path: Path) -> None:
    write(tmp_path)
    rows = finished(tmp_path, "--gin_file=mine.gin")
    mistake = "--gin_bindings=architectures.MLP.width = 0"
    assert lopbench_main(tmp_path, "--gin_file=mine.gin", mistake, "--overwrite", "--workdir=out").status == 1
    assert_same_numbers(table(tmp_path / "out"), rows)


def test_what_no_memory_holds_is_refused_before_it_is_made_and_the_old_results_stay(tmp_path: Path) -> None:
    write(tmp_path)
    rows = finished(tmp_path, "--gin_file=mine.gin")
    much = ("--gin_bindings=architectures.MLP.width = 2000", "--gin_bindings=architectures.MLP.depth = 2")
    many = "--gin_bindings=run.seeds = 20_000"
    for how in (["--overwrite", "--workdir=out"], ["--dry_run"]):
        done = lopbench_main(tmp_path, "--gin_file=mine.gin", *much, many, *how)
        assert done.status == 1
        message = r"20,000 replicas of mine take .* TiB, .* a replica, but .* are free .*: bind sweep\.most_replicas"
        assert re.search(message, done.err), done.err
    assert_same_numbers(table(tmp_path / "out"), rows)


def test_how_a_population_is_run_is_told_and_kept(tmp_path: Path) -> None:
    write(tmp_path)
    bindings = [
        f"--gin_bindings=run.{line}" for line in ("seeds = 5", "replicas_together = 2", "precision = 'bfloat16'")
    ]
    finished(tmp_path, "--gin_file=mine.gin", *bindings)
    (choice,) = manifest.read(tmp_path / "out")["executors"].values()
    assert (choice["together"], choice["block_steps"], choice["executor"]) == (2, 1, "eager")
    pinned = (tmp_path / "out" / "operative_config.gin").read_text()
    assert "run.replicas_together = 2" in pinned and "run.precision = 'bfloat16'" in pinned


# Replicas that turn non-finite ----------------------------------------------------------------------


def test_a_replica_that_turns_non_finite_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    write(tmp_path, f"run.dtype = 'float64'\nrun.variants = {{'sane': [], 'huge': ['{RATE} = 1e200']}}\n")
    done = lopbench_main(tmp_path, "--gin_file=mine.gin", "--workdir=out")
    run, rows = manifest.read(tmp_path / "out"), table(tmp_path / "out")
    assert done.status == 0 and run["status"] == "finished"
    assert list(run["executors"]) == ["sane, huge"]  # side by side
    assert run["frozen_replicas"].keys() == {"2", "3"}
    for replica, seed in ((2, 0), (3, 1)):
        died = run["frozen_replicas"][str(replica)]
        assert 0 <= died < 4
        line = rf"replica {replica} \(huge, seed {seed}.*\) turned non-finite after {died} updates"
        assert re.search(line, done.err)
        assert f"seed {seed}, after {died} updates" in done.out  # in the summary
        own = rows[(rows["replica"] == replica) & ~rows["tag"].str.startswith("time/")]
        assert own.loc[own["step"] > 4, "value"].isna().all() and (own["step"] > 4).any()
        assert not np.isinf(own["value"]).any()
        assert series(rows, "task/online_loss", replica).isna().all()  # not even of the task in which it died
    sane = rows[rows["variant"] == "sane"]
    assert sane["value"].notna().all()
    alone = finished(tmp_path, "--gin_file=mine.gin", "--gin_bindings=run.variants = {'sane': []}", workdir="alone")
    pd.testing.assert_series_equal(values(alone), values(sane), rtol=1e-9, atol=1e-12)


def test_when_every_replica_turns_non_finite_the_run_ends_and_says_so(tmp_path: Path) -> None:
    write(tmp_path, f"{RATE} = 1e30\n")
    done = lopbench_main(tmp_path, "--gin_file=mine.gin", "--workdir=out")
    run = manifest.read(tmp_path / "out")
    assert done.status == 1 and run["status"] == "finished" and run["frozen_replicas"].keys() == {"0", "1"}
    assert done.err.splitlines()[-1] == "Every replica of mine turned non-finite: a smaller learning rate may help."
    assert run["ended"]
    assert table(tmp_path / "out")["step"].max() <= 10  # it stopped there
    assert "Traceback" not in done.err


INTERRUPTED = """
import os
import signal
from dataclasses import dataclass

from lopbench import register
from lopbench.protocols import Metric


@register("metrics")
@dataclass(frozen=True)
class CtrlC(Metric):
    '''Ctrl-C after every 12 updates.'''

    every: int = 12

    def measure(self, probe):
        os.kill(os.getpid(), signal.SIGINT)
        return {}
"""


def test_an_interrupted_run_says_so_and_the_same_command_goes_on_with_it(tmp_path: Path) -> None:
    (tmp_path / "ctrl_c.py").write_text(INTERRUPTED)
    whole = finished(tmp_path, f"--gin_file={write(tmp_path, 'run.metrics = []', 'whole.gin')}", workdir="whole")
    write(tmp_path, "import ctrl_c\nrun.metrics = [@metrics.CtrlC]\n")
    for step, windows in ((12, [4, 8, 10]), (24, [4, 8, 10, 14, 18, 20, 24])):
        done = lopbench_main(tmp_path, "--gin_file=mine.gin", "--workdir=out")
        told = f"Stopped by Ctrl-C after {step} updates: the same command goes on from there."
        assert (done.status, done.err.splitlines()[-1]) == (130, told)
        assert manifest.read(tmp_path / "out")["status"] == "interrupted"
        assert series(table(tmp_path / "out"), "online/loss").index.tolist() == windows
    rows = finished(tmp_path, "--gin_file=mine.gin")
    assert_same_numbers(rows.assign(variant="whole"), whole.assign(variant="whole"))
    run = manifest.read(tmp_path / "out")
    assert len(run["resumed"]) == 2 and run["started"] <= run["resumed"][0] <= run["resumed"][1] <= run["ended"]


def test_a_finished_run_is_reported_again_and_not_touched(tmp_path: Path) -> None:
    write(tmp_path)
    first = lopbench_main(tmp_path, "--gin_file=mine.gin", "--workdir=out")
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    again = lopbench_main(tmp_path, "--gin_file=mine.gin", "--workdir=out")
    assert (again.status, again.err) == (0, "")
    said = again.out.splitlines()
    assert said[1] == "out holds this run, and it has finished: nothing is left to do."
    assert said[2:] == first.out.splitlines()[1:]
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


def test_bindings_that_change_no_number_may_change(tmp_path: Path) -> None:
    write(tmp_path)
    finished(tmp_path, "--gin_file=mine.gin")
    for binding in ("run.checkpoint_minutes = None", "run.keep_checkpoints = 5", "run.on_nonfinite = 'stop'"):
        done = lopbench_main(tmp_path, "--gin_file=mine.gin", "--workdir=out", f"--gin_bindings={binding}")
        assert (done.status, done.err) == (0, "")


# Dry runs -------------------------------------------------------------------------------------------


def test_a_dry_run_shows_the_plan_and_writes_nothing(tmp_path: Path) -> None:
    write(tmp_path, VARIANTS)
    done = lopbench_main(tmp_path, "--gin_file=mine.gin", "--dry_run", "--workdir=out")
    assert done.status == 0 and done.err == ""
    for line in (
        "Population 1 of 2: plain, fast",
        "  replicas    4, seeds 0, 1, 0, 1",
        "  steps       30 in tasks of 10",
        "  network     MLP, 103 parameters a replica",
        "Population 2 of 2: swr, swr_off",
        "  strategies  SelectiveWeightReinit",
    ):
        assert line in done.out.splitlines()
    assert [path.name for path in tmp_path.iterdir()] == ["mine.gin"]


def test_a_dry_run_needs_no_data_but_refuses_what_a_run_would(tmp_path: Path) -> None:
    mnist = ["--gin_bindings=run.source = @sources.MNIST", "--gin_bindings=sources.MNIST.download = False"]
    write(tmp_path)
    done = lopbench_main(tmp_path, "--gin_file=mine.gin", *mnist, "--dry_run", "--data_dir=.")
    assert done.status == 0
    assert "inputs (28, 28), 10 outputs" in done.out
    done = lopbench_main(tmp_path, "--gin_file=mine.gin", "--dry_run", "--gin_bindings=architectures.MLP.width = 0")
    assert done.status == 1 and done.err.startswith("architectures.MLP.width is 0")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.gin"]
