"""The progress line on a terminal and elsewhere, and the summary at the end."""

import io

import numpy as np
import torch

from lopbench.loggers.console import Progress, summary
from lopbench.loggers.manifest import Manifest
from lopbench.loggers.records import Record, Replica
from lopbench.loggers.table import Table

RATE = "optimizers.SGD.learning_rate"
REPLICAS = [Replica(i, "base", i) for i in range(4)]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def window(step: int, values, tag: str = "online/accuracy") -> Record:
    return Record(step, step // 100, tag, np.asarray(values, np.float64))


def test_a_log_file_gets_a_few_plain_lines():
    stream, now = io.StringIO(), [0.0]
    progress = Progress(2_000, stream, clock=lambda: now[0])
    for number, replicas in enumerate((REPLICAS[:2], REPLICAS[2:])):
        progress.start(["base"], 1_000, "2 replicas")
        for step in range(1, 1_001):
            now[0] = (1_000 * number + step) / 100
            progress.write(replicas, [window(step, [0.5 + number, np.nan]), window(step, np.ones(2), "online/loss")])
            progress.advance(step)
    progress.close()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 23
    assert lines[0] == lines[12] == "base: 1,000 steps; 2 replicas"
    assert lines[1] == "  1%  20/2,000 steps, 100 a second, 00:19 left; base: task 0, online/accuracy 0.5000"
    assert lines[17] == " 75%  1,500/2,000 steps, 100 a second, 00:05 left; base: task 5, online/accuracy 1.5000"
    assert lines[-1].startswith("100%  2,000/2,000 steps")
    assert "\r" not in stream.getvalue()


def test_a_resumed_run_estimates_from_its_own_speed():
    stream, now = io.StringIO(), [0.0]
    progress = Progress(1_000, stream, clock=lambda: now[0])
    progress.start(["base"], 400, "done already", done=400)
    progress.start(["swr"], 600, "goes on", done=100)
    now[0] = 10.0
    progress.advance(200)
    lines = stream.getvalue().splitlines()
    assert lines[2:] == [" 60%  600/1,000 steps, 10 a second, 00:40 left"]


def test_a_terminal_gets_one_bar_over_all_populations():
    stream = Terminal()
    progress = Progress(200, stream)
    for population in (REPLICAS[:2], REPLICAS[2:]):
        progress.start(["base"], 100, "2 replicas")
        progress.write(population, [window(100, [0.25, 0.75], "online/loss")])
        progress.advance(100)
    progress.close()
    assert stream.getvalue().count("\n") == 3  # two announcements, and the bar's end
    last = stream.getvalue().rpartition("\r")[2]
    assert "100%" in last
    assert "200/200" in last
    assert "base: task 1, online/loss 0.5000" in last


def test_many_variants_are_counted_not_listed():
    stream = io.StringIO()
    progress = Progress(1, stream, clock=lambda: 0.0)
    replicas = [Replica(i, f"variant_{i}", 0) for i in range(20)]
    progress.write(replicas, [window(1, np.zeros(20))])
    progress.advance(1)
    assert "20 variants: task 0, online/accuracy 0.0000" in stream.getvalue()


def test_the_summary_compares_first_and_last_task_and_names_the_frozen(tmp_path):
    replicas = [Replica(i, "base", 10 + i, {RATE: 0.1}) for i in range(4)] + [Replica(4, "swr", 0)]
    table = Table(tmp_path, replicas)
    table.write(
        replicas,
        [
            Record(10, 0, "task/online_accuracy", np.array([0.9, 0.8, 0.7, 0.6, 0.5])),
            Record(20, 1, "task/online_accuracy", np.array([0.3, 0.3, 0.3, 0.3, 0.4])),
            Record(30, 2, "task/online_accuracy", np.array([0.1, 0.2, 0.3, np.nan, 0.0])),
            Record(30, 2, "online/accuracy", np.full(5, 0.99)),
        ],
    )
    table.close()
    Manifest(tmp_path, [], torch.device("cpu"), {}).update(frozen_replicas={"3": 1025})
    lines = summary(tmp_path).splitlines()
    # t(0.975, 3) = 3.18245, s = sqrt(1/60); t(0.975, 2) = 4.30265, s = 0.1
    assert lines[1].split() == ["variant", "replicas", "first", "task", "last", "task"]
    assert lines[2] == "base     3 of 4    0.7500 ± 0.2054 (task 0)  0.2000 ± 0.2484 (task 2)"
    assert lines[3] == "swr      1         0.5000 (task 0)           0.0000 (task 2)"
    assert lines[-1] == "Frozen when it turned non-finite: base, seed 13, after 1,025 updates."
    assert len(lines) == 6  # no table for the loss, which this run has not


def test_the_summary_of_a_run_without_a_finished_task_is_empty(tmp_path):
    table = Table(tmp_path, REPLICAS)
    table.write(REPLICAS, [window(1, np.ones(4))])
    table.close()
    assert summary(tmp_path) == ""
