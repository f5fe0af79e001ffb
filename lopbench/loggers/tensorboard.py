"""TensorBoard: curves for looking at; the parquet table holds every value exactly.

    tensorboard/<variant>/<what varies>/seed_003    one run a replica: with all tags up to `max_replica_runs` a variant
    tensorboard/<variant>/<what varies>/mean        the mean over a point's seeds, and its 95% interval

(`<what varies>`, such as `learning_rate=0.01,reinit_factor=off`, is left out where nothing varies.) In a `mean`
run `task/online_accuracy` is the mean, and the bounds of its interval (Student's t, from three replicas on)
are `task_interval/online_accuracy.lower` and `.upper`: a group of their own, so that the group `task` overlays
replicas and mean under one name. The custom scalars page draws the headline tags as mean and band. The other replicas,
`max_hparams_runs` of them, have runs with their hyperparameters and the headline tags alone, so that the hparams page
is one table of all replicas.

Values that are not finite are left out: of a replica's run, and of the mean. Tags of the group `task` are
written in full; of each other tag at most `max_points` points: the first record in each of `max_points` equal
stretches of steps. A scalar costs about 12 microseconds, so 50 runs with 10 full curves cost 6 seconds. A mean is
written once all its seeds have arrived. Classic scalars are float32. The page itself thins to 1,000 points a tag
unless started with `tensorboard --samples_per_plugin=scalars=0`.
"""

from __future__ import annotations

import io
import math
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as custom_scalar
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams import metadata as hparams
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionStartInfo
from tensorboard.plugins.text import metadata as text
from tensorboard.summary.writer.record_writer import RecordWriter

from lopbench import files
from lopbench.analysis.intervals import student_interval
from lopbench.loggers.records import Point, Record, Replica, by_point, describe, distinguishing, holds_numbers, varying

HEADLINE = ("task/online_accuracy", "task/online_loss")


class TensorBoard:
    """Writes runs under `workdir`/tensorboard (see this file's head).

    `replicas`: all of the run; where a variant has more than `max_replica_runs`, each of its points shows as
    many of its first seeds in full, and of those that are left the first `max_hparams_runs` of the run are on the
    hparams page. `total_steps`: the updates a replica will make, for the thinning. `headline`: the
    tags shown on the custom scalars and hparams pages. `position`: when a run goes on, what the property of that name
    gave after a flush; whatever was written later is cut off, for it is written again. Files are appended to every
    `flush_seconds` of `clock`. There is one file a run, however often it is resumed.
    """

    def __init__(
        self,
        workdir: str | Path,
        replicas: Sequence[Replica],
        total_steps: int,
        max_replica_runs: int = 16,
        max_hparams_runs: int = 1_000,
        max_points: int = 1_000,
        headline: Sequence[str] = HEADLINE,
        position: Mapping[str, Any] | None = None,
        flush_seconds: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._headline = frozenset(headline)
        self._stride = -(-(total_steps + 1) // max_points)
        self._flush_seconds, self._clock, self._flushed_at = flush_seconds, clock, clock()
        begun = position or {"files": {}, "strides": []}
        self._written = {(population, tag): stride for population, tag, stride in begun["strides"]}
        self._gathering: dict[tuple[Point, str, int], list[float]] = {}  # of some seeds of a point
        self._complete: list[tuple[tuple[Point, str, int], np.ndarray]] = []  # of all of them
        self._seeds = {point: len(members) for point, members in by_point(replicas).items()}
        self._root = Path(workdir) / "tensorboard"
        self._runs: dict[str, _Run] = {}
        self._means: dict[Point, _Run] = {}
        self._replicas: dict[int, _Run] = {}
        shown = _shown(replicas, max_replica_runs)
        self._brief = set(_left(replicas, shown)[:max_hparams_runs])
        columns = _columns(replicas)
        charts = layout(headline)
        taken: set[Path] = set()
        naming = distinguishing(by_point(replicas))
        for point, members in by_point(replicas).items():
            folder = Path(folder_name(point[0]))
            folder = unused(folder / folder_name(describe(point, naming, between=",")), taken)
            self._means[point] = self._run(folder / "mean", begun["files"], charts)
            for replica in (replicas[member] for member in members):
                if replica.index in shown | self._brief:
                    own = unused(folder / f"seed_{replica.seed:03d}", taken)
                    start = _session_start(replica, columns, headline)
                    self._replicas[replica.index] = self._run(own, begun["files"], charts, *start)
                    self._replicas[replica.index].forced = replica.index in shown

    def _run(self, folder: Path, begun: Mapping[str, tuple[str, int]], *head: Summary) -> _Run:
        """The run in a folder below tensorboard: begun with `head`, or gone on with."""
        run = _Run(self._root / folder, begun.get(folder.as_posix()))
        self._runs[folder.as_posix()] = run
        if not run.resumed:
            run.add(*head)
        return run

    def texts(self, texts: Mapping[str, str]) -> None:
        """Show texts by name, such as the run's config.gin, verbatim, in every `mean` run that does not have them."""
        for run in self._means.values():
            if not run.resumed:
                run.add(*(_text(name, content) for name, content in texts.items()))

    @property
    def position(self) -> dict[str, Any]:
        """How far it is written, as JSON has it: each run's file and its size, and the points taken of the curves."""
        return {
            "files": {folder: [run.path.name, run.bytes] for folder, run in self._runs.items()},
            "strides": [[population, tag, stride] for (population, tag), stride in self._written.items()],
        }

    def write(self, replicas: Sequence[Replica], records: Sequence[Record]) -> None:
        """Add the records that are due to the runs of these replicas."""
        due = [record for record in records if self._due(replicas[0].index, record)]
        for point, members in by_point(replicas).items():
            for step in dict.fromkeys(record.step for record in due):
                together = [record for record in due if record.step == step]
                for member in members:
                    index = replicas[member].index
                    if index in self._replicas:
                        own = together if index not in self._brief else self._of_headline(together)
                        self._replicas[index].scalars(step, {record.tag: record.values[member] for record in own})
                for record in together:
                    self._gather(point, record, record.values[members])
        if self._clock() - self._flushed_at >= self._flush_seconds:
            self.flush()

    def flush(self) -> None:
        """Append what has gathered to the event files."""
        self._write_means()
        for run in self._runs.values():
            run.flush()
        self._flushed_at = self._clock()

    def sync(self) -> None:
        """Append what has gathered, and force it to disk: so a power cut takes nothing that a checkpoint counts.

        But for the runs with the hyperparameters alone: to force a thousand small files takes seconds each time. Of
        these a power cut may take points; such a run then begins anew where the training goes on.
        """
        self.flush()
        for run in self._runs.values():
            if run.forced:
                run.sync()

    def close(self) -> None:
        """Append what has gathered; nothing is held open."""
        self.flush()

    def _due(self, population: int, record: Record) -> bool:
        """Whether a record is the first of its stride of steps (those of tasks are always due).

        `population` is the index of its first replica.
        """
        if record.tag.startswith("task/"):
            return True
        curve, stride = (population, record.tag), record.step // self._stride
        if self._written.get(curve) == stride:
            return False
        self._written[curve] = stride
        return True

    def _of_headline(self, records: Sequence[Record]) -> list[Record]:
        return [record for record in records if record.tag in self._headline]

    def _gather(self, point: Point, record: Record, values: np.ndarray) -> None:
        """Let a mean be written once all seeds of its point have arrived, from however many populations."""
        key = (point, record.tag, record.step)
        gathered = self._gathering.setdefault(key, [])
        gathered.extend(values)
        if len(gathered) >= self._seeds[point]:
            self._complete.append((key, np.asarray(self._gathering.pop(key))))

    def _write_means(self) -> None:
        """Write what has gathered of all seeds; not before a flush, as what intervals take is long to import."""
        for (point, tag, step), values in self._complete:
            mean, half = map(float, student_interval(values))
            lower, upper = interval_tags(tag)
            self._means[point].scalars(step, {tag: mean, lower: mean - half, upper: mean + half})
        self._complete = []


class _Run:
    """One run directory: events gather in memory and are appended to its one file, which is never held open.

    `kept`: the name of the file to go on with, and how many of its bytes; None: a new one begins. The file is cut in
    place, and what follows has the length of what was cut off, being of the same tags and steps: so a TensorBoard that
    is looking on, and has read further, just waits until the file is that long again.
    """

    def __init__(self, folder: Path, kept: tuple[str, int] | None) -> None:
        files.make_folder(folder)
        self.resumed = kept is not None and _cut(folder / kept[0], kept[1])
        name, self.bytes = kept if kept and self.resumed else (f"events.out.tfevents.{time.time():010.0f}.lopbench", 0)
        self.path = folder / name
        self.forced = True  #: whether it is to be forced to disk
        self._synced = 0  # of these bytes, those that are on disk for sure
        self._waiting = io.BytesIO()
        self._records = RecordWriter(self._waiting)
        if not self.resumed:
            self._event(file_version="brain.Event:2")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One event with the values that are finite."""
        scalars = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items() if math.isfinite(value)]
        if scalars:
            self._event(step=step, summary=Summary(value=scalars))

    def add(self, *summaries: Summary) -> None:
        for summary in summaries:
            self._event(summary=summary)

    def _event(self, **content: object) -> None:
        self._records.write(Event(wall_time=time.time(), **content).SerializeToString())

    def flush(self) -> None:
        if self._waiting.tell():
            files.append(self.path, self._waiting.getvalue())
            self.bytes += self._waiting.tell()
            self._waiting.seek(0)
            self._waiting.truncate()

    def sync(self) -> None:
        if self.bytes > self._synced:
            files.sync(self.path)
            self._synced = self.bytes


def _cut(path: Path, length: int) -> bool:
    """Cut a file to its first bytes; one that has not so many is removed, with a word on stderr, and False."""
    if path.exists() and path.stat().st_size >= length:
        files.truncate(path, length)
        return True
    files.remove(path)
    print(f"{path} has lost earlier points, and its curves begin here. All values are in metrics/.", file=sys.stderr)
    return False


def interval_tags(tag: str) -> tuple[str, str]:
    """The tags of a mean's lower and upper bound: `task/x` gives `task_interval/x.lower` and `.upper`."""
    group, _, name = tag.partition("/")
    return f"{group}_interval/{name}.lower", f"{group}_interval/{name}.upper"


def _shown(replicas: Sequence[Replica], most: int) -> set[int]:
    """The indices of the replicas that get a run: of each variant up to `most`, its points' first seeds first."""
    rank = {i: rank for members in by_point(replicas).values() for rank, i in enumerate(members)}
    shown: set[int] = set()
    for variant in dict.fromkeys(replica.variant for replica in replicas):
        mine = [i for i, replica in enumerate(replicas) if replica.variant == variant]
        shown.update(replicas[i].index for i in sorted(mine, key=rank.__getitem__)[:most])
    return shown


def _left(replicas: Sequence[Replica], shown: set[int]) -> list[int]:
    """The indices of the other replicas: the first seeds of all points, then the next of each."""
    rank = {i: rank for members in by_point(replicas).values() for rank, i in enumerate(members)}
    left = [i for i, replica in enumerate(replicas) if replica.index not in shown]
    return [replicas[i].index for i in sorted(left, key=rank.__getitem__)]


def folder_name(name: str) -> str:
    """`name` with whatever a file system or TensorBoard's run filter might take amiss replaced."""
    return re.sub(r"[^\w.,=+-]", "_", name)


def unused(folder: Path, taken: set[Path]) -> Path:
    """`folder`, or where two would share a name, one with a number after it; noted in `taken`."""
    number, free = 1, folder
    while free in taken:
        number, free = number + 1, folder.with_name(f"{folder.name}_{number + 1}")
    taken.add(free)
    return free


def layout(headline: Sequence[str]) -> Summary:
    """The custom scalars page: each headline tag as a mean with its band."""
    charts = []
    for tag in headline:
        lower, upper = interval_tags(tag)
        series = layout_pb2.MarginChartContent.Series(value=tag, lower=lower, upper=upper)
        charts.append(layout_pb2.Chart(title=tag, margin=layout_pb2.MarginChartContent(series=[series])))
    page = layout_pb2.Layout(category=[layout_pb2.Category(title="mean and 95% interval", chart=charts)])
    metadata = custom_scalar.create_summary_metadata()
    return _tensor(custom_scalar.CONFIG_SUMMARY_TAG, metadata, page.SerializeToString())


def _text(name: str, content: str) -> Summary:
    """A text shown verbatim: Markdown leaves lines alone that start with four spaces."""
    verbatim = "\n".join("    " + line for line in content.splitlines())
    return _tensor(f"config/{name}", text.create_summary_metadata(display_name="", description=""), verbatim.encode())


def _tensor(tag: str, metadata: SummaryMetadata, content: bytes) -> Summary:
    tensor = TensorProto(dtype=DT_STRING, string_val=[content])
    return Summary(value=[Summary.Value(tag=tag, metadata=metadata, tensor=tensor)])


def _columns(replicas: Sequence[Replica]) -> dict[str, bool]:
    """The columns of the hparams page for what varies, and whether each holds numbers; if not, it holds texts."""
    return {name: holds_numbers(replica.hyper.get(name) for replica in replicas) for name in varying(replicas)}


def _session_start(replica: Replica, columns: Mapping[str, bool], headline: Sequence[str]) -> tuple[Summary, Summary]:
    """What the hparams page needs at the start: the run's columns (alike in all runs), and this replica's values.

    What is switched off is "off" in a column of texts, and has no value in one of numbers.
    """
    number, string = api_pb2.DATA_TYPE_FLOAT64, api_pb2.DATA_TYPE_STRING
    types = {"variant": string, "seed": number} | {name: number if own else string for name, own in columns.items()}
    experiment = api_pb2.Experiment(
        hparam_infos=[api_pb2.HParamInfo(name=name, type=type_) for name, type_ in types.items()],
        metric_infos=[api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag)) for tag in headline],
    )
    session = SessionStartInfo(start_time_secs=time.time())
    session.hparams["variant"].string_value = replica.variant
    session.hparams["seed"].number_value = replica.seed
    for name, value in replica.hyper.items():
        if not columns[name]:
            session.hparams[name].string_value = "off" if value is None else str(value)
        elif isinstance(value, int | float):
            session.hparams[name].number_value = value
    return (
        _hparams(hparams.EXPERIMENT_TAG, HParamsPluginData(experiment=experiment)),
        _hparams(hparams.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=session)),
    )


def _hparams(tag: str, content: HParamsPluginData) -> Summary:
    metadata = hparams.create_summary_metadata(content)
    return Summary(value=[Summary.Value(tag=tag, metadata=metadata, tensor=hparams.NULL_TENSOR)])
