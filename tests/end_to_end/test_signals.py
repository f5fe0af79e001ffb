"""What signals do to a run: it stops with a checkpoint and a status that says so, and the same command goes on.

Real processes, which modules of the user's own stop at known places. Each ends as the README's table of exit
statuses has it; what they then finish is what a run gives that no signal has met.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch

from lopbench import signals
from lopbench.choosing import missing_compiler
from lopbench.loggers import manifest
from tests.end_to_end.processes import Ended, Server, command
from tests.end_to_end.test_runs import BASE, assert_same_numbers, table

ARGUMENTS = ("--gin_file=mine.gin", "--workdir=out", "--device=cpu")

#: modules of the user's own; the run makes 30 updates
MODULES = {
    "sends": '''
"""A metric that sends this process signals after `every` updates."""

import os
import signal
from dataclasses import dataclass

from lopbench import register
from lopbench.protocols import Metric


@register("metrics")
@dataclass(frozen=True)
class Sends(Metric):
    """Sends this process signals."""

    every: int = 17
    signals: tuple = ()

    def measure(self, probe):
        for name in self.signals:
            os.kill(os.getpid(), signal.Signals[name])
        return {}
''',
    "sleeps": '''
"""A strategy whose eleventh update takes half a minute, the first time."""

import itertools
import pathlib
import time
from dataclasses import dataclass

from lopbench import register
from lopbench.protocols import Strategy

UPDATES = itertools.count(1)


@register("strategies")
@dataclass(frozen=True)
class Sleeps(Strategy):
    """Sleeps."""

    def after_update(self, learner):
        if next(UPDATES) == 11 and not pathlib.Path("asleep").exists():
            pathlib.Path("asleep").touch()
            time.sleep(30)
''',
    "loads": '''
"""A source that takes half a minute to load, the first time."""

import pathlib
import time
from dataclasses import dataclass

from lopbench import register
from lopbench.streams.sources import Generated


@register("sources")
@dataclass(frozen=True)
class Loads(Generated):
    """Takes its time."""

    def load(self, data_dir, device):
        if not pathlib.Path("loading").exists():
            pathlib.Path("loading").touch()
            time.sleep(30)
        return super().load(data_dir, device)
''',
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with closing(Server()) as server:
        yield server


@pytest.fixture(scope="module")
def whole(server: Server, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The table of a run that no signal has met."""
    return finished(server, prepared(tmp_path_factory.mktemp("whole"), ""))


def prepared(folder: Path, lines: str) -> Path:
    """The folder, with a gin file and the modules."""
    for name, text in MODULES.items():
        (folder / f"{name}.py").write_text(text)
    (folder / "mine.gin").write_text(f"{BASE}\n{lines}\n")
    return folder


def sending(*names: str, every: int = 17) -> str:
    """Lines of gin for a metric that sends these signals after so many updates."""
    metrics = "run.metrics = [@metrics.DeadUnits, @metrics.WeightMagnitude, @metrics.Sends]"
    return f"import sends\n{metrics}\nmetrics.Sends.signals = {names}\nmetrics.Sends.every = {every}"


def finished(server: Server, folder: Path) -> pd.DataFrame:
    """The table after the command was given once more, and ran to its end."""
    ended = server.start(folder, *ARGUMENTS).ended()
    assert ended.status == 0, ended.err
    assert manifest.read(folder / "out")["status"] == "finished"
    return table(folder / "out")


def assert_stopped(folder: Path, ended: Ended, status: int, message: str) -> None:
    """With one message that begins like this, no traceback, and a run.json that says so."""
    assert ended.status == status, ended.err
    assert ended.err.splitlines()[-1].startswith(f"{message}: the same command goes on"), ended.err
    assert ended.err.count("Stopped") == 1 and "Traceback" not in ended.err
    assert manifest.read(folder / "out")["status"] == "interrupted"


# While a run trains ---------------------------------------------------------------------------------


def test_sigterm_stops_with_75_however_often_it_is_sent(server: Server, whole: pd.DataFrame, tmp_path: Path) -> None:
    """A fresh interpreter takes a while to end: a second signal then must not change its status."""
    folder = prepared(tmp_path, sending("SIGTERM"))
    with command(folder, *ARGUMENTS) as run:
        run.wait_for(lambda: "Stopped" in run.err)
        while not run.ended_within(0.02):
            run.send(signal.SIGTERM)
        assert_stopped(folder, run.ended(), 75, "Stopped by SIGTERM after 17 updates")
    assert_same_numbers(finished(server, folder), whole)


def test_ctrl_c_stops_with_130(server: Server, whole: pd.DataFrame, tmp_path: Path) -> None:
    folder = prepared(tmp_path, sending("SIGINT"))
    with command(folder, *ARGUMENTS) as run:
        ended = run.ended()
    assert_stopped(folder, ended, 130, "Stopped by Ctrl-C after 17 updates")
    assert ended.err.count("Ctrl-C again stops at once") == 1
    assert_same_numbers(finished(server, folder), whole)


def test_a_run_that_ignores_ctrl_c_stops_for_sigusr1(server: Server, whole: pd.DataFrame, tmp_path: Path) -> None:
    """As under nohup; and Ctrl-C stays ignored after the other signal."""
    folder = prepared(tmp_path, sending("SIGINT", "SIGUSR1", "SIGINT"))
    with command(folder, *ARGUMENTS, prefix=("sh", "-c", "trap '' INT; exec \"$@\"", "sh")) as run:
        ended = run.ended()
    assert_stopped(folder, ended, 75, "Stopped by SIGUSR1 after 17 updates")
    assert "Ctrl-C" not in ended.err
    assert_same_numbers(finished(server, folder), whole)


def test_a_second_ctrl_c_stops_at_once(server: Server, whole: pd.DataFrame, tmp_path: Path) -> None:
    lines = "import sleeps\nrun.strategies = [@strategies.Sleeps]\nrun.checkpoint_steps = 3"
    folder = prepared(tmp_path, lines)
    run = server.start(folder, *ARGUMENTS)
    run.wait_for((folder / "asleep").exists)
    run.send(signal.SIGINT)
    run.wait_for(lambda: "Ctrl-C again stops at once" in run.err)
    assert not run.ended_within(0.3)  # the step is not finished yet
    run.send(signal.SIGINT)
    ended = run.ended(seconds=15)  # of 30
    assert ended.status == -signal.SIGINT and "Traceback" not in ended.err
    assert_same_numbers(finished(server, folder), whole)
    assert "it goes on after 9 updates" in (folder / "stdout").read_text()


@pytest.mark.parametrize(
    "variant, stopped",
    [("first", "Stopped by SIGTERM after 0 updates"), ("second", None)],
    ids=["of_the_first_population", "of_the_last"],
)
def test_a_signal_after_the_last_update(server: Server, tmp_path: Path, variant: str, stopped: str | None) -> None:
    """The network of that population is written; then the next one has not begun, or the run finishes."""
    folder = prepared(tmp_path, two_populations(variant, "SIGTERM"))
    if stopped:
        assert_stopped(folder, server.start(folder, *ARGUMENTS).ended(), 75, stopped)
        assert (folder / "out" / "checkpoints" / "population-0" / "end.safetensors").exists()
    rows = finished(server, folder)
    assert ("it goes on after 0 updates of population 1." in (folder / "stdout").read_text()) == bool(stopped)
    (folder / "never").mkdir()
    assert_same_numbers(rows, finished(server, prepared(folder / "never", two_populations(variant))))


def two_populations(variant: str, *names: str) -> str:
    """Lines of gin for variants "first" and "second"; this one sends signals after its last update."""
    own = {name: ["run.metrics = [@metrics.Sends]"] if name == variant else [] for name in ("first", "second")}
    own["second"].append("architectures.MLP.width = 6")
    return f"{sending(*names, every=30)}\nrun.metrics = ()\nrun.variants = {own}"


def test_afterwards_a_signal_means_what_it_meant() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with signals.listening() as request:
        assert signal.getsignal(signal.SIGTERM) == request.note
    assert signal.getsignal(signal.SIGTERM) == before


def test_outside_of_the_main_thread_there_is_nothing_to_listen_to() -> None:
    def listen() -> None:
        with signals.listening() as request:
            requests.append(request)

    requests: list[signals.Request] = []
    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert len(requests) == 1 and not requests[0]


# While it does not ----------------------------------------------------------------------------------


def test_sigterm_while_python_imports_ends_it(tmp_path: Path) -> None:
    with command(prepared(tmp_path, ""), *ARGUMENTS) as run:
        time.sleep(0.2)
        run.send(signal.SIGTERM)
        assert run.ended() == Ended(-signal.SIGTERM, "", "")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "number, status, err",
    [
        (signal.SIGTERM, -signal.SIGTERM, ""),
        (signal.SIGUSR1, -signal.SIGUSR1, ""),
        (signal.SIGINT, 130, "Interrupted."),
    ],
)
def test_a_signal_while_data_load_ends_it(
    server: Server, tmp_path: Path, number: signal.Signals, status: int, err: str
) -> None:
    folder = prepared(tmp_path, "import loads\nrun.source = @sources.Loads")
    run = server.start(folder, *ARGUMENTS)
    run.wait_for((folder / "loading").exists)
    run.send(number)
    ended = run.ended()
    assert (ended.status, ended.err.strip()) == (status, err)
    assert not (folder / "out").exists()


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 130)])
def test_a_signal_while_the_report_is_made_ends_it(
    server: Server, whole: pd.DataFrame, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    folder = prepared(tmp_path, "")
    run = server.start(folder, *ARGUMENTS)
    run.wait_for(lambda: "frozen_replicas" in manifest.read(folder / "out"))  # the first thing after training
    run.send(number)
    assert run.ended().status == status
    assert not (folder / "out" / "figures" / "plasticity.png").exists()
    assert_same_numbers(finished(server, folder), whole)
    assert (folder / "out" / "figures" / "plasticity.png").exists()


# Its children ---------------------------------------------------------------------------------------


@pytest.mark.skipif(
    bool(missing_compiler(torch.device("cpu"))) or (os.cpu_count() or 1) < 2, reason="nothing is compiled ahead here"
)
def test_the_process_that_compiles_ahead_ends_with_a_run_that_is_killed(server: Server, tmp_path: Path) -> None:
    """Even if the run is killed before that process has imported anything."""
    folder = prepared(tmp_path, f"{two_populations('first')}\nrun.executor = 'compiled'")
    run = server.start(folder, *ARGUMENTS)
    run.wait_for(lambda: compiling_ahead(run.pid))
    child = compiling_ahead(run.pid)[0]
    run.send(signal.SIGKILL)
    assert run.ended().status == -signal.SIGKILL
    until = time.monotonic() + 30  # of which importing takes most
    while lives(child):
        assert time.monotonic() < until
        time.sleep(0.05)


def compiling_ahead(pid: int) -> list[psutil.Process]:
    return [child for child in psutil.Process(pid).children() if "lopbench.warm_up" in words(child)]


def words(process: psutil.Process) -> list[str]:
    with suppress(psutil.Error):
        return process.cmdline()
    return []


def lives(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.status() != psutil.STATUS_ZOMBIE
    return False
