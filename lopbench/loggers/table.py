"""The parquet table: every record of a run in long form, the source of truth.

    metrics/part-000000.parquet, part-000001.parquet, ...

One row is one value of one replica. Columns: variant (dictionary of strings), replica, seed, step, task
(int64), tag (string), value (float64, NaN and infinities as they are), then one column for everything that is swept
or varies in the run, float64, or string if some of its values are no numbers; null where it is switched off or where a
variant lacks it. The schema is known when the run starts, so all parts share it and `pandas.read_parquet("metrics")`
reads one table.

Row number n lies in part n // PART_ROWS. All parts but the last are full and never touched again; the last one
is rewritten whole, aside and renamed, each time rows are flushed. So a run that is killed leaves readable
parts that hold a gapless prefix of its rows, no row twice, and there is one file for each million rows.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lopbench import files
from lopbench.errors import UserError, require
from lopbench.loggers.records import Record, Replica, Value, holds_numbers, varying

PART_ROWS = 1 << 20
DIGEST = b"rows_sha256"  #: in a part's metadata: what `rows_digest` gives of its rows


class Table:
    """Writes records to a folder of `workdir`, by default metrics; flushed when enough rows or seconds have gathered.

    `replicas`: all of the run. `position`: what the property of that name gave after a flush: the rows to keep of those
    that are there; whatever follows them was written after the checkpoint that is resumed, and is removed. `clock`
    gives seconds.
    """

    def __init__(
        self,
        workdir: str | Path,
        replicas: Sequence[Replica],
        position: Mapping[str, Any] | None = None,
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
        self._waiting: list[tuple[Sequence[Replica], Sequence[Record]]] = []
        self._waiting_rows = 0
        kept = position or {"rows": 0, "parts": [], "last": None}
        self._parts: list[str] = list(kept["parts"])  # the digests of the parts that are full
        self._part = len(self._parts)  # the part that is being filled
        self._last = self._keep(kept["rows"] - self._part * part_rows, kept["last"])  # its rows
        self._on_disk = self._last.num_rows

    @property
    def rows(self) -> int:
        """How many rows were written so far, those not yet flushed included."""
        return self._part * self._part_rows + self._last.num_rows + self._waiting_rows

    @property
    def position(self) -> dict[str, Any]:
        """What is on disk, as JSON has it: how many rows, and digests: of each full part, of the last one's rows."""
        return {"rows": self.rows, "parts": self._parts, "last": rows_digest(self._last)}

    def write(self, replicas: Sequence[Replica], records: Sequence[Record]) -> None:
        """Add one row for each record and replica."""
        for record in records:
            shape = np.shape(record.values)
            if shape != (len(replicas),):
                raise ValueError(f"{record.tag} has values of shape {shape} for {len(replicas)} replicas")
        if not records:
            return
        self._waiting.append((replicas, records))  # arrow's first array imports pandas: not before the first step
        self._waiting_rows += len(records) * len(replicas)
        if self._waiting_rows >= self._flush_rows or self._clock() - self._flushed_at >= self._flush_seconds:
            self.flush()

    def flush(self) -> None:
        """Put all rows on disk."""
        if self._waiting:
            batches = [self._batch(replicas, records) for replicas, records in self._waiting]
            self._last = pa.Table.from_batches([*self._last.to_batches(), *batches], self.schema).combine_chunks()
            self._waiting, self._waiting_rows = [], 0
        while self._last.num_rows >= self._part_rows:
            full = self._last.slice(0, self._part_rows)
            self._write(full)
            self._parts = [*self._parts, rows_digest(full)]
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
        """Write `rows` as the part that is being filled, with their digest: the format's own checks miss some flips."""
        rows = rows.replace_schema_metadata({DIGEST: rows_digest(rows)})
        sink = pa.BufferOutputStream()
        pq.write_table(rows, sink, compression="zstd")
        files.write_atomically(self._path(self._part), sink.getvalue().to_pybytes())

    def _path(self, part: int) -> Path:
        return self.folder / f"part-{part:06d}.parquet"

    def _batch(self, replicas: Sequence[Replica], records: Sequence[Record]) -> pa.RecordBatch:
        """The rows of `records`, replicas varying fastest."""

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
            type_, values = self.schema.field(name).type, [replica.hyper.get(name) for replica in replicas]
            texts = [None if value is None else str(value) for value in values]
            columns.append(of_replica(texts if pa.types.is_string(type_) else values, type_))
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)

    def _keep(self, rows: int, digest: str | None) -> pa.Table:
        """Cut what is on disk to the full parts and the first `rows` of the next; these.

        Refuses before anything is removed; removes from the end, so that a prefix is there at any time.
        """
        for number, told in enumerate(self._parts):
            self._read(number, self._part_rows, told)
        last = self._read(self._part, rows, digest) if rows else pa.Table.from_batches([], self.schema)
        for path in reversed(files.files_in(self.folder)):
            later = part_number(path)
            if later is not None and later >= self._part + (rows > 0):
                files.remove(path)
        if rows:
            self._write(last)
        return last.combine_chunks()

    def _read(self, part: int, rows: int, digest: str | None) -> pa.Table:
        """The first rows of a part; refuses one that is missing, damaged, too short or of another schema."""
        path = self._path(part)
        try:
            found = pq.read_table(path, partitioning=None)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise UserError(f"{path} is missing or damaged, so this run's results can't be continued.") from error
        require(
            found.schema.equals(self.schema),
            f"{path} has the columns {', '.join(found.column_names)} and the run has {', '.join(self.schema.names)}: "
            "what varies is not what varied when it began, so its results can't be continued.",
        )
        count, found = found.num_rows, found.slice(0, rows)
        require(count >= rows, f"{path} holds {count} rows where the checkpoint counts {rows}: it can't be continued.")
        require(rows_digest(found) == digest, f"{path} is damaged: its rows are not those that were written.")
        return found


def part_number(path: Path) -> int | None:
    """The number of a part of a table, by its name; None: it is none."""
    name = re.fullmatch(r"part-(\d{6,})\.parquet", path.name)
    return int(name[1]) if name else None


def rows_digest(rows: pa.Table) -> str:
    """SHA-256 of what rows say, however they are stored."""
    digest = hashlib.sha256(f"{rows.num_rows} {rows.column_names}".encode())
    for column in rows.columns:
        values = column.combine_chunks()
        values = values.cast(pa.string()) if pa.types.is_dictionary(values.type) else values
        if pa.types.is_string(values.type):
            codes = values.dictionary_encode()
            digest.update("\0".join(codes.dictionary.to_pylist()).encode())
            values = codes.indices
        missing = values.is_null()
        digest.update(np.packbits(missing.to_numpy(zero_copy_only=False)).tobytes())
        digest.update(values.fill_null(0).to_numpy(zero_copy_only=False).tobytes())
    return digest.hexdigest()


def schema(replicas: Sequence[Replica]) -> pa.Schema:
    """The one schema of a run (see this file's head)."""
    integers = [(name, pa.int64()) for name in ("replica", "seed", "step", "task")]
    hypers = [(name, _type_of([replica.hyper.get(name) for replica in replicas])) for name in varying(replicas)]
    variant = ("variant", pa.dictionary(pa.int32(), pa.string()))
    return pa.schema([variant, *integers, ("tag", pa.string()), ("value", pa.float64()), *hypers])


def _type_of(values: Sequence[Value]) -> pa.DataType:
    return pa.float64() if holds_numbers(values) else pa.string()
