"""Starting a run's command again: what it goes on from, what it refuses, and that nothing is lost by asking.

In this process, through `lopbench_main`; test_kills.py and test_signals.py have real processes.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import gin
import numpy as np
import pandas as pd
import pytest
import torch

from lopbench import checkpoint, lock
from lopbench.loggers import manifest
from lopbench.training import Snapshot
from tests.end_to_end.test_runs import (
    INTERRUPTED,
    Done,
    assert_same_numbers,
    finished,
    lopbench_main,
    table,
    write,
)

#: checkpoints after 5, 10 (kept, as task 1 begins), 12 (Ctrl-C), ... updates
LINES = """
import stops_itself
run.metrics = [@metrics.StopsItself, @metrics.DeadUnits, @metrics.WeightMagnitude]
run.checkpoint_steps = 5
run.keep_checkpoints = 3
run.keep_tasks = 1
"""


#: a module and a metric of other names, as gin forgets none
STOPS_ITSELF = INTERRUPTED.replace("CtrlC", "StopsItself")


@pytest.fixture(autouse=True)
def nothing_bound() -> Iterator[None]:
    gin.clear_config()
    yield
    gin.clear_config()


def again(folder: Path, *arguments: str) -> Done:
    """Give the command; a later flag wins."""
    return lopbench_main(folder, "--gin_file=mine.gin", "--workdir=out", "--device=cpu", *arguments)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The table of the run that nothing stops."""
    folder = tmp_path_factory.mktemp("whole")
    write(folder)
    return finished(folder, "--gin_file=mine.gin")


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A folder with mine.gin and its run, out, stopped after 12 of 30 updates."""
    (tmp_path / "stops_itself.py").write_text(STOPS_ITSELF)
    write(tmp_path, LINES)
    assert again(tmp_path).status == 130
    return tmp_path


def goes_on(folder: Path, after: int, whole: pd.DataFrame) -> Done:
    """Start it again until it ends; it must go on after so many updates and give what the whole run gives."""
    first = again(folder)
    assert f"it goes on after {after} updates of population 0." in first.out, first.out + first.err
    done = first
    while done.status == 130:
        done = again(folder)
    assert done.status == 0, done.err
    assert_same_numbers(table(folder / "out"), whole)
    return first


def test_it_goes_on_from_the_newest_checkpoint(stopped: Path, whole: pd.DataFrame) -> None:
    names = {path.stem for path in (stopped / "out/checkpoints/population-0").iterdir()}
    assert names == {"task-0000", "task-0001", "step-000000000005", "step-000000000012"}
    goes_on(stopped, 12, whole)
    names = {path.stem for path in (stopped / "out/checkpoints/population-0").iterdir()}
    assert names == {"task-0000", "task-0001", "task-0002", "end"}


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def flipped(path: Path) -> None:
    contents = bytearray(path.read_bytes())
    contents[-9] ^= 1
    path.write_bytes(contents)


def foreign(path: Path) -> None:
    path.write_bytes(b"not a checkpoint at all\n" * 9)


def of_another_run(path: Path) -> None:
    found = checkpoint.load(path)
    rewritten(path, {**(found.run or {}), "config": "0" * 64})


def of_an_older_layout(path: Path) -> None:
    rewritten(path, None)


def of_other_random_numbers(path: Path) -> None:
    found = checkpoint.load(path)
    rewritten(path, {**(found.run or {}), "random": 99})


def rewritten(path: Path, run: dict | None) -> None:
    """The same checkpoint, whole, with another manifest of the run."""
    found = checkpoint.load(path)
    snapshot = Snapshot(found.state, found.step, found.task, found.so_far, 0.0)
    checkpoint.save(path, snapshot, found.replicas, run)


@pytest.mark.parametrize(
    "damage, said",
    [
        (truncated, "is damaged, or not a checkpoint of lopbench"),
        (flipped, "is damaged: its contents are not those that were saved."),
        (foreign, "is damaged, or not a checkpoint of lopbench"),
        (of_another_run, "belongs to another run."),
        (of_an_older_layout, "is of an older layout, which can be measured on but not gone on from."),
        (of_other_random_numbers, "has version 99 of the layout of random numbers; this lopbench has 1."),
    ],
)
def test_a_bad_checkpoint_is_named_and_the_one_before_is_used(
    stopped: Path, whole: pd.DataFrame, damage: Callable[[Path], None], said: str
) -> None:
    newest = checkpoint.path_of(stopped / "out", 0, step=12)
    damage(newest)
    first = goes_on(stopped, 10, whole)
    assert f"Passed by: out/checkpoints/population-0/{newest.name} {said}" in first.err


def test_a_bad_checkpoint_is_put_aside_so_that_it_is_in_nobodys_way_later(stopped: Path, whole: pd.DataFrame) -> None:
    """As when a disk could not read it for a moment, and later can."""
    newest = checkpoint.path_of(stopped / "out", 0, step=12)
    good = newest.read_bytes()
    truncated(newest)
    assert again(stopped).status == 130
    aside = newest.with_suffix(".damaged")
    assert aside.read_bytes() == good[:-9]
    goes_on(stopped, 12, whole)


def test_what_can_not_be_listed_or_read_is_not_taken_for_nothing(
    stopped: Path, whole: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network file system that has lost the folder of checkpoints for a moment."""

    def lost(path: object, *rest: object) -> object:
        if str(path).endswith("checkpoints"):
            raise OSError(errno.ESTALE, "Stale file handle", str(path))
        return scandir(path, *rest)

    scandir = os.scandir
    before = table(stopped / "out")
    monkeypatch.setattr(os, "scandir", lost)
    done = again(stopped)
    monkeypatch.undo()
    assert (done.status, done.err.splitlines()[-1]) == (
        *(1, "Can't read out/checkpoints: the network file system has lost it."),
    )
    assert len(table(stopped / "out")) == len(before)
    goes_on(stopped, 12, whole)


def test_leftovers_of_a_killed_process_are_removed(stopped: Path, whole: pd.DataFrame) -> None:
    left = [
        stopped / "out" / name
        for name in ("checkpoints/population-0/.step-000000000099.safetensors.tmp", "metrics/.part-000000.parquet.tmp")
    ]
    for path in left:
        path.write_bytes(b"half")
    goes_on(stopped, 12, whole)
    assert not any(path.exists() for path in left)


def test_the_order_of_bindings_does_not_matter(tmp_path: Path) -> None:
    write(tmp_path)
    bindings = ["--gin_bindings=run.seeds = 1", "--gin_bindings=run.max_tasks = 1"]
    assert again(tmp_path, *bindings).status == 0
    assert "has finished" in again(tmp_path, *reversed(bindings)).out


def test_what_is_of_the_whole_run_is_not_bound_for_one_variant(tmp_path: Path) -> None:
    write(tmp_path, "run.variants = {'a': [], 'b': ['run.keep_tasks = 1']}\n")
    done = again(tmp_path)
    assert done.status == 1 and done.err.splitlines()[-1] == (
        "run.checkpoint_* or run.keep_* differs between variants: it is of the whole run, so bind it for all of them."
    )


def test_a_process_that_has_lost_its_lock_writes_nothing_more(tmp_path: Path) -> None:
    """Another has taken over while this one slept: it finds out before it writes."""
    (tmp_path / "loses_its_lock.py").write_text(LOSES_ITS_LOCK)
    write(tmp_path, "import loses_its_lock\nrun.metrics = [@metrics.LosesItsLock]\nrun.window_steps = 1\n")
    done = again(tmp_path)
    assert done.status == 1 and "has taken over" in done.err
    left = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert left == {"lock.json", "config.gin", "operative_config.gin", "run.json"}  # no part, no event file
    assert manifest.read(tmp_path / "out")["status"] == "running"  # of the other


#: what the file `lock.json` says is another's, and more than a second has passed
LOSES_ITS_LOCK = """
import json
import time
from dataclasses import dataclass
from pathlib import Path

from lopbench import register
from lopbench.protocols import Metric


@register("metrics")
@dataclass(frozen=True)
class LosesItsLock(Metric):
    '''Another process takes the folder.'''

    every: int = 7

    def measure(self, probe):
        path = Path("out/lock.json")
        path.write_text(json.dumps({**json.loads(path.read_text()), "token": "another"}))
        time.sleep(1.1)
        return {}
"""


def test_without_any_good_checkpoint_it_is_refused_and_nothing_is_lost(stopped: Path) -> None:
    for path in (stopped / "out").rglob("*.safetensors"):
        truncated(path)
    before = {path: path.read_bytes() for path in (stopped / "out").rglob("*") if path.is_file()}
    done = again(stopped)
    assert done.status == 1
    assert done.err.splitlines()[-1].startswith(
        "None of the checkpoints in out/checkpoints can be gone on from. Choose "
    )
    assert done.err.count("Passed by: ") == 4 and "Traceback" not in done.err
    assert {path: path.read_bytes() for path in (stopped / "out").rglob("*") if path.is_file()} == before


def test_without_a_checkpoint_yet_it_begins_again(stopped: Path, whole: pd.DataFrame) -> None:
    shutil.rmtree(stopped / "out" / "checkpoints")
    done = again(stopped)
    assert "out holds this run, but no checkpoint yet: it begins again." in done.out
    assert again(stopped).status == 130 and again(stopped).status == 0
    assert_same_numbers(table(stopped / "out"), whole)


def test_a_run_json_that_is_damaged_is_written_anew(stopped: Path, whole: pd.DataFrame) -> None:
    (stopped / "out" / "run.json").write_text('{"status": "finis')
    goes_on(stopped, 12, whole)
    assert manifest.read(stopped / "out")["status"] == "finished"


def test_a_table_that_has_lost_rows_is_refused_by_name(stopped: Path) -> None:
    truncated(stopped / "out" / "metrics" / "part-000000.parquet")
    done = again(stopped)
    assert done.status == 1 and "part-000000.parquet is missing or damaged" in done.err


def test_it_uses_the_executor_that_it_began_with(stopped: Path, whole: pd.DataFrame) -> None:
    """The choices are the checkpoint's: those of now may differ, as on another machine."""
    path = checkpoint.path_of(stopped / "out", 0, step=12)
    run = checkpoint.load(path).run or {}
    (choice,) = run["choices"]
    assert choice == {
        **{"executor": "eager", "block_steps": 1, "together": 2, "threads": 1, "compiled_events": False},
        "reason": "as run.executor says",
    }
    rewritten(path, {**run, "choices": [{**choice, "block_steps": 2, "reason": "of then"}]})
    first = goes_on(stopped, 12, whole)
    assert "eager, 2 steps a call, 1 thread (of then)" in first.err
    assert "run.block_steps = 2" in (stopped / "out" / "operative_config.gin").read_text()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
@pytest.mark.parametrize("executor", ["eager", "compiled"])
def test_on_a_gpu_it_repeats_to_the_bit_where_it_is_deterministic(tmp_path: Path, executor: str) -> None:
    (tmp_path / "stops_itself.py").write_text(STOPS_ITSELF)
    lines = (
        f"run.deterministic = True\nrun.executor = {executor!r}\nrun.strategies = [@strategies.SelectiveWeightReinit]\n"
    )
    write(tmp_path, lines, "whole.gin")
    write(tmp_path, LINES + lines)
    assert lopbench_main(tmp_path, "--gin_file=whole.gin", "--workdir=whole", "--device=cuda").status == 0
    while again(tmp_path, "--device=cuda").status == 130:
        pass
    parts = [table(tmp_path / name).assign(variant="any") for name in ("out", "whole")]
    assert_same_numbers(*parts)


@pytest.mark.parametrize(
    "change, there, asked",
    [
        (["run.seeds = 3"], "run.seeds = 2", "run.seeds = 3"),
        (["optimizers.SGD.learning_rate = 0.5"], "(nothing)", "optimizers.SGD.learning_rate = 0.5"),
        (["run.max_tasks = 2"], "(nothing)", "run.max_tasks = 2"),
    ],
)
def test_another_config_is_refused_with_the_first_difference(
    stopped: Path, change: list[str], there: str, asked: str
) -> None:
    done = again(stopped, *(f"--gin_bindings={line}" for line in change))
    assert done.status == 1
    assert done.err.splitlines()[:3] == [
        "out holds the results of another run. The first difference:",
        f"    there:  {there}",
        f"    asked:  {asked}",
    ]


def test_other_data_are_refused(tmp_path: Path) -> None:
    (tmp_path / "stops_itself.py").write_text(STOPS_ITSELF)
    write(tmp_path, LINES + "run.source = @sources.Arrays\nsources.Arrays.path = 'digits.npz'\n")
    rng = np.random.default_rng(0)
    data = {"train_inputs": rng.integers(0, 256, (60, 4, 4), dtype=np.uint8), "train_labels": np.arange(60) % 3}
    np.savez(tmp_path / "digits.npz", **data)
    assert again(tmp_path, f"--data_dir={tmp_path}").status == 130
    np.savez(tmp_path / "digits.npz", **{**data, "train_inputs": data["train_inputs"] ^ 1})
    done = again(tmp_path, f"--data_dir={tmp_path}")
    assert done.status == 1 and "are not those that this run began with (SHA-256 " in done.err
    assert "\nThe data of sources.Arrays(path='digits.npz'" in done.err
    np.savez(tmp_path / "digits.npz", **data)
    assert again(tmp_path, f"--data_dir={tmp_path}").status == 130


def test_a_workdir_in_use_is_refused(stopped: Path) -> None:
    with lock.hold(stopped / "out"):
        done = again(stopped)
        assert done.status == 1 and "is in use by process" in done.err
        done = again(stopped, "--overwrite")
        assert done.status == 1 and (stopped / "out" / "metrics" / "part-000000.parquet").exists()
    assert again(stopped).status == 130


def test_overwrite_begins_afresh(stopped: Path, whole: pd.DataFrame) -> None:
    assert again(stopped, "--overwrite").status == 130
    assert manifest.read(stopped / "out")["resumed"] == []
    goes_on(stopped, 12, whole)


def test_other_versions_are_told(stopped: Path) -> None:
    run = manifest.read(stopped / "out")
    (stopped / "out" / "run.json").write_text(json.dumps({**run, "versions": {**run["versions"], "torch": "1.0"}}))
    done = again(stopped)
    assert done.status == 130
    told = f"Note: torch was 1.0, is {run['versions']['torch']}. What follows may differ in its last bits.\n"
    assert told in done.err
    assert "Note:" not in again(stopped).err


def test_a_config_of_the_same_text_that_makes_another_network_is_refused(tmp_path: Path) -> None:
    """As when one's own architecture has been changed meanwhile."""
    (tmp_path / "stops_itself.py").write_text(STOPS_ITSELF)
    write(tmp_path, LINES)
    assert again(tmp_path).status == 130
    path = checkpoint.path_of(tmp_path / "out", 0, step=12)
    found = checkpoint.load(path)
    found.state["parameters"]["hidden.0.weight"] = found.state["parameters"]["hidden.0.weight"][:, :4]
    snapshot = Snapshot(found.state, found.step, found.task, found.so_far, 0.0)
    checkpoint.save(path, snapshot, found.replicas, found.run)
    done = again(tmp_path)
    assert done.status == 1
    assert done.err.splitlines()[-1] == (
        "In out/checkpoints/population-0/step-000000000012.safetensors parameters/hidden.0.weight is "
        "float32 [2, 4, 16], and in the network that the config makes float32 [2, 5, 16]."
    )


# What a non-finite replica leads to -----------------------------------------------------------------

DIVERGES = """
run.variants = {'sane': ['optimizers.SGD.learning_rate = 0.1'], 'huge': ['optimizers.SGD.learning_rate = 1e30']}
"""


def test_a_run_may_stop_at_a_non_finite_replica_and_go_on_without_it_later(tmp_path: Path) -> None:
    write(tmp_path, DIVERGES + "run.on_nonfinite = 'stop'\n")
    for _ in range(2):  # starting it again stops it again
        done = again(tmp_path)
        assert done.status == 1
        assert done.err.splitlines()[-1] == (
            "replica 2 (huge, seed 0, optimizers.SGD.learning_rate=1e+30) turned non-finite after 1 updates, and "
            "run.on_nonfinite is 'stop'. With 'freeze' the same command goes on without it."
        )
        assert manifest.read(tmp_path / "out")["status"] == "failed"
    assert again(tmp_path, "--gin_bindings=run.on_nonfinite = 'freeze'").status == 0
    rows = table(tmp_path / "out")
    (tmp_path / "other").mkdir()
    write(tmp_path / "other", DIVERGES)
    assert_same_numbers(rows, finished(tmp_path / "other", "--gin_file=mine.gin"))


def test_frozen_replicas_are_still_known_after_a_resume(tmp_path: Path) -> None:
    (tmp_path / "stops_itself.py").write_text(STOPS_ITSELF)
    write(tmp_path, LINES + DIVERGES)
    while again(tmp_path).status == 130:
        pass
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert len(run["resumed"]) == 2 and run["frozen_replicas"].keys() == {"2", "3"}
