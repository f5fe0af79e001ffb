"""Damaged workdirs: the command gives the undisturbed run's numbers, or says what is damaged and harms nothing further.

Any file of a tiny run of two populations is cut, flipped, replaced, removed, ..., before the command is given again.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lopbench import checkpoint, files, remeasure
from lopbench.analysis import figures, results
from lopbench.errors import UserError
from tests.end_to_end.test_faults import run_on
from tests.end_to_end.test_kills import curves
from tests.end_to_end.test_runs import Done, assert_same_numbers, table
from tests.faulty_disk import FaultyDisk
from tests.test_checkpoint import assert_same
from tests.test_fuzz import FUZZ, patience

#: six updates in each of two populations; checkpoints after each update, three of which stay, and as each begins
CONFIG = """
run.stream = @streams.SlowlyChangingRegression
run.architecture = @architectures.MLP
run.optimizer = @optimizers.SGD
run.executor = 'eager'
run.max_steps = 6
run.window_steps = 2
run.checkpoint_steps = 1
run.keep_checkpoints = 3
run.keep_tasks = 1
run.metrics = [@metrics.DeadUnits]
streams.SlowlyChangingRegression.inputs = 3
streams.SlowlyChangingRegression.slow_bits = 1
architectures.MLP.width = 2
architectures.MLP.depth = 1
metrics.DeadUnits.every = 3
metrics.DeadUnits.probe_size = 5
run.variants = {'narrow': [], 'wide': ['architectures.MLP.width = 3']}
"""


class Runs:
    """One run twice, each in a folder of its own, with the workdir out: stopped before it ended, and finished.

    `table`, `curves`, `networks`, `remeasured`: what the undisturbed run leaves, and what is measured on it afterwards.
    """

    def __init__(self, finished: Path, stopped: Path) -> None:
        self.finished, self.stopped, workdir = finished, stopped, finished / "out"
        self.gin_file = finished / "mine.gin"
        self.gin_file.write_text(CONFIG)
        disk = FaultyDisk()
        assert run_on(disk, self.gin_file, finished).status == 0
        renames = [n for n, name in enumerate(disk.names) if name == "rename"]
        assert run_on(FaultyDisk(renames[-5]), self.gin_file, stopped).status == 1
        left = {path.stem for path in (stopped / "out" / "checkpoints" / "population-1").iterdir()}
        assert left == {"task-0000", *(f"step-00000000000{step}" for step in (2, 3, 4))}
        self.table, self.curves = table(workdir), curves(workdir)
        paths = [path for paths in checkpoint.saved(workdir).values() for path in paths]
        self.networks = {path.relative_to(workdir).as_posix(): checkpoint.load(path) for path in paths}
        assert len(self.networks) == 4 and remeasured(finished) == 0
        self.remeasured = rows(pd.read_parquet(workdir / "remeasured"))
        shutil.rmtree(workdir / "remeasured")

    def start(self, folder: Path) -> Done:
        """The command, which must end soon, and without a traceback."""
        with patience():
            done = run_on(FaultyDisk(), self.gin_file, folder)
        assert "Traceback" not in done.err
        return done

    def assert_right(self, workdir: Path) -> None:
        """Nothing there is wrong: all rows are right, and so is each network that can be loaded."""
        assert_same_numbers(table(workdir), self.table)
        for path in (path for paths in checkpoint.saved(workdir).values() for path in paths):
            with contextlib.suppress(UserError):  # it can't be loaded
                found, right = checkpoint.load(path), self.networks[path.relative_to(workdir).as_posix()]
                assert (found.step, found.task, found.replicas) == (right.step, right.task, right.replicas)
                assert_same(found.state, right.state)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("finished"), tmp_path_factory.mktemp("stopped"))


def remeasured(folder: Path) -> int:
    """Measure the networks of a run; the exit status."""
    with pytest.MonkeyPatch.context() as patch, patience():
        patch.setattr(files, "disk", FaultyDisk())
        return remeasure.main(["remeasure", f"--workdir={folder / 'out'}", "--device=cpu"])


def rows(frame: pd.DataFrame) -> set[tuple]:
    return set(frame.itertuples(index=False, name=None))


@contextlib.contextmanager
def copied(folder: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=folder.parent) as copy:
        shutil.copytree(folder / "out", Path(copy) / "out")
        yield Path(copy)


# Kinds of damage: of a file, with a number that says where, and another file ------------------------------


def cut_short(path: Path, place: int, other: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: place % len(data)])


def flipped(path: Path, place: int, other: Path) -> None:
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 1 << place % 8
    path.write_bytes(data)


def overwritten(path: Path, place: int, other: Path) -> None:
    data = bytearray(path.read_bytes())
    place %= len(data)
    data[place : place + 512] = bytes(len(data[place : place + 512]))
    path.write_bytes(data)


def extended(path: Path, place: int, other: Path) -> None:
    path.write_bytes(path.read_bytes() + other.read_bytes()[: 1 + place % 100])


def emptied(path: Path, place: int, other: Path) -> None:
    path.write_bytes(b"")


def removed(path: Path, place: int, other: Path) -> None:
    path.unlink()


def a_folder(path: Path, place: int, other: Path) -> None:
    path.unlink()
    path.mkdir()


def replaced(path: Path, place: int, other: Path) -> None:
    path.write_bytes(other.read_bytes())


def swapped(path: Path, place: int, other: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(data)


KINDS = {
    kind.__name__: kind
    for kind in (cut_short, flipped, overwritten, extended, emptied, removed, a_folder, replaced, swapped)
}
#: of flips there are most, and most to go wrong
DAMAGE = {
    "kind": st.sampled_from([*KINDS, "flipped", "flipped"]),
    "file": st.integers(0, 99),
    "other": st.integers(0, 99),
    "place": st.integers(0, 99_999),
}


def damaged(workdir: Path, kind: str, file: int, other: int, place: int) -> dict[Path, bytes]:
    """Damage a file of a workdir; what was in those that are changed."""
    paths = sorted(path for path in workdir.rglob("*") if path.is_file())
    path, another = paths[file % len(paths)], paths[other % len(paths)]
    assume(kind != "a_folder" or path.suffix != ".safetensors")  # it would be in the way of the checkpoint itself
    before = {path: path.read_bytes(), another: another.read_bytes()}
    KINDS[kind](path, place, another)
    return before


def restored(before: dict[Path, bytes]) -> None:
    for path, data in before.items():
        if path.is_dir():
            path.rmdir()
        path.write_bytes(data)


@pytest.mark.parametrize("state", ["stopped", "finished"])
@settings(FUZZ, max_examples=50)
@given(**DAMAGE)
def test_a_run_with_a_damaged_file_is_made_right_or_refused(
    runs: Runs, state: str, kind: str, file: int, other: int, place: int
) -> None:
    with copied(getattr(runs, state)) as folder:
        workdir = folder / "out"
        before = damaged(workdir, kind, file, other, place)
        done = runs.start(folder)
        if done.status:
            assert done.status == 1 and done.err
            restored(before)
            assert runs.start(folder).status == 0
        runs.assert_right(workdir)
        if done.status or not any("tfevents" in path.name for path in before):
            assert curves(workdir) == runs.curves


@settings(FUZZ, max_examples=50)
@given(**DAMAGE)
def test_whoever_reads_results_with_a_damaged_file_reads_the_right_ones_or_is_refused(
    runs: Runs, kind: str, file: int, other: int, place: int
) -> None:
    with copied(runs.finished) as folder:
        damaged(folder / "out", kind, file, other, place)
        if remeasured(folder) == 0:
            assert rows(pd.read_parquet(folder / "out" / "remeasured")) <= runs.remeasured
        with contextlib.suppress(UserError):
            assert_same_numbers(results.load(folder / "out"), runs.table)
            figures.curves(results.load(folder / "out", ["online/loss"]))


@pytest.mark.parametrize("state", ["stopped", "finished"])
@pytest.mark.parametrize("value", [None, True, 3, 1e300, "three", [3], {"three": "3"}], ids=repr)
def test_a_run_json_whose_entries_are_of_other_types_is_no_obstacle(runs: Runs, state: str, value: object) -> None:
    with copied(getattr(runs, state)) as folder:
        run = folder / "out" / "run.json"
        kept = {"status"} if state == "finished" else set()
        told = json.loads(run.read_text())
        run.write_text(json.dumps({name: told[name] if name in kept else value for name in told}))
        assert runs.start(folder).status == 0
        runs.assert_right(folder / "out")


# Every bit ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [41, pytest.param(1, marks=pytest.mark.long)])
def test_a_part_of_the_table_with_a_flipped_bit_is_refused_or_reads_the_same(runs: Runs, every: int) -> None:
    with copied(runs.finished) as folder:
        (path,) = (folder / "out" / "metrics").iterdir()
        for bit in flips(path, every):
            with contextlib.suppress(UserError):
                pd.testing.assert_frame_equal(results.load(folder / "out"), runs.table, obj=f"with bit {bit} flipped")


@pytest.mark.parametrize("every", [41, pytest.param(1, marks=pytest.mark.long)])
def test_a_checkpoint_with_a_flipped_bit_is_refused(runs: Runs, every: int) -> None:
    with copied(runs.finished) as folder:
        path = checkpoint.path_of(folder / "out", 1)
        for bit in flips(path, every):
            with pytest.raises(UserError, match=r"end\.safetensors"):
                checkpoint.load(path)
                pytest.fail(f"with bit {bit} flipped it is loaded")


def flips(path: Path, every: int) -> Iterator[int]:
    """Write the file with every so manieth bit flipped; which bit it is."""
    data = path.read_bytes()
    for bit in range(0, 8 * len(data), every):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        yield bit
