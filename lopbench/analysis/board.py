"""A report's figures as images in TensorBoard: `tensorboard --logdir=WORKDIR` shows them under Images."""

from __future__ import annotations

import io
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from lopbench import files

FOLDER = "tensorboard"
NAME = "events.out.tfevents.{:010.0f}.lopbench"


def write_images(report: Path, images: Mapping[str, bytes]) -> Path:
    """Write PNGs by name, as `report/NAME`, into one event file, in place of an earlier report's; its path."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    now = time.time()
    sink = io.BytesIO()
    records = RecordWriter(sink)
    records.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
    for name, png in images.items():
        width, height = struct.unpack(">II", png[16:24])  # the PNG's header
        image = Summary.Image(height=height, width=width, colorspace=4, encoded_image_string=png)
        value = Summary.Value(tag=f"report/{name}", image=image)
        records.write(Event(wall_time=now, step=0, summary=Summary(value=[value])).SerializeToString())
    folder = files.make_folder(report / FOLDER)
    earlier = list(folder.glob("events.out.tfevents.*"))
    path = folder / NAME.format(now)
    files.write_atomically(path, sink.getvalue())
    for old in earlier:
        if old != path:
            files.remove(old)
    return path
