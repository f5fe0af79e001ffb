"""The parquet table: one schema, one table, whole at any time, cut back to a row on resume."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from lopbench.analysis.results import COLUMNS, load
from lopbench.errors import UserError
from lopbench.loggers.records import Record, Replica
from lopbench.loggers.table import Table

RATE, FACTOR = "optimizers.SGD.learning_rate", "strategies.SelectiveWeightReinit.reinit_factor"
REPLICAS = [
    Replica(0, "base", 7, {RATE: 0.1}),
    Replica(1, "base", 8, {RATE: 0.1}),
    Replica(2, "swr", 7, {RATE: 0.01, FACTOR: 0.5}),
    Replica(3, "swr", 7, {RATE: 0.01, FACTOR: None}),
]


def stopped() -> float:
    return 0.0


def records(step: int, size: int) -> list[Record]:
    values = step + np.arange(size) / 10
    return [Record(step, step // 3, "online/loss", values), Record(step, step // 3, "online/accuracy", -values)]


def write(table: Table, steps: range) -> None:
    for step in steps:
        table.write(REPLICAS, records(step, 4))


def parts(workdir) -> list[str]:
    return sorted(os.listdir(workdir / "metrics"))


def test_a_column_holds_texts_if_some_of_its_values_are_no_numbers(tmp_path):
    """And a run that goes on finds the same columns again."""
    activation, width, norm = "architectures.MLP.activation", "architectures.MLP.width", "architectures.MLP.layer_norm"
    replicas = [
        Replica(0, "a", 0, {activation: "relu", width: 5, norm: None}),
        Replica(1, "b", 0, {activation: "tanh", width: 6.5, norm: True}),
        Replica(2, "c", 0),
    ]
    table = Table(tmp_path, replicas, clock=stopped)
    table.write(replicas, [Record(1, 0, "online/loss", np.zeros(3))])
    table.close()
    Table(tmp_path, replicas, position=table.position, clock=stopped).close()
    rows = pq.read_table(tmp_path / "metrics").to_pydict()
    assert rows[activation] == ["relu", "tanh", None]
    assert rows[norm] == [None, "True", None]
    assert rows[width] == [5.0, 6.5, None]
    assert load(tmp_path)[activation].isna().tolist() == [False, False, True]


def test_pandas_reads_one_long_table(tmp_path):
    table = Table(tmp_path, REPLICAS, clock=stopped)
    table.write(REPLICAS[:2], [Record(1, 0, "online/loss", np.array([1.0, np.nan]))])
    table.write(REPLICAS[2:], [Record(2, 1, "task/online_loss", np.array([np.inf, 4.0]))])
    table.close()
    frame = pd.read_parquet(tmp_path / "metrics")
    assert list(frame.columns) == [*COLUMNS, RATE, FACTOR]
    assert list(frame["variant"]) == ["base", "base", "swr", "swr"]
    assert list(frame["tag"]) == ["online/loss", "online/loss", "task/online_loss", "task/online_loss"]
    expected = {
        "replica": [0, 1, 2, 3],
        "seed": [7, 8, 7, 7],
        "step": [1, 1, 2, 2],
        "task": [0, 0, 1, 1],
        "value": [1.0, np.nan, np.inf, 4.0],
        RATE: [0.1, 0.1, 0.01, 0.01],
        FACTOR: [np.nan, np.nan, 0.5, np.nan],
    }
    for column, values in expected.items():
        np.testing.assert_array_equal(frame[column], values, err_msg=column)
        assert frame[column].dtype == (np.int64 if column in ("replica", "seed", "step", "task") else np.float64)
    pd.testing.assert_frame_equal(load(tmp_path), frame)


def test_null_means_no_value_and_nan_is_a_value(tmp_path):
    table = Table(tmp_path, REPLICAS, clock=stopped)
    table.write(REPLICAS, [Record(0, 0, "online/loss", np.full(4, np.nan))])
    table.close()
    columns = pq.read_table(tmp_path / "metrics")
    assert columns["value"].null_count == 0
    assert columns[FACTOR].null_count == 3


def test_values_of_another_length_than_the_population_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"online/loss has values of shape \(3,\) for 4 replicas"):
        Table(tmp_path, REPLICAS).write(REPLICAS, [Record(0, 0, "online/loss", np.zeros(3))])


def test_rows_are_on_disk_once_enough_have_gathered(tmp_path):
    table = Table(tmp_path, REPLICAS, flush_rows=16, clock=stopped)
    write(table, range(1))
    assert parts(tmp_path) == []
    write(table, range(1, 2))
    assert len(load(tmp_path)) == 16


def test_rows_are_on_disk_once_enough_seconds_have_passed(tmp_path):
    now = [0.0]
    table = Table(tmp_path, REPLICAS, flush_seconds=30, clock=lambda: now[0])
    write(table, range(1))
    assert parts(tmp_path) == []
    now[0] = 30.0
    write(table, range(1, 2))
    assert len(load(tmp_path)) == 16
    now[0] = 59.0
    write(table, range(2, 3))
    assert len(load(tmp_path)) == 16
    now[0] = 60.0
    write(table, range(3, 4))
    assert len(load(tmp_path)) == 32


def test_the_number_of_parts_depends_on_the_rows_alone_not_on_how_often_they_are_flushed(tmp_path):
    table = Table(tmp_path, REPLICAS, part_rows=50, clock=stopped)
    for step in range(40):  # 320 rows
        write(table, range(step, step + 1))
        table.flush()
    assert parts(tmp_path) == [f"part-{part:06d}.parquet" for part in range(7)]
    assert [pq.read_metadata(tmp_path / "metrics" / name).num_rows for name in parts(tmp_path)] == [50] * 6 + [20]
    frame = load(tmp_path)
    np.testing.assert_array_equal(frame["step"], np.repeat(np.arange(40), 8))
    schemas = [pq.read_schema(tmp_path / "metrics" / name) for name in parts(tmp_path)]
    assert all(schema.equals(table.schema) for schema in schemas)


def test_a_failed_flush_loses_nothing(tmp_path):
    table = Table(tmp_path, REPLICAS, part_rows=10, clock=stopped)
    write(table, range(3))
    (tmp_path / "metrics").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="its folder does not exist"):
        table.flush()
    assert table.rows == 24
    (tmp_path / "elsewhere").rename(tmp_path / "metrics")
    table.close()
    np.testing.assert_array_equal(load(tmp_path)["step"], np.repeat(np.arange(3), 8))


@pytest.mark.parametrize("kept_steps", [0, 3, 5, 10, 13])
def test_a_resumed_table_equals_one_never_stopped(tmp_path, kept_steps):
    whole = Table(tmp_path / "whole", REPLICAS, part_rows=40, clock=stopped)
    write(whole, range(20))
    whole.close()
    table = Table(tmp_path / "resumed", REPLICAS, part_rows=40, clock=stopped)
    write(table, range(kept_steps))
    table.flush()
    rows, position = table.rows, json.loads(json.dumps(table.position))
    write(table, range(kept_steps, 16))  # after the checkpoint; the run is then killed
    table.flush()
    table = Table(tmp_path / "resumed", REPLICAS, position=position, part_rows=40, clock=stopped)
    assert table.position == position
    assert table.rows == rows == kept_steps * 8
    if rows:
        assert len(load(tmp_path / "resumed")) == rows
    write(table, range(kept_steps, 20))
    table.close()
    assert parts(tmp_path / "resumed") == parts(tmp_path / "whole")
    pd.testing.assert_frame_equal(load(tmp_path / "resumed"), load(tmp_path / "whole"))


def test_what_can_not_be_continued_is_refused_and_left_alone(tmp_path):
    table = Table(tmp_path, REPLICAS, part_rows=40, clock=stopped)
    write(table, range(12))
    table.close()
    position = table.position
    with pytest.raises(UserError, match="holds 16 rows where the checkpoint counts 20"):
        Table(tmp_path, REPLICAS, position={**position, "rows": 100}, part_rows=40)
    with pytest.raises(UserError, match="what varies"):
        Table(tmp_path, REPLICAS[:2], position=position, part_rows=40)
    second = tmp_path / "metrics" / "part-000001.parquet"
    second.write_bytes(second.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"part-000001\.parquet is missing or damaged"):
        Table(tmp_path, REPLICAS, position=position, part_rows=40)
    assert len(parts(tmp_path)) == 3


def test_rows_that_are_not_those_that_were_written_are_refused(tmp_path):
    """Flipped bits that the file format itself does not notice, among others."""
    table = Table(tmp_path, REPLICAS, part_rows=40, clock=stopped)
    write(table, range(7))
    table.close()
    for name in ("part-000000.parquet", "part-000001.parquet"):
        path = tmp_path / "metrics" / name
        whole = path.read_bytes()
        for place in range(4, len(whole), len(whole) // 40):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            try:
                again = Table(tmp_path, REPLICAS, position=table.position, part_rows=40)
            except UserError as error:
                assert name in error.message
            else:  # of what a file says of itself not everything matters
                assert again.position == table.position
        path.write_bytes(whole)


def test_files_of_others_are_left_alone(tmp_path):
    table = Table(tmp_path, REPLICAS, part_rows=40, clock=stopped)
    write(table, range(7))
    table.flush()
    backup = tmp_path / "metrics" / "part-000000-backup.parquet"
    backup.write_bytes((tmp_path / "metrics" / "part-000000.parquet").read_bytes())
    Table(tmp_path, REPLICAS, position=table.position, part_rows=40).close()
    assert backup.exists() and len(load(tmp_path)) == 7 * 8


WRITER = """
import sys
import numpy as np
from lopbench.loggers.records import Record, Replica
from lopbench.loggers.table import Table

replicas = [Replica(0, "base", 0), Replica(1, "base", 1)]
table = Table(sys.argv[1], replicas, part_rows=100, flush_rows=6)
for step in range(10**9):
    table.write(replicas, [Record(step, 0, "online/loss", np.full(2, float(step)))])
    if step == 200:
        print("well under way", flush=True)
"""


def test_killed_in_the_middle_every_row_flushed_is_readable_once(tmp_path):
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, cwd=os.getcwd())
    try:
        assert writer.stdout.readline() == b"well under way\n"
    finally:
        writer.kill()
        writer.wait()
        writer.stdout.close()
    frame = load(tmp_path)
    assert len(frame) >= 396  # whole flushes of the 402 rows that were written by then
    assert len(frame) % 6 == 0 or len(frame) % 100 == 0  # killed between a full part and the next
    steps = np.arange(len(frame)) // 2
    np.testing.assert_array_equal(frame["step"], steps)
    np.testing.assert_array_equal(frame["value"], steps)


def test_a_run_without_rows_leaves_an_empty_table(tmp_path):
    Table(tmp_path, REPLICAS).close()
    frame = load(tmp_path)
    assert list(frame.columns) == [*COLUMNS, RATE, FACTOR]
    assert len(frame) == 0


def test_no_results_is_said_in_a_sentence(tmp_path):
    with pytest.raises(UserError, match="There are no results"):
        load(tmp_path)
