"""Whatever the file system refuses ends a run with one sentence, and the same command later makes it whole.

First a disk that fails at each single operation of a tiny run (all in this process), then real ones: full, read-only,
gone, and in use by another process.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from lopbench import files, remeasure
from lopbench.loggers import manifest
from lopbench.signals import REQUEUE
from tests.end_to_end.processes import Run, Server
from tests.end_to_end.test_kills import assert_same_results
from tests.end_to_end.test_runs import Done, lopbench_main
from tests.faulty_disk import FaultyDisk

#: two updates, a record and a checkpoint after each, of which the last one is kept
CONFIG = """
run.stream = @streams.SlowlyChangingRegression
run.architecture = @architectures.MLP
run.optimizer = @optimizers.SGD
run.executor = 'eager'
run.max_steps = 2
run.window_steps = 1
run.checkpoint_steps = 1
run.keep_checkpoints = 1
run.metrics = [@metrics.WeightMagnitude]
streams.SlowlyChangingRegression.inputs = 3
streams.SlowlyChangingRegression.slow_bits = 1
architectures.MLP.width = 2
architectures.MLP.depth = 1
"""
ENDS_A_TASK = "--gin_bindings=streams.SlowlyChangingRegression.period = 2"  # and so has a figure

REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EROFS: "the file system is read-only",
    errno.ESTALE: "the network file system has lost it",
}


@dataclass(frozen=True)
class Whole:
    """The undisturbed run: its gin file, its workdir, and the operations on the disk of which it consists."""

    gin_file: Path
    workdir: Path
    operations: list[str]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    (folder / "mine.gin").write_text(CONFIG)
    disk = FaultyDisk()
    assert run_on(disk, folder / "mine.gin", folder).status == 0
    return Whole(folder / "mine.gin", folder / "out", disk.names)


def run_on(disk: Any, gin_file: Path, folder: Path, *arguments: str) -> Done:
    """Start the command in a folder, on this disk; a process that ends by it leaves a lock that is stale."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "disk", disk)
        done = lopbench_main(folder, f"--gin_file={gin_file}", "--workdir=out", "--device=cpu", *arguments)
    lock = folder / "out" / "lock.json"
    with contextlib.suppress(OSError, ValueError):  # there is none, as a rule, or it is half written
        owner = json.loads(lock.read_text())
        lock.write_text(json.dumps({**owner, "started": owner["started"] - 1000}))
    return done


def assert_refused(done: Done, error: int = errno.ENOSPC) -> None:
    """It ended with status 1 and one message, which names a path and the reason."""
    assert done.status == 1, done.err
    (said,) = (line for line in done.err.splitlines() if line.startswith("Can't write "))
    assert said.startswith("Can't write out") and said.endswith(f": {REASONS[error]}.")
    assert done.err.splitlines()[-1] == said and "Traceback" not in done.err


def assert_survived(whole: Whole, folder: Path, disk: FaultyDisk, *arguments: str) -> Done:
    """On this disk the command is refused, and on a good one it leaves what the undisturbed run left; the first end.

    It may also not be in need of what failed: if a folder is there already, or the lock can't be given back.
    """
    done = run_on(disk, whole.gin_file, folder, *arguments)
    if done.status:
        assert_refused(done, disk.error)
    else:
        assert disk.names[disk.n] in ("make_folder", "remove")
        assert manifest.read(folder / "out")["status"] == "finished"
    again = run_on(FaultyDisk(), whole.gin_file, folder, *arguments)
    assert again.status == 0, again.err
    assert_same_results(folder / "out", whole.workdir)
    return done


# Each operation of a run --------------------------------------------------------------------------------


def once(operations: list[str]) -> list[FaultyDisk]:
    """Full for a moment, at each operation."""
    return [FaultyDisk(n) for n in range(len(operations))]


def short(operations: list[str]) -> list[FaultyDisk]:
    """Full in the middle of each write."""
    return [FaultyDisk(n + 1, halved=n) for n, name in enumerate(operations) if name == "write"]


def for_good(operations: list[str], every: int = 1) -> list[FaultyDisk]:
    """Gone at each operation, or every so many, and never back."""
    return [FaultyDisk(n, list(REASONS)[n % len(REASONS)], for_good=True) for n in range(0, len(operations), every)]


def now_and_then(operations: list[str]) -> list[FaultyDisk]:
    return for_good(operations, every=5)


FAULTS = [once, short, now_and_then, pytest.param(for_good, marks=pytest.mark.long)]
Faults = Callable[[list[str]], list[FaultyDisk]]


def folders(tmp_path: Path, disks: list[FaultyDisk]) -> Iterator[tuple[Path, FaultyDisk]]:
    """A folder for each disk; what fails with it says at which operation."""
    for disk in disks:
        folder = tmp_path / str(disk.n)
        folder.mkdir()
        yield folder, disk
        shutil.rmtree(folder)


@pytest.mark.parametrize("faults", FAULTS)
def test_a_run_that_fails_at_any_operation_is_made_whole_by_its_command(
    whole: Whole, tmp_path: Path, faults: Faults
) -> None:
    for folder, disk in folders(tmp_path, faults(whole.operations)):
        assert_survived(whole, folder, disk)


@pytest.fixture(scope="module")
def stopped(whole: Whole, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of a run that has failed to write its second checkpoint; its table and curves are longer."""
    folder = tmp_path_factory.mktemp("stopped")
    second = [n for n, name in enumerate(whole.operations) if name == "rename"][-3]
    assert_refused(run_on(FaultyDisk(second), whole.gin_file, folder))
    assert [path.stem for path in (folder / "out").rglob("*.safetensors")] == ["step-000000000001"]
    return folder / "out"


@pytest.fixture(scope="module")
def resuming(whole: Whole, stopped: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The operations of going on with it, up to its next checkpoint."""
    folder, disk = tmp_path_factory.mktemp("resuming"), FaultyDisk()
    shutil.copytree(stopped, folder / "out")
    assert run_on(disk, whole.gin_file, folder).status == 0
    assert disk.names.count("truncate") == 2  # of the two event files
    return disk.names[: disk.names.index("remove")]


@pytest.mark.parametrize("faults", FAULTS)
def test_so_is_one_that_fails_as_it_goes_on(
    whole: Whole, stopped: Path, resuming: list[str], tmp_path: Path, faults: Faults
) -> None:
    for folder, disk in folders(tmp_path, faults(resuming)):
        shutil.copytree(stopped, folder / "out")
        assert_survived(whole, folder, disk)


def test_what_is_half_removed_is_neither_taken_for_a_finished_run_nor_in_the_way(whole: Whole, tmp_path: Path) -> None:
    """--overwrite that fails at any operation of removing; then the command without it, and once more with it."""
    disk, folder = FaultyDisk(), tmp_path / "good"
    shutil.copytree(whole.workdir, folder / "out")
    assert run_on(disk, whole.gin_file, folder, "--overwrite").status == 0
    assert_same_results(folder / "out", whole.workdir)
    last = max(n for n, name in enumerate(disk.names) if name == "remove_folder")
    for folder, faulty in folders(tmp_path, once(disk.names[: last + 1])):
        shutil.copytree(whole.workdir, folder / "out")
        if run_on(faulty, whole.gin_file, folder, "--overwrite").status == 0:
            assert faulty.names[faulty.n] == "make_folder"
        shutil.copytree(folder, folder / "without")
        without = run_on(FaultyDisk(), whole.gin_file, folder / "without")
        if without.status:
            assert "holds results, but not what was asked for" in without.err
        else:
            assert_same_results(folder / "without" / "out", whole.workdir)
        assert run_on(FaultyDisk(), whole.gin_file, folder, "--overwrite").status == 0
        assert_same_results(folder / "out", whole.workdir)


def test_a_figure_that_can_not_be_drawn_is_drawn_by_the_same_command(whole: Whole, tmp_path: Path) -> None:
    disk = FaultyDisk()
    (tmp_path / "good").mkdir()
    assert run_on(disk, whole.gin_file, tmp_path / "good", ENDS_A_TASK).status == 0
    figure = [n for n, name in enumerate(disk.names) if name == "rename"][-2]  # before run.json says "finished"
    done = run_on(FaultyDisk(figure), whole.gin_file, tmp_path, ENDS_A_TASK)
    assert_refused(done)
    assert "out/figures/plasticity.png" in done.err
    assert run_on(FaultyDisk(), whole.gin_file, tmp_path, ENDS_A_TASK).status == 0
    assert_same_results(tmp_path / "out", tmp_path / "good" / "out")


class Mirrored(files.Disk):
    """Does all that it is asked for twice: on another disk, and then below another folder."""

    def __init__(self, disk: Any, below: Path) -> None:
        self._disk, self._below = disk, below
        self._twins: dict[FileIO, FileIO] = {}

    def open(self, path: Path, mode: str) -> FileIO:
        file = self._disk.open(path, mode)
        self._twins[file] = super().open(self._below / path, mode)
        return file

    def write(self, file: FileIO, data: memoryview) -> int:
        taken = self._disk.write(file, data)
        assert super().write(self._twins[file], data[:taken]) == taken
        return taken

    def truncate(self, file: FileIO, length: int) -> None:
        self._disk.truncate(file, length)
        super().truncate(self._twins[file], length)

    def sync(self, descriptor: int) -> None:
        self._disk.sync(descriptor)

    def close(self, file: FileIO) -> None:
        super().close(self._twins.pop(file))
        self._disk.close(file)

    def rename(self, old: Path, new: Path) -> None:
        self._disk.rename(old, new)
        super().rename(self._below / old, self._below / new)

    def remove(self, path: Path) -> None:
        self._disk.remove(path)
        super().remove(self._below / path)

    def make_folder(self, path: Path) -> None:
        self._disk.make_folder(path)
        super().make_folder(self._below / path)

    def remove_folder(self, path: Path) -> None:
        self._disk.remove_folder(path)
        super().remove_folder(self._below / path)


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file's bytes, and None for each folder, by path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def test_all_that_is_in_a_workdir_has_gone_through_the_disk(whole: Whole, tmp_path: Path) -> None:
    """Of a run that fails, goes on, is done anew, and is measured again: what went through it makes the same folder."""
    mirror = tmp_path / "mirror"
    mirror.mkdir()

    def same() -> bool:
        return contents(tmp_path / "out") == contents(mirror / "out") != {}

    second = [n for n, name in enumerate(whole.operations) if name == "rename"][-3]
    for disk, arguments, status in (
        (FaultyDisk(second), [], 1),
        (FaultyDisk(), [], 0),
        (FaultyDisk(), ["--overwrite"], 0),
    ):
        done = run_on(Mirrored(disk, mirror), whole.gin_file, tmp_path, ENDS_A_TASK, *arguments)
        assert done.status == status and same()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.setattr(files, "disk", Mirrored(FaultyDisk(), mirror))
        assert remeasure.main(["remeasure", "--workdir=out", "--device=cpu"]) == 0
    assert (tmp_path / "out" / "remeasured" / "part-000000.parquet").exists() and same()


# Disks that are really full ----------------------------------------------------------------------------


def test_a_run_with_files_larger_than_the_system_allows_goes_on_once_it_allows_them(
    whole: Whole, tmp_path: Path
) -> None:
    """Of each file in turn the system takes all but the last bytes, and then refuses."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for size in sorted({path.stat().st_size for path in whole.workdir.rglob("*") if path.is_file()}):
        folder = tmp_path / str(size)
        folder.mkdir()
        resource.setrlimit(resource.RLIMIT_FSIZE, (size - 50, before[1]))
        try:
            done = run_on(files.Disk(), whole.gin_file, folder)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert done.status == 1 and done.err.endswith(": the file would be larger than the system allows.\n")
        assert run_on(files.Disk(), whole.gin_file, folder).status == 0
        assert_same_results(folder / "out", whole.workdir)


def mounts(folder: Path, *arguments: str) -> None:
    """Mount something there; where that is not permitted the test is skipped."""
    permitted = shutil.which("mount") and hasattr(os, "geteuid") and os.geteuid() == 0
    if not permitted or not mount(*arguments, str(folder)):
        pytest.skip("mounting a file system is not permitted here")


def remounts(folder: Path, option: str) -> None:
    """Change what a file system allows, which has to wait while a file is being written."""
    until = time.monotonic() + 10
    while not mount("-o", f"remount,{option}", str(folder)):
        assert time.monotonic() < until


def mount(*arguments: str) -> bool:
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0


def unmounts(folder: Path) -> None:
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("pages", [3, 5, 7])
def test_a_run_whose_disk_is_full_goes_on_once_there_is_room(whole: Whole, tmp_path: Path, pages: int) -> None:
    workdir = tmp_path / "out"
    workdir.mkdir()
    mounts(workdir, "-t", "tmpfs", "-o", f"size={pages * resource.getpagesize()}", "lopbench-test")
    try:
        assert_refused(run_on(files.Disk(), whole.gin_file, tmp_path))
        remounts(workdir, "size=1m")
        assert run_on(files.Disk(), whole.gin_file, tmp_path).status == 0
        assert_same_results(workdir, whole.workdir)
    finally:
        unmounts(workdir)


# Workdirs that go away, or that another process holds ---------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@contextlib.contextmanager
def under_way(server: Server, whole: Whole, folder: Path, checkpoint_steps: int | None = 100) -> Iterator[Run]:
    """An endless run in a process of its own, which trains, and which is killed at last."""
    bindings = ("run.max_steps = 100_000_000", "run.window_steps = 50", f"run.checkpoint_steps = {checkpoint_steps}")
    lines = [f"--gin_bindings={line}" for line in bindings]
    run = server.start(folder, f"--gin_file={whole.gin_file}", "--workdir=out", "--device=cpu", *lines)
    folder = folder / "out" / "checkpoints" / "population-0"
    try:
        run.wait_for(lambda: any(folder.glob("step-*")) or (checkpoint_steps is None and folder.exists()))
        yield run
    finally:
        if not run.ended_within(0):
            run.send(signal.SIGKILL)
            run.ended()


class Moved:
    """A workdir that somebody moves away, and back."""

    said = "is gone|its folder does not exist"

    def __init__(self, workdir: Path) -> None:
        self.workdir, self.away = workdir, workdir.with_name("away")

    def goes(self) -> None:
        self.workdir.rename(self.away)

    def is_back(self) -> None:
        assert not self.workdir.exists()  # it was not made anew
        self.away.rename(self.workdir)

    def end(self) -> None:
        pass


class Unmounted(Moved):
    """A workdir whose file system is unmounted, which leaves an empty folder there, and mounted again."""

    def __init__(self, workdir: Path) -> None:
        super().__init__(workdir)
        workdir.mkdir()
        self.away.mkdir()
        mounts(workdir, "--bind", str(self.away))

    def goes(self) -> None:
        unmounts(self.workdir)

    def is_back(self) -> None:
        assert os.listdir(self.workdir) == []
        mounts(self.workdir, "--bind", str(self.away))

    def end(self) -> None:
        unmounts(self.workdir)


class ReadOnly(Moved):
    """A workdir whose file system turns read-only for a while."""

    said = "Can't write out.*: the file system is read-only"

    def __init__(self, workdir: Path) -> None:
        super().__init__(workdir)
        workdir.mkdir()
        mounts(workdir, "-t", "tmpfs", "-o", "size=2m", "lopbench-test")

    def goes(self) -> None:
        remounts(self.workdir, "ro")

    def is_back(self) -> None:
        remounts(self.workdir, "rw")

    def end(self) -> None:
        unmounts(self.workdir)


@pytest.mark.parametrize("make", [Moved, Unmounted, ReadOnly])
def test_a_run_whose_workdir_goes_away_stops_and_goes_on_once_it_is_back(
    server: Server, whole: Whole, tmp_path: Path, make: type[Moved]
) -> None:
    disk = make(tmp_path / "out")
    try:
        with under_way(server, whole, tmp_path) as run:
            disk.goes()
            ended = run.ended()
        assert ended.status == 1 and "Traceback" not in ended.err
        assert re.search(disk.said, ended.err.splitlines()[-1])
        disk.is_back()
        with under_way(server, whole, tmp_path) as run:
            run.wait_for(lambda: "going on after" in run.err)
            run.send(signal.SIGTERM)
            assert run.ended().status == REQUEUE
    finally:
        disk.end()


def test_a_second_process_is_refused_and_the_first_one_is_unharmed(
    server: Server, whole: Whole, tmp_path: Path
) -> None:
    with under_way(server, whole, tmp_path) as run:
        for more in ([], ["--overwrite"]):
            done = lopbench_main(tmp_path, f"--gin_file={whole.gin_file}", "--workdir=out", "--device=cpu", *more)
            assert done.status == 1
            assert done.err.startswith(f"out is in use by process {run.pid} on {socket.gethostname()}, since ")
        run.send(signal.SIGTERM)
        assert run.ended().status == REQUEUE
    assert manifest.read(tmp_path / "out")["status"] == "interrupted"


def test_a_run_whose_workdir_was_taken_over_stops_and_leaves_it_alone(
    server: Server, whole: Whole, tmp_path: Path
) -> None:
    with under_way(server, whole, tmp_path, checkpoint_steps=None) as run:
        lock, theirs = tmp_path / "out" / "lock.json", tmp_path / "theirs"
        theirs.write_text(json.dumps({**json.loads(lock.read_text()), "host": "elsewhere", "pid": 4711}))
        theirs.replace(lock)
        before = contents(tmp_path / "out")
        ended = run.ended()
    assert ended.status == 1 and "Traceback" not in ended.err
    assert ended.err.splitlines()[-1].startswith("This run stops: process 4711 on elsewhere, since ")
    assert contents(tmp_path / "out") == before
