"""`python -m launch.slurm` on a real SLURM: jobs that are killed, preempted, out of time, failing and waiting.

Run with -m slurm; they take some minutes.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from lopbench import checkpoint, lock
from lopbench.analysis.results import load
from lopbench.loggers import manifest
from tests.end_to_end.processes import environment

pytestmark = pytest.mark.slurm

FOLDER = Path(__file__).parent
POPULATIONS = 4
#: seconds after which what has not happened never will
PATIENCE = 280.0
NODE = socket.gethostname().split(".")[0]


class Launcher:
    """A launcher of the study `gin` in `folder`, a process of its own whose output is in a file."""

    def __init__(self, folder: Path, found: dict[str, str], gin: str, module: str, *flags: str) -> None:
        self.workdir = folder / "study"
        self._out = folder / f"{module}.out"
        words = [f"--gin_file={FOLDER / gin}", f"--workdir={self.workdir}", *flags]
        variables = environment(**{name: found[name] for name in ("SLURM_CONF",) if name in found})
        with open(self._out, "ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, *words], cwd=folder, env=variables, stdout=out, stderr=out
            )

    @property
    def output(self) -> str:
        return self._out.read_text()

    def wait_for(self, happened: Callable[[], Any]) -> Any:
        """Wait until something has happened while it runs; what that gave."""
        until = time.monotonic() + PATIENCE
        while not (found := happened()):
            assert self.process.poll() is None, f"it has ended\n{self.output}"
            assert time.monotonic() < until, f"it never happened\n{self.output}"
            time.sleep(0.2)
        return found

    def ended(self) -> int:
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            pytest.fail(f"it does not end\n{self.output}")

    def jobs(self) -> dict[str, list[str]]:
        path = self.workdir / "slurm" / "jobs.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def job(self, number: int) -> str:
        """The latest job of a population."""
        return self.jobs()[f"populations/{number:03d}"][-1]

    def run(self, number: int) -> Path:
        return self.workdir / "populations" / f"{number:03d}"

    def training(self, number: int) -> lock.Owner:
        """The process that trains a population, once it has a checkpoint to go on from."""

        def begun() -> lock.Owner | None:
            return lock.holder(self.run(number)) if checkpoint.files_of(self.run(number)) else None

        return self.wait_for(begun)


@contextmanager
def launched(folder: Path, found: dict[str, str], gin: str, *flags: str, module: str = "") -> Iterator[Launcher]:
    """A launcher of the installed package, from a folder that is not the checkout; killed at the end."""
    launcher = Launcher(folder, found, gin, module or "lopbench.launch.slurm", *flags)
    try:
        yield launcher
    finally:
        launcher.process.kill()
        launcher.process.wait()


def command(found: dict[str, str], *words: str) -> str:
    return subprocess.run(words, env=found, capture_output=True, text=True, check=True).stdout.strip()


def state(found: dict[str, str], job: str) -> str:
    return command(found, "squeue", "--noheader", f"--jobs={job}", "--format=%T")


def drain(found: dict[str, str], drained: bool) -> None:
    how = ["state=drain", "reason=test"] if drained else ["state=resume"]
    command(found, "scontrol", "update", f"nodename={NODE}", *how)


def rows(run: Path) -> Any:
    """Everything that a run has measured but its speed."""
    found = load(run)
    return found[~found["tag"].str.startswith("time/")].reset_index(drop=True)


SLURM_FLAGS = ("--time=30", "--mem=1G", "--poll_seconds=1")


def test_a_study_that_is_killed_preempted_and_out_of_time_equals_a_local_one(tmp_path, slurm):
    with launched(tmp_path, slurm, "study.gin", *SLURM_FLAGS) as study:
        # the first two, of which one run and one job are killed by kill -9
        os.kill(study.training(0).pid, signal.SIGKILL)
        lost = study.job(1)
        for process in psutil.Process(study.training(1).pid).parents():
            if "submitit" in " ".join(process.cmdline()):
                process.kill()
                break
        study.wait_for(lambda: study.job(1) != lost)

        # the next two, of which one is told that its time runs out, and one is preempted; a drained node takes neither
        out_of_time, preempted = study.job(2), study.job(3)
        study.training(2)
        command(slurm, "scancel", "--signal=USR2", out_of_time)
        study.training(3)
        command(slurm, "scontrol", "requeue", preempted)
        drain(slurm, True)
        study.wait_for(lambda: command(slurm, "sinfo", "--noheader", "--format=%T") == "drained")
        assert study.process.poll() is None
        drain(slurm, False)

        assert study.ended() == 0, study.output
        assert [study.job(2), study.job(3)] == [out_of_time, preempted]
        assert study.output.count("was lost") == 1
        assert "001 is submitted again" in study.output
        assert [len(manifest.read(study.run(k))["resumed"]) for k in range(POPULATIONS)] == [1, 1, 1, 1]

    local = tmp_path / "local"
    local.mkdir()
    with launched(local, slurm, "study.gin", "--processes=2", module="lopbench.launch.local") as reference:
        assert reference.ended() == 0, reference.output
    ledgers = [json.loads((launcher.workdir / "study.json").read_text()) for launcher in (study, reference)]
    assert ledgers[0] == ledgers[1]
    assert sum(len(population["replicas"]) for population in ledgers[0]["populations"]) == 12
    for number in range(POPULATIONS):
        assert rows(study.run(number)).equals(rows(reference.run(number))), number


def test_a_population_that_fails_is_tried_twice_and_named_while_the_rest_goes_on(tmp_path, slurm):
    with launched(tmp_path, slurm, "failing.gin", *SLURM_FLAGS) as study:
        assert study.ended() == 1
    assert manifest.read(study.run(0))["status"] == "finished"
    assert manifest.read(study.run(1))["status"] == "failed"
    assert "1 finished, 1 failed" in study.output
    assert "001 failed" in study.output and "non-finite" in study.output
    assert "was lost" not in study.output
    printed = (study.workdir / "slurm" / f"{study.job(1)}_0_log.out").read_text()
    assert "Status 1 at try 1 of 2" in printed and "Status 1 at try 2 of 2" in printed


def test_ctrl_c_leaves_the_jobs_and_the_same_command_submits_none_twice(tmp_path, slurm):
    drain(slurm, True)  # so that no job begins
    try:
        with launched(tmp_path, slurm, "study.gin", *SLURM_FLAGS) as study:
            study.wait_for(lambda: f"{POPULATIONS} queued" in study.output)
            study.process.send_signal(signal.SIGINT)
            assert study.ended() == 130
            assert "The jobs stay as they are" in study.output
        jobs = study.jobs()
        assert [state(slurm, job) for [job] in jobs.values()] == ["PENDING"] * POPULATIONS

        command(slurm, "scancel", jobs["populations/002"][-1])
        with launched(tmp_path, slurm, "study.gin", *SLURM_FLAGS, "--nowatch") as again:
            assert again.ended() == 0
        assert "4 populations: 3 in the queue, 1 submitted." in again.output
        assert {folder: len(own) for folder, own in again.jobs().items()} == {
            folder: 2 if folder == "populations/002" else 1 for folder in jobs
        }
    finally:
        command(slurm, "scancel", "--name=lopbench-study")
        drain(slurm, False)


def test_a_cancelled_job_is_not_queued_again_by_itself(tmp_path, slurm):
    """Its run is told to stop by the same signal as one that is preempted."""
    with launched(tmp_path, slurm, "study.gin", *SLURM_FLAGS, "--nowatch", "--max_parallel=1") as study:
        assert study.ended() == 0
    until = time.monotonic() + PATIENCE
    while not checkpoint.files_of(study.run(0)):
        assert time.monotonic() < until, study.output
        time.sleep(0.2)
    command(slurm, "scancel", "--name=lopbench-study")
    while command(slurm, "squeue", "--noheader"):
        assert time.monotonic() < until, command(slurm, "squeue")
        time.sleep(0.2)
    assert manifest.read(study.run(0))["status"] == "interrupted"


def test_what_sbatch_refuses_is_one_message(tmp_path, slurm):
    with launched(tmp_path, slurm, "failing.gin", "--partition=nowhere") as study:
        assert study.ended() == 1
    assert "SLURM refuses the jobs: " in study.output.splitlines()[-1]
    assert "Invalid partition" in study.output.splitlines()[-1]
