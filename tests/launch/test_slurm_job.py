"""What a job does with signals, and when it asks to be queued again; with small programs in the place of SLURM's."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from launch import populations, slurm_job
from lopbench import lock

#: a run that stops as lopbench's do, once it listens, and writes down what it was told
RUN = """
import signal, sys, time
def stop(number, frame):
    print(signal.Signals(number).name, flush=True)
    sys.exit(75)
for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, stop)
print("listening", flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def handlers_as_they_were():
    before = {number: signal.getsignal(number) for number in populations.STOPPING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", populations.STOPPING)
def test_a_signal_to_the_job_alone_reaches_the_run_and_its_status_is_the_answer(tmp_path, number):
    log = tmp_path / "log.txt"
    child = slurm_job.Child()

    def send() -> None:
        _wait_for(lambda: log.exists() and "listening" in log.read_text())
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    sender.start()
    status = child.run([sys.executable, "-c", RUN], dict(os.environ), log)
    sender.join()
    assert child.told and populations.was_stopped(status)
    assert log.read_text().split() == ["listening", signal.Signals(number).name]


def test_a_signal_before_the_run_is_there_stops_it_too(tmp_path):
    child = slurm_job.Child()
    os.kill(os.getpid(), signal.SIGUSR2)
    status = child.run([sys.executable, "-c", RUN], dict(os.environ), tmp_path / "log.txt")
    assert child.told and populations.was_stopped(status)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent is gone")
def test_a_run_whose_job_is_killed_stops_with_a_checkpoint(tmp_path):
    log = tmp_path / "log.txt"
    job = os.fork()
    if job == 0:
        slurm_job.Child().run([sys.executable, "-c", RUN], dict(os.environ), log)
        os._exit(1)
    _wait_for(lambda: log.exists() and "listening" in log.read_text())
    os.kill(job, signal.SIGKILL)
    os.waitpid(job, 0)
    _wait_for(lambda: "SIGTERM" in log.read_text())


def test_a_job_waits_for_another_process_that_trains_its_population(tmp_path):
    child, done = slurm_job.Child(), []
    with lock.hold(tmp_path):
        waiter = threading.Thread(target=lambda: done.append(child.wait_until_free(tmp_path)))
        waiter.start()
        waiter.join(0.2)
        assert not done
    waiter.join(10)
    assert done


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """Makes programs of SLURM that say that a job is in some state; the lines that scontrol was given."""

    def made(state: str) -> Path:
        said = tmp_path / "said"
        said.touch()
        for name, line in {"squeue": f"echo {state}", "scontrol": f'echo "$@" >> {said}'}.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
            (tmp_path / name).chmod(0o755)
        return said

    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    for name in ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    return made


@pytest.mark.parametrize(
    ("state", "asked"), [("RUNNING", "requeue 17\n"), ("COMPLETING", ""), ("PENDING", ""), ("", "")]
)
def test_only_a_job_that_slurm_leaves_running_asks_to_be_queued_again(scontrol, state, asked):
    said = scontrol(state)
    slurm_job.requeue()
    assert said.read_text() == asked


def test_a_job_of_an_array_asks_for_itself_and_not_for_all_of_it(scontrol, monkeypatch):
    said = scontrol("RUNNING")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "17")  # one of an array's jobs has the array's own number
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    slurm_job.requeue()
    assert said.read_text() == "requeue 17_3\n"


def _wait_for(happened: Callable[[], bool], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.01)
