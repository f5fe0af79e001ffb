"""A run that is killed at any instant, and started again until it finishes, is the run that was never killed.

All are real processes of a rich run: two populations, tasks of different lengths, evaluations after each epoch,
strategies with a state and with rare work, a checkpoint after every third update, and others by time. Whatever they
leave is compared with what one left that ran through: tables, curves, networks and configs, to the bit; and which files
there are.
"""

from __future__ import annotations

import random
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

from lopbench import checkpoint
from lopbench.loggers import manifest
from lopbench.signals import REQUEUE
from tests.end_to_end.processes import Ended, Server
from tests.end_to_end.test_runs import assert_same_numbers, table

CONFIG = """
run.stream = @streams.ClassIncremental
run.source = @sources.Generated
run.architecture = @architectures.MLP
run.optimizer = @optimizers.Adam
run.seeds = 2
run.executor = 'eager'
run.window_steps = 4
run.metrics = [@metrics.Evaluation, @metrics.WeightMagnitude]
run.checkpoint_steps = 3
run.checkpoint_minutes = 0.0003
run.keep_tasks = 2
sources.Generated.shape = (4, 4)
sources.Generated.classes = 6
sources.Generated.train_size = 60
sources.Generated.test_size = 30
streams.ClassIncremental.classes_per_task = 2
streams.ClassIncremental.validation_per_class = 2
streams.ClassIncremental.epochs_per_task = 2
streams.ClassIncremental.batch_size = 4
architectures.MLP.width = 5
architectures.MLP.depth = 2
metrics.Evaluation.every = 'epoch_end'
metrics.Evaluation.probe_size = 4
metrics.Evaluation.probe_split = ['test', 'validation']
metrics.WeightMagnitude.every = 7
strategies.SelectiveWeightReinit.period = 5
strategies.SelectiveWeightReinit.reinit_factor = 0.5
strategies.ContinualBackprop.replacement_rate = 0.2
strategies.ContinualBackprop.maturity_threshold = 2
run.variants = {
    'restored': ['run.strategies = [@strategies.RestoreBest, @strategies.SelectiveWeightReinit]'],
    'replaced': ['run.strategies = [@strategies.ContinualBackprop]', 'architectures.MLP.width = 6'],
}
"""


@dataclass(frozen=True)
class Whole:
    """A run that was never killed: its command and workdir, and how many seconds it took."""

    arguments: tuple[str, ...]
    workdir: Path
    seconds: float


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with closing(Server()) as server:
        yield server


@pytest.fixture(scope="module")
def whole(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return run_through(server, tmp_path_factory.mktemp("whole"))


def run_through(server: Server, folder: Path, *bindings: str) -> Whole:
    (folder / "mine.gin").write_text(CONFIG + "\n".join(bindings))
    arguments = (f"--gin_file={folder / 'mine.gin'}", "--workdir=out", "--device=cpu")
    began = time.monotonic()
    ended = server.start(folder, *arguments).ended()
    assert ended.status == 0, ended.err
    return Whole(arguments, folder / "out", time.monotonic() - began)


def killed(server: Server, folder: Path, whole: Whole, number: int, when: Iterator[float]) -> Iterator[Ended]:
    """Start the same command again until it finishes, with a signal so many seconds after each start; how each ended.

    After the last of those instants it is left alone.
    """
    status = None
    while status != 0:
        run, instant = server.start(folder, *whole.arguments), next(when, None)
        if instant is not None and not run.ended_within(instant):
            run.send(number)
        ended = run.ended()
        status = ended.status
        assert status in (0, -number, REQUEUE), ended.err
        yield ended


# What a run leaves ----------------------------------------------------------------------------------


def assert_same_results(workdir: Path, whole: Path) -> None:
    """Everything that two runs leave is equal, but for times and what is told of the processes."""
    assert names(workdir) == names(whole)
    assert_same_numbers(table(workdir), table(whole))
    assert len(table(workdir)) == len(table(whole))
    assert not table(workdir).duplicated(["replica", "step", "task", "tag"]).any()
    assert curves(workdir) == curves(whole)
    assert networks(workdir) == networks(whole)
    for name in ("config.gin", "operative_config.gin"):
        assert (workdir / name).read_bytes() == (whole / name).read_bytes()
    runs = [manifest.read(folder) for folder in (workdir, whole)]
    assert runs[0].keys() == runs[1].keys() and {run["status"] for run in runs} == {"finished"}
    assert runs[0]["executors"] == runs[1]["executors"]


def names(workdir: Path) -> list[str]:
    """Every file, without what in a name depends on when it was written."""
    paths = (path.relative_to(workdir).as_posix() for path in workdir.rglob("*") if path.is_file())
    return sorted(re.sub(r"(tfevents|step)[-.].*", r"\1", path) for path in paths)


def curves(workdir: Path) -> dict[str, list[tuple[int, str, float]]]:
    """Every (step, tag, value) of each TensorBoard run, in the file's order; of times without the value."""
    return {
        path.parent.relative_to(workdir).as_posix(): [
            (event.step, value.tag, 0.0 if value.tag.startswith("time") else value.simple_value)
            for event in LegacyEventFileLoader(str(path)).Load()
            for value in event.summary.value
        ]
        for path in sorted((workdir / "tensorboard").rglob("events.out.tfevents.*"))
    }


def networks(workdir: Path) -> dict[str, dict[str, Any]]:
    """What the checkpoints hold that are kept for good: the manifest's entries but `run`, and each tensor."""
    found = {}
    for path in (path for paths in checkpoint.saved(workdir).values() for path in paths):
        with safe_open(path, framework="np") as file:
            told = {name: file.metadata()[name] for name in ("layout", "step", "task", "replicas", "tree")}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        bits = {name: (tensor.dtype, tensor.shape, tensor.tobytes()) for name, tensor in tensors.items()}
        found[path.relative_to(workdir).as_posix()] = told | bits
    return found


# Kills ----------------------------------------------------------------------------------------------


def instants(whole: Whole, spread: float, draw: random.Random) -> Iterator[float]:
    """Random ones, from a process's start on, within that part of the seconds that the whole run takes."""
    while True:
        yield draw.uniform(0, spread * whole.seconds)


def assert_survives(server: Server, folder: Path, whole: Whole, kills: int, spread: float) -> None:
    """Kill runs at random instants, so many times in all, and compare each that finishes."""
    when, made, resumed = instants(whole, spread, random.Random(kills)), 0, 0
    while made < kills:
        here = Path(tempfile.mkdtemp(dir=folder))
        ends = list(killed(server, here, whole, signal.SIGKILL, islice(when, kills - made)))
        made += len(ends) - 1
        assert_same_results(here / "out", whole.workdir)
        resumed += len(manifest.read(here / "out")["resumed"])
        shutil.rmtree(here)
    assert resumed  # or no instant was where it should be


def assert_loses_nothing(server: Server, folder: Path, whole: Whole, signals: int) -> None:
    """Send SIGTERM at random instants: where a process stops, the next one goes on."""
    when, made, stopped = instants(whole, 0.75, random.Random(signals)), 0, 0
    while made < signals:
        here, expected = Path(tempfile.mkdtemp(dir=folder)), ""
        for ended in killed(server, here, whole, signal.SIGTERM, islice(when, signals - made)):
            if ended.status == -signal.SIGTERM:  # before training or after it; what it has said is lost
                made, expected = made + 1, ""
                continue
            assert expected in ended.out
            if ended.status == REQUEUE:
                made, stopped = made + 1, stopped + 1
                expected = where_it_goes_on(here / "out", ended)
        assert_same_results(here / "out", whole.workdir)
        shutil.rmtree(here)
    assert stopped  # or no instant was where it should be


def where_it_goes_on(workdir: Path, ended: Ended) -> str:
    """What the next process must say of a run that a signal has stopped."""
    assert manifest.read(workdir)["status"] == "interrupted"
    said = re.match(r"Stopped by SIGTERM after ([\d,]+) updates: ", ended.err.splitlines()[-1])
    assert said, ended.err
    step = int(said[1].replace(",", ""))
    population = max(number for number, path in checkpoint.files_of(workdir) if checkpoint.step_of(path) == step)
    return f"goes on after {said[1]} updates of population {population}."


@pytest.mark.parametrize("spread", [1.0, 0.75], ids=["anywhere", "soon_after_each_start"])
def test_a_run_survives_kills(server: Server, whole: Whole, tmp_path: Path, spread: float) -> None:
    assert_survives(server, tmp_path, whole, kills=10, spread=spread)


def test_a_run_that_is_asked_to_stop_loses_nothing(server: Server, whole: Whole, tmp_path: Path) -> None:
    assert_loses_nothing(server, tmp_path, whole, signals=10)


@pytest.mark.long
def test_a_run_survives_many_kills(server: Server, whole: Whole, tmp_path: Path) -> None:
    assert_survives(server, tmp_path, whole, kills=200, spread=0.75)


#: lines of gin. Of a compiled run most of the time goes into tracing: it gets one population, and more updates of it
EXECUTORS = {
    "looped": ["run.executor = 'eager'", "run.replicas_together = 1"],
    "compiled": [
        "run.executor = 'compiled'",
        "run.block_steps = 2",
        "run.variants = {'both': ['run.strategies = [@strategies.RestoreBest, @strategies.ContinualBackprop]']}",
        "streams.ClassIncremental.epochs_per_task = 10",
    ],
}


@pytest.mark.long
@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_run_of_another_executor_survives_kills(tmp_path: Path, executor: str) -> None:
    with closing(Server(TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "compiled"))) as server:
        for name in ("cold", "warm"):
            (tmp_path / name).mkdir()
            whole = run_through(server, tmp_path / name, *EXECUTORS[executor])
        assert_survives(server, tmp_path, whole, kills=10, spread=1.0)
        assert_loses_nothing(server, tmp_path, whole, signals=5)
