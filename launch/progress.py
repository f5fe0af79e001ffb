"""How far a run has come, from the newest rows of its results, which are read again only when they have changed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

RATE = "time/steps_per_second"  #: written once a window; its last row tells the step, and the rate until there


@dataclass(frozen=True)
class Reached:
    """`step`: updates of the population that `replica` belongs to; `rate`: of these, how many a second."""

    replica: int
    step: int
    rate: float


class Newest:
    """The newest rows of a run's metrics."""

    def __init__(self, run: str | Path) -> None:
        self._metrics = Path(run) / "metrics"
        self._seen: tuple[Path, int, int] | None = None
        self._reached: Reached | None = None

    def reached(self) -> Reached | None:
        """How far it has come as far as results were written (twice a minute); None: nothing is there yet."""
        import pyarrow as pa

        for path in reversed(self._parts()):
            try:
                status = path.stat()
                seen = (path, status.st_mtime_ns, status.st_size)
                if seen == self._seen:
                    break
                found = _last(path)
            except (OSError, ValueError, pa.ArrowException):  # gone since, or damaged: for those who read it to tell
                continue
            if found is not None:
                self._seen, self._reached = seen, found
                break
        return self._reached

    def _parts(self) -> list[Path]:
        from lopbench.loggers.table import part_number

        return sorted(path for path in self._metrics.glob("part-*.parquet") if part_number(path) is not None)


def _last(part: Path) -> Reached | None:
    """What the last row of a part that tells a rate says; None: none of its rows does."""
    import pyarrow.parquet as pq

    columns = ["replica", "step", "value"]
    rows = pq.read_table(part, columns=columns, filters=[("tag", "=", RATE)], partitioning=None)
    if not rows.num_rows:
        return None
    last = rows.slice(rows.num_rows - 1).to_pylist()[0]
    return Reached(int(last["replica"]), int(last["step"]), float(last["value"]))
