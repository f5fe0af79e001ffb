"""A report in TensorBoard: `tensorboard --logdir=WORKDIR` shows its figures, and each variant's mean with its band.

report/tensorboard/             the figures, under Images
report/tensorboard/VARIANT/     the mean over all seeds of a variant, in however many runs they are, and the bounds
                                of its interval, named as in the runs' own means (loggers/tensorboard.py)
"""

from __future__ import annotations

import io
import math
import struct
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lopbench import files

if TYPE_CHECKING:
    import pandas as pd
    from tensorboard.compat.proto.summary_pb2 import Summary

FOLDER = "tensorboard"
NAME = "events.out.tfevents.{:010.0f}.lopbench"


def write_board(report: Path, images: Mapping[str, bytes], tag: str, means: pd.DataFrame | None) -> None:
    """Write PNGs by name as `report/NAME`, and the curves of `tag` over steps, in place of an earlier report's.

    means: as `curves.curves` gives them; None: there are none yet.
    """
    earlier = [path for path in files.files_in(report / FOLDER) if path.name.startswith("events.out.tfevents.")]
    written = [_write(report / FOLDER, ((0, _image(name, png)) for name, png in images.items()))]
    if means is not None:
        from lopbench.loggers.tensorboard import folder_name, layout, unused

        taken: set[Path] = set()
        for variant, rows in means.groupby("variant", sort=False):
            folder = unused(report / FOLDER / folder_name(str(variant)), taken)
            written.append(_write(folder, [(0, layout([tag])), *_points(tag, rows)]))
    for old in set(earlier) - set(written):
        files.remove(old)


def _image(name: str, png: bytes) -> Summary:
    from tensorboard.compat.proto.summary_pb2 import Summary

    width, height = struct.unpack(">II", png[16:24])  # the PNG's header
    image = Summary.Image(height=height, width=width, colorspace=4, encoded_image_string=png)
    return Summary(value=[Summary.Value(tag=f"report/{name}", image=image)])


def _points(tag: str, rows: pd.DataFrame) -> Iterable[tuple[int, Summary]]:
    """Each point's step, its mean and, where it has them, its bounds."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    from lopbench.loggers.tensorboard import interval_tags

    for row in rows.itertuples():
        values = zip((tag, *interval_tags(tag)), (row.center, row.lower, row.upper), strict=True)
        found = [Summary.Value(tag=name, simple_value=value) for name, value in values if math.isfinite(value)]
        yield round(row.x), Summary(value=found)


def _write(folder: Path, summaries: Iterable[tuple[int, Summary]]) -> Path:
    """One event file with a summary at each step; its path."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    now = time.time()
    sink = io.BytesIO()
    records = RecordWriter(sink)
    records.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
    for step, summary in summaries:
        records.write(Event(wall_time=now, step=step, summary=summary).SerializeToString())
    path = files.make_folder(folder) / NAME.format(now)
    files.write_atomically(path, sink.getvalue())
    return path
