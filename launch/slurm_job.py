"""What a job of `launch.slurm` does on its node: one population's run in a child process.

It stands in a module of its own, and not in that which is run, so that submitit's pickle names it and the job imports
it. Signals are this module's own affair, and not submitit's: of what SLURM sends before a time-out or a preemption some
reaches the job's process alone, some all of its children, too; and how the run then ends decides.
"""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from lopbench import ledger, lock
from lopbench.signals import REQUEUE

from . import populations

POLL = 1.0  #: seconds between two looks whether a folder is free


@dataclass(frozen=True)
class Task:
    """What a job does: train the population in `folder` of the study in `workdir`, whose path is absolute."""

    workdir: str
    folder: str
    data_dir: str | None
    device: str
    search_paths: tuple[str, ...]


def train(task: Task) -> None:
    """Train a population to its end, with the run's output at the end of its log.

    A run that fails is tried once more; failing again it raises `RuntimeError`, which submitit notes as this job's
    result. A run that was stopped by a signal ends this process, without a result, after SLURM was asked to start the
    job again later.
    """
    study = ledger.read(task.workdir)
    planned = next(planned for planned in study.populations if planned.folder == task.folder)
    command = populations.command(task.workdir, planned, task.data_dir, task.device, task.search_paths)
    log = Path(task.workdir) / task.folder / populations.LOG
    child, status = Child(), 0
    child.wait_until_free(log.parent)
    for attempt in range(populations.TRIES):
        status = child.run(command, populations.environment(study), log)
        if status == 0 or populations.has_finished(log.parent):
            return
        if child.told or populations.was_stopped(status):
            requeue()
            sys.exit(REQUEUE)
        print(f"Status {status} at try {attempt + 1} of {populations.TRIES}: {' '.join(command)}", flush=True)
    raise RuntimeError(f"{task.folder} failed {populations.TRIES} times, at last with status {status}; see {log}")


class Child:
    """The child process of this one, which from now on hands its signals down. `told`: whether any came."""

    def __init__(self) -> None:
        self.told = False
        self._process: subprocess.Popen[bytes] | None = None
        for number in populations.STOPPING:
            signal.signal(number, self._hand_down)

    def wait_until_free(self, folder: Path) -> None:
        """Wait while another process trains there, such as one whose job was killed, or until we are told to stop."""
        if owner := lock.holder(folder):
            print(f"{folder} is in use by {owner}: waiting for its end.", flush=True)
        while not self.told and lock.holder(folder) is not None:
            time.sleep(POLL)

    def run(self, command: Sequence[str], environment: dict[str, str], log: Path) -> int:
        """Start a command and wait for its end: its exit status, or minus the number of the signal that ended it."""
        with open(log, "ab") as out:
            self._process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                preexec_fn=_ending_with_parent(),
            )
        if self.told:  # before there was a child
            self._process.terminate()
        return self._process.wait()

    def _hand_down(self, number: int, frame: FrameType | None) -> None:
        self.told = True
        if self._process is not None:
            self._process.send_signal(number)  # which does nothing if it has ended


def _ending_with_parent() -> Callable[[], object] | None:
    """What a new process does first so that it is told to stop when this one is killed, which SLURM may not see to.

    prctl(2) of Linux; elsewhere nothing.
    """
    if sys.platform != "linux":
        return None
    prctl, set_parent_death_signal = ctypes.CDLL(None).prctl, 1
    return functools.partial(prctl, set_parent_death_signal, int(signal.SIGTERM))


def requeue() -> None:
    """Have SLURM start this job again, unless it is ending it: then it was cancelled, or is queued again already."""
    array = [os.environ[name] for name in ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID") if name in os.environ]
    job = "_".join(array) or os.environ["SLURM_JOB_ID"]  # which is also the whole array's number for one of its jobs
    query = ["squeue", "--noheader", f"--jobs={job}", "--format=%T"]
    state = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
    print(f"The run has stopped where it goes on from; this job is {state or 'unknown to SLURM'}.", flush=True)
    if state == "RUNNING":
        subprocess.run(["scontrol", "requeue", job], check=False)
