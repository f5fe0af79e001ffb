"""`python -m launch.status`, and the table that the launchers show, of folders that were made up."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from absl import flags

from launch import overview, standing, status
from launch.board import Board
from launch.overview import Line
from lopbench import lock
from lopbench.errors import UserError
from lopbench.loggers.records import Record, Replica
from lopbench.loggers.table import Table

ROOT = Path(__file__).parent.parent.parent
STEPS = 1000


def study(workdir: Path, populations: int, replicas: int = 2) -> list[Path]:
    """A study of waiting populations; their folders."""
    members = [
        {"variant": f"swr lr={k}", "method": "swr", "seed": k, "point": f"{k:016x}", "values": {"lr": k}}
        for k in range(replicas)
    ]
    folders = [f"populations/{number:03d}" for number in range(populations)]
    ledger = {"format": "lopbench study", "layout": 1, "name": "made_up", "files": [], "bindings": [], "threads": 1}
    ledger["populations"] = [{"folder": folder, "steps": STEPS, "replicas": members} for folder in folders]
    for folder in folders:
        (workdir / folder).mkdir(parents=True)
    (workdir / "study.json").write_text(json.dumps(ledger))
    return [workdir / folder for folder in folders]


def told(folder: Path, status: str, **more: object) -> None:
    (folder / "run.json").write_text(json.dumps({"status": status, **more}))


def reached(folder: Path, step: int, rate: float, first: int = 0) -> None:
    """Results up to a step: the rate so far stands in the row before the last."""
    replicas = [Replica(first + k, "swr", k) for k in range(2)]
    table = Table(folder, replicas)
    table.write(
        replicas,
        [
            Record(step - 1, 0, "time/steps_per_second", np.full(2, 1.0)),
            Record(step, 0, "time/steps_per_second", np.full(2, rate)),
            Record(step, 0, "online/loss", np.zeros(2)),
        ],
    )
    table.close()


def test_each_population_is_in_the_state_that_its_folder_tells(tmp_path):
    _, running, killed, stopped, failed, finished = study(tmp_path, 6)
    for folder in (running, killed):
        told(folder, "running")
        reached(folder, 400, 50.0)
    told(stopped, "interrupted")
    told(failed, "failed", error="UserError: Every replica\nturned non-finite")
    told(finished, "finished")
    with lock.hold(running) as held:
        lines = standing.Standing(tmp_path).lines()

    states = [line.state for line in lines]
    assert states == ["waiting", "running", "stopped", "stopped", "failed", "finished"]
    assert [line.done for line in lines] == [0, 400, 400, 0, 0, STEPS]
    assert [line.rate for line in lines] == [None, 50.0, None, None, None, None]
    assert lines[1].left == (STEPS - 400) / 50.0
    assert [line.where for line in lines] == ["", held.owner.host, "", "", "", ""]
    assert lines[4].error == "turned non-finite"
    text = overview.table(lines).splitlines()
    assert "2 stopped" in text[-2] and "30%" in text[-2] and "50 steps/s" in text[-2]
    assert text[-1] == f"004 failed: turned non-finite (see {failed / 'log.txt'})"


def test_a_run_that_has_begun_again_is_running_whatever_its_last_process_said(tmp_path):
    folders = study(tmp_path, 3)
    told(folders[0], "failed", error="of something")
    told(folders[1], "interrupted")
    with lock.hold(folders[0]), lock.hold(folders[1]), lock.hold(folders[2]):
        assert [line.state for line in standing.Standing(tmp_path).lines()] == ["running"] * 3


def test_results_are_read_again_only_when_they_have_changed(tmp_path, monkeypatch):
    [folder] = study(tmp_path, 1)
    told(folder, "interrupted")
    watched = standing.Standing(tmp_path)
    assert watched.lines()[0].done == 0
    reached(folder, 100, 5.0)
    assert watched.lines()[0].done == 100

    import pyarrow.parquet as pq

    with monkeypatch.context() as patched:
        patched.setattr(pq, "read_table", lambda *_, **__: pytest.fail("read again"))
        assert watched.lines()[0].done == 100
    reached(folder, 200, 5.0)
    assert watched.lines()[0].done == 200


def test_a_part_without_a_rate_or_a_damaged_one_leaves_it_to_the_part_before(tmp_path):
    [folder] = study(tmp_path, 1)
    told(folder, "interrupted")
    reached(folder, 300, 5.0)
    (folder / "metrics" / "part-000001.parquet").write_bytes(b"PAR1 nothing PAR1")
    assert standing.Standing(tmp_path).lines()[0].done == 300


def test_jobs_of_a_cluster_are_named_until_they_have_finished(tmp_path):
    _, running, finished = study(tmp_path, 3)
    told(finished, "finished")
    (tmp_path / "slurm").mkdir()
    jobs = {f"populations/{k:03d}": [f"7_{k}", f"8_{k}"] for k in range(3)}
    (tmp_path / "slurm" / "jobs.json").write_text(json.dumps(jobs))
    with lock.hold(running) as held:
        where = [line.where for line in standing.Standing(tmp_path).lines()]
    assert where == ["job 8_0", f"job 8_1 on {held.owner.host}", ""]


def test_a_plain_run_is_one_line_over_all_of_its_populations(tmp_path):
    seeds = {"sgd": [0, 1], "swr lr=0.1": [0, 1]}
    populations = [{"replicas": 2, "steps": STEPS}, {"replicas": 2, "steps": STEPS}]
    points = {"swr lr=0.1": {"method": "swr", "values": {"lr": 0.1}}}
    told(tmp_path, "interrupted", seeds=seeds, populations=populations, points=points)
    reached(tmp_path, 500, 5.0, first=2)  # in the second population
    [line] = standing.Standing(tmp_path).lines()
    assert line.methods == ("sgd", "swr")
    assert (line.done, line.steps, line.replicas) == (STEPS + 500, 2 * STEPS, 4)

    told(tmp_path, "interrupted", seeds=seeds)  # an older run did not write down how many steps it makes
    [line] = standing.Standing(tmp_path).lines()
    assert (line.done, line.steps) == (500, None)
    assert "500 steps" in overview.table([line])


def test_a_low_terminal_shows_what_runs_and_what_failed_and_how_much_is_left_out(tmp_path):
    states = ["finished"] * 30 + ["running", "failed"] + ["waiting"] * 30
    lines = [Line(f"{k:03d}", ("sgd",), 2, state, 0, STEPS) for k, state in enumerate(states)]
    text = overview.table(lines, os.terminal_size((60, 12))).splitlines()
    assert len(text) < 12 and all(len(line) < 60 for line in text)
    assert any(line.startswith("030") for line in text) and any(line.startswith("031") for line in text)
    assert "and 55 more" in text


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.4, "0:00"), (59.6, "1:00"), (3599.7, "1:00:00"), (86400 * 9.6, "10 days")]
)
def test_durations_carry_over(seconds, shown):
    assert overview.duration(seconds) == shown


def test_the_board_prints_totals_in_a_log_only_when_a_state_has_changed(capsys):
    board = Board()
    lines = [Line("000", ("sgd",), 2, "running", 10, STEPS), Line("001", ("sgd",), 2, "waiting", 0, STEPS)]
    board.show(lines)
    board.show([Line("000", ("sgd",), 2, "running", 20, STEPS), lines[1]])
    board.show([Line("000", ("sgd",), 2, "finished", 20, STEPS), lines[1]])
    printed = capsys.readouterr().out.splitlines()
    assert [("1 running" in line, "1 finished" in line) for line in printed] == [(True, False), (False, True)]


@pytest.mark.parametrize("there", ["nothing", "a file", "an empty folder", "a damaged ledger"])
def test_a_workdir_that_is_none_is_one_message(tmp_path, there):
    workdir = tmp_path / "workdir"
    if there == "a file":
        workdir.write_text("")
    elif there != "nothing":
        workdir.mkdir()
    if there == "a damaged ledger":
        (workdir / "study.json").write_text("{")
    with pytest.raises(UserError, match="workdir"):
        standing.Standing(workdir).lines()


def test_on_a_terminal_the_table_stays_in_place_until_all_has_finished(tmp_path, monkeypatch):
    [folder] = study(tmp_path, 1)
    told(folder, "interrupted")
    screen, terminal = pty.openpty()
    flags.FLAGS.mark_as_parsed()
    with open(terminal, "w") as stdout, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", stdout)
        patched.setattr(time, "sleep", lambda _: told(folder, "finished"))
        assert status.main(["status", str(tmp_path)]) == 0
        shown = _read_until(screen, "1 finished", 1)
    os.close(screen)
    assert shown.index("1 stopped") < shown.index("\x1b[3F\x1b[J") < shown.index("1 finished")  # three lines erased


def test_ctrl_c_ends_the_table_and_nothing_else(tmp_path):
    study(tmp_path, 1)
    screen, terminal = pty.openpty()
    command = [sys.executable, "-m", "launch.status", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=terminal, stderr=subprocess.PIPE, stdin=terminal) as process:
        os.close(terminal)
        _read_until(screen, "1 waiting", 1)
        before = sorted(tmp_path.rglob("*"))
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60)[1] == b""
        assert process.returncode == 0
    os.close(screen)
    assert sorted(tmp_path.rglob("*")) == before


def _read_until(screen: int, text: str, times: int, seconds: float = 60.0) -> str:
    """What a terminal shows until it has shown a text so often."""
    shown, until = "", time.monotonic() + seconds
    while shown.count(text) < times:
        assert time.monotonic() < until, shown
        try:
            shown += os.read(screen, 4096).decode()
        except OSError:  # its other end was closed
            break
    assert shown.count(text) >= times, shown
    return shown
