"""The parquet table: every record of a run in long form, the source of truth.

    metrics/part-000000.parquet, part-000001.parquet, ...

One row is one value of one replica. Columns: variant (dictionary of strings), replica, seed, step, task
(int64), tag (string), value (float64, NaN and infinities as they are), then one float64 column for each
hyperparameter that varies in the run, null where it is switched off or where a variant lacks it. The schema
is known when the run starts, so all parts share it and `pandas.read_parquet("metrics")` reads one table.

Row number n lies in part n // PART_ROWS. All parts but the last are full and never touched again; the last one
is rewritten whole, aside and renamed, each time rows are flushed. So a run that is killed leaves readable
parts that hold a gapless prefix of its rows, no row twice, and there is one file for each million rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lopbench import files
from lopbench.errors import UserError, require
from lopbench.loggers.records import Record, Replica, varying

PART_ROWS = 1 << 20


class Table:
    """Writes records to a folder of `workdir`, by default metrics; flushed when enough rows or seconds have gathered.

    `replicas`: all of the run. `rows`: how many rows to keep of those that are there; whatever follows them
    was written after the checkpoint that is resumed, and is removed (so a checkpoint stores `table.rows`
    after a flush). `clock` gives seconds.
    """

    def __init__(
        self,
        workdir: str | Path,
        replicas: Sequence[Replica],
        rows: int = 0,
        part_rows: int = PART_ROWS,
        flush_rows: int = 1 << 16,
        flush_seconds: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
        folder: str = "metrics",
    ) -> None:
        self.folder = files.make_folder(Path(workdir) / folder)
        self.schema = schema(replicas)
        self._variants = list(dict.fromkeys(replica.variant for replica in replicas))
        self._part_rows, self._flush_rows, self._flush_seconds = part_rows, flush_rows, flush_seconds
        self._clock, self._flushed_at = clock, clock()
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_rows = 0
        self._part = rows // part_rows  # the part that is being filled
        self._last = self._keep(rows)  # its rows
        self._on_disk = self._last.num_rows

    @property
    def rows(self) -> int:
        """How many rows were written so far, those not yet flushed included."""
        return self._part * self._part_rows + self._last.num_rows + self._waiting_rows

    def write(self, replicas: Sequence[Replica], records: Sequence[Record]) -> None:
        """Add one row for each record and replica."""
        if not records:
            return
        batch = self._batch(replicas, records)
        self._waiting.append(batch)
        self._waiting_rows += batch.num_rows
        if self._waiting_rows >= self._flush_rows or self._clock() - self._flushed_at >= self._flush_seconds:
            self.flush()

    def flush(self) -> None:
        """Put all rows on disk."""
        if self._waiting:
            self._last = pa.Table.from_batches([*self._last.to_batches(), *self._waiting], self.schema).combine_chunks()
            self._waiting, self._waiting_rows = [], 0
        while self._last.num_rows >= self._part_rows:
            self._write(self._last.slice(0, self._part_rows))
            self._part, self._last, self._on_disk = self._part + 1, self._last.slice(self._part_rows), 0
        if self._last.num_rows > self._on_disk:
            self._write(self._last)
            self._on_disk = self._last.num_rows
        self._flushed_at = self._clock()

    def close(self) -> None:
        """Put all rows on disk (of a run that has none, an empty table); nothing is held open."""
        self.flush()
        if not self.rows:
            self._write(self._last)

    def _write(self, rows: pa.Table) -> None:
        """Write `rows` as the part that is being filled."""
        sink = pa.BufferOutputStream()
        pq.write_table(rows, sink, compression="zstd")
        files.write_atomically(self._path(self._part), sink.getvalue().to_pybytes())

    def _path(self, part: int) -> Path:
        return self.folder / f"part-{part:06d}.parquet"

    def _batch(self, replicas: Sequence[Replica], records: Sequence[Record]) -> pa.RecordBatch:
        """The rows of `records`, replicas varying fastest."""
        for record in records:
            shape = np.shape(record.values)
            if shape != (len(replicas),):
                raise ValueError(f"{record.tag} has values of shape {shape} for {len(replicas)} replicas")

        def of_replica(values: list, type_: pa.DataType) -> pa.Array:  # repeated for each record
            return pa.array(values * len(records), type_)

        def of_record(values: list, type_: pa.DataType) -> pa.Array:
            return pa.array([value for value in values for _ in replicas], type_)

        codes = of_replica([self._variants.index(replica.variant) for replica in replicas], pa.int32())
        columns = [
            pa.DictionaryArray.from_arrays(codes, self._variants),
            of_replica([replica.index for replica in replicas], pa.int64()),
            of_replica([replica.seed for replica in replicas], pa.int64()),
            of_record([record.step for record in records], pa.int64()),
            of_record([record.task for record in records], pa.int64()),
            of_record([record.tag for record in records], pa.string()),
            pa.array(np.concatenate([np.asarray(record.values, np.float64) for record in records])),
        ]
        for name in self.schema.names[len(columns) :]:
            columns.append(of_replica([replica.hyper.get(name) for replica in replicas], pa.float64()))
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)

    def _keep(self, rows: int) -> pa.Table:
        """Cut what is on disk to the first `rows` rows of the run; those of the part that is being filled.

        Refuses before anything is removed; removes from the end, so that a prefix is there at any time.
        """
        kept = rows - self._part * self._part_rows
        for number in range(self._part):
            self._check(number, self._part_rows)
        last = self.schema.empty_table()
        if kept:
            self._check(self._part, kept)
            last = pq.read_table(self._path(self._part), schema=self.schema, partitioning=None).slice(0, kept)
        for path in sorted(self.folder.glob("part-*.parquet"), reverse=True):
            if int(path.stem.removeprefix("part-")) >= self._part + (kept > 0):
                files.remove(path)
        if kept:
            self._write(last)
        return last.combine_chunks()

    def _check(self, part: int, rows: int) -> None:
        """Refuse a part that is missing, damaged, too short or of another schema."""
        path = self._path(part)
        try:
            with pq.ParquetFile(path) as file:
                found, columns = file.metadata.num_rows, file.schema_arrow
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{path} is missing or damaged, so this run's results can't be continued.") from error
        require(found >= rows, f"{path} holds {found} rows where the checkpoint counts {rows}: it can't be continued.")
        require(
            columns.equals(self.schema),
            f"{path} has the columns {', '.join(columns.names)} and the run has {', '.join(self.schema.names)}: "
            "what varies is not what varied when it began, so its results can't be continued.",
        )


def schema(replicas: Sequence[Replica]) -> pa.Schema:
    """The one schema of a run (see this file's head)."""
    integers = [(name, pa.int64()) for name in ("replica", "seed", "step", "task")]
    hypers = [(name, pa.float64()) for name in varying(replicas)]
    variant = ("variant", pa.dictionary(pa.int32(), pa.string()))
    return pa.schema([variant, *integers, ("tag", pa.string()), ("value", pa.float64()), *hypers])
