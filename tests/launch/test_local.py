"""launch.local: real processes; what many give is what one gives, whatever stops or fails in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import pytest

from lopbench import lock
from lopbench.analysis.results import load

pytestmark = pytest.mark.study

ROOT = Path(__file__).parent.parent.parent
STUDY = """
run.stream = @streams.SlowlyChangingRegression
run.architecture = @architectures.MLP
run.optimizer = @optimizers.SGD
run.executor = 'eager'
run.seeds = 2
run.window_steps = 20
streams.SlowlyChangingRegression.tasks = 2
streams.SlowlyChangingRegression.period = 100
architectures.MLP.width = 5
run.variants = {'plain': [], 'l2': ['run.strategies = [@strategies.L2]']}
sweep.grid = {'strategies.L2.l2_weight': [0.1, 0.2]}
"""
#: a variant that trains for as long as nobody stops it
ENDLESS = "run.checkpoint_steps = 20\nstreams.SlowlyChangingRegression.tasks = 100_000\n"


def begin(folder: Path, text: str, *flags: str) -> subprocess.Popen[str]:
    """Start launch.local on `text` as a user does, in an empty folder, with the study in `folder`/study."""
    (folder / "mine.gin").write_text(text)
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, "-m", "launch.local", "--gin_file=mine.gin", "--workdir=study", "--device=cpu", *flags]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, env=environment, **pipes)


def launch(folder: Path, text: str, *flags: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of launch.local."""
    process = begin(folder, text, *flags)
    try:
        out, err = process.communicate(timeout=300)
    finally:
        process.terminate()  # one that hangs stops its populations
    return process.returncode, out, err


def tables(study: Path) -> dict[str, pd.DataFrame]:
    """The results of each population but for its times."""
    folders = sorted((study / "populations").iterdir())
    found = {folder.name: load(folder) for folder in folders}
    return {name: rows[~rows["tag"].str.startswith("time/")] for name, rows in found.items()}


def same(one: Path, other: Path) -> None:
    """Assert that two studies hold the same numbers to the bit."""
    ours, theirs = tables(one), tables(other)
    assert ours.keys() == theirs.keys()
    for name, rows in ours.items():
        pd.testing.assert_frame_equal(rows, theirs[name], check_exact=True)


def status_of(population: Path) -> str | None:
    path = population / "run.json"
    return json.loads(path.read_text())["status"] if path.exists() else None


def wait_for(happened: object, process: subprocess.Popen[str], seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not happened():  # type: ignore[operator]
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.fixture(scope="module")
def in_one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The study, trained by one process at a time."""
    folder = tmp_path_factory.mktemp("one")
    status, out, err = launch(folder, STUDY, "--processes=1")
    assert status == 0, err
    assert "6 points in 2 populations, 1 process at a time of 1 thread" in out
    assert "2 populations, 6 replicas: 2 finished; 100%" in out
    yield folder / "study"


def test_two_processes_give_what_one_gives_and_an_extension_trains_what_is_new(tmp_path: Path, in_one: Path) -> None:
    status, _, err = launch(tmp_path, STUDY, "--processes=2")
    assert status == 0, err
    same(in_one, tmp_path / "study")
    before = tables(tmp_path / "study")
    ended = {name: json.loads((tmp_path / "study/populations" / name / "run.json").read_text()) for name in before}
    status, out, err = launch(tmp_path, f"{STUDY}run.seeds = 3\n", "--processes=2")
    assert status == 0, err
    assert "9 points in 4 populations" in out
    after = tables(tmp_path / "study")
    assert [set(rows["seed"]) for rows in after.values()] == [{0, 1}, {0, 1}, {2}, {2}]
    for name, rows in before.items():
        pd.testing.assert_frame_equal(rows, after[name], check_exact=True)
        assert json.loads((tmp_path / "study/populations" / name / "run.json").read_text()) == ended[name]


def test_every_row_carries_its_points_values(in_one: Path) -> None:
    plain, l2 = tables(in_one).values()
    key = "strategies.L2.l2_weight"
    assert plain[key].isna().all()
    assert l2.groupby("variant", observed=True)[key].unique().to_dict() == {
        "l2 l2_weight=0.1": [0.1],
        "l2 l2_weight=0.2": [0.2],
    }


def test_it_ends_with_the_report(in_one: Path) -> None:
    page = (in_one / "report" / "index.html").read_text()
    assert "l2 l2_weight=0.1" in page and "plain" in page


def test_a_population_is_a_run_that_can_be_repeated_by_hand(in_one: Path, tmp_path: Path) -> None:
    gin_file = in_one / "populations" / "001" / "population.gin"
    command = [sys.executable, "-m", "lopbench.main", f"--gin_file={gin_file}", "--workdir=again", "--device=cpu"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=True, timeout=120)
    rows = load(tmp_path / "again")
    expected = tables(in_one)["001"]
    pd.testing.assert_frame_equal(rows[~rows["tag"].str.startswith("time/")], expected, check_exact=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_every_population_where_it_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    process = begin(tmp_path, STUDY + ENDLESS, "--processes=2")
    folders = [tmp_path / "study" / "populations" / name for name in ("000", "001")]
    wait_for(lambda: all(list((folder / "checkpoints").rglob("step-*")) for folder in folders), process)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == (130 if number == signal.SIGINT else 75)
    assert f"Stopped by {'Ctrl-C' if number == signal.SIGINT else 'SIGTERM'}: the same command goes on" in err
    for folder in folders:
        assert status_of(folder) == "interrupted" and lock.holder(folder) is None


def test_what_fails_is_tried_once_more_and_reported_and_the_rest_goes_on(tmp_path: Path) -> None:
    """A method that breaks when it trains breaks its own population only."""
    (tmp_path / "fragile.py").write_text(
        "import sys\n"
        "import lopbench\n"
        "from lopbench.protocols import Strategy\n"
        "from dataclasses import dataclass\n\n\n"
        "@lopbench.register('strategies')\n"
        "@dataclass(frozen=True)\n"
        "class Fragile(Strategy):\n"
        "    '''Breaks when it trains.'''\n\n"
        "    def after_update(self, learner):\n"
        "        raise ArithmeticError('it broke')\n"
    )
    methods = (
        "{'bad': ['run.strategies = [@strategies.Fragile]'], 'plain': [], "
        "'wild': ['optimizers.SGD.learning_rate = 1e9', 'architectures.MLP.width = 6']}"
    )
    text = f"import fragile\n{STUDY}run.variants = {methods}\n"
    text = text.replace("sweep.grid = {'strategies.L2.l2_weight': [0.1, 0.2]}\n", "")
    status, out, err = launch(tmp_path, text, "--processes=1")
    assert status == 1
    assert "1 of 3 populations failed twice (see above)." in err
    assert out.count("it broke") >= 2 and "It is tried once more." in out and "It is left out" in out
    assert status_of(tmp_path / "study/populations/000") == "failed"
    assert status_of(tmp_path / "study/populations/001") == "finished"
    wild = tmp_path / "study/populations/002"  # of which every replica diverged: that is a result, and no failure
    assert status_of(wild) == "finished" and (wild / "log.txt").read_text().count("compiling") <= 1
    assert "002 failed" not in out and (wild / "log.txt").read_text().count("wild: 200 steps") == 1
    assert "diverged" in (tmp_path / "study/report/index.html").read_text()


def test_a_population_that_another_process_trains_is_left_to_it(tmp_path: Path) -> None:
    """Two launchers share a study: each population is trained once, and both end when all has finished."""
    begun = begin(tmp_path, STUDY, "--processes=2")
    wait_for(lambda: (tmp_path / "study/study.json").exists(), begun)
    status, out, err = launch(tmp_path, STUDY, "--processes=2")
    first, first_err = begun.communicate(timeout=120)
    assert (status, begun.returncode) == (0, 0), (err, first_err)
    assert "failed" not in out + first
    for name in ("000", "001"):
        log = (tmp_path / "study/populations" / name / "log.txt").read_text()
        assert log.count("replicas, eager") + log.count("replica, eager") == 1, log


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--processes=0"], "flag --processes=0: 0 is not a positive integer"),
        (["--threads=2"], "--threads is 2, and study has begun with 1: leave it out, or choose another --workdir."),
        (["--gin_bindings=run.seeds = 1"], "holds the point 'plain', seed 1, which is not asked for"),
    ],
)
def test_a_mistake_is_one_line(in_one: Path, flags: Sequence[str], message: str) -> None:
    status, _, err = launch(in_one.parent, STUDY, *flags)
    assert status == 1 and message in err and "Traceback" not in err
