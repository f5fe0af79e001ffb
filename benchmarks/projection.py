"""The whole of swr_vit.gin, projected: the time of its steps and of its evaluations, and the memory they take.

On generated images of CIFAR-100's shape, under the executor that a run would choose. A projection is

    updates * seconds a step + evaluations * seconds of one on all classes * mean share of the classes shown

SWR's rare work comes once in 128 updates and is left out, as are logging and compiling.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks.matches import SMALL, VIT
from benchmarks.ours import Ours, Setting, one_population, peak_memory
from benchmarks.timing import seconds
from lopbench.metrics import Evaluation
from lopbench.precision import PRECISIONS, multiplying
from lopbench.probing import measure
from lopbench.protocols import Stream
from lopbench.variants import planned_steps

SPLITS = ("test", "validation")
#: On a CPU so many images of each split are looked at, for all of them.
SAMPLE = 50


@dataclass(frozen=True)
class Projection:
    """What the whole run would take."""

    precision: str
    replicas: int
    executor: str
    step: float  #: seconds, a median
    evaluation: float  #: seconds, on all classes
    memory: float | None  #: bytes at the peak, on a GPU
    compiling: float  #: seconds until the first step has returned
    total: float  #: seconds of the whole run


def projections(setting: Setting) -> list[Projection]:
    """Every precision with one replica and with five; on a CPU float32 and one."""
    if setting.device.type == "cpu":
        return [_project(setting, "float32", 1)]
    replicas = (1,) if setting.quick else (1, 5)
    return [_project(setting, precision, count) for precision in PRECISIONS for count in replicas]


def _project(setting: Setting, precision: str, replicas: int) -> Projection:
    on_cpu = setting.device.type == "cpu"
    bindings = [*(SMALL[VIT] if setting.quick else []), f"run.precision = '{precision}'"]
    population = one_population(setting, VIT, replicas, bindings)
    with peak_memory(population) as peak, multiplying(precision):
        side = Ours(setting, population)
        block = side.choice.block_steps
        compiling = seconds(partial(side.hot, block))
        calls = [seconds(partial(side.hot, block)) for _ in range(2 if on_cpu else 20)]
        _evaluate(side, SAMPLE)  # the first call loads kernels
        evaluation = seconds(partial(_evaluate, side, SAMPLE if on_cpu else None))
    step = statistics.median(calls) / block
    stream = population.stream
    if on_cpu:
        images = sum(stream.probe_count(split, _last_task(stream)) or 0 for split in SPLITS)
        evaluation *= images / (SAMPLE * len(SPLITS))
    total = planned_steps(stream, None, None) * step + _epochs(stream) * evaluation * _mean_share(stream)
    return Projection(precision, replicas, side.executor, step, evaluation, peak.get("bytes"), compiling, total)


def _evaluate(side: Ours, images: int | None) -> None:
    """The evaluation at an epoch's end in the last task, in which all classes are shown; None: on all images."""
    metric = Evaluation(every="epoch_end", probe_size=images, probe_split=SPLITS)
    results = measure(side.population, side.state, [metric], _last_task(side.population.stream))
    next(iter(results.values())).cpu()


def _last_task(stream: Stream) -> int:
    assert stream.tasks is not None
    return stream.tasks - 1


def _epochs(stream: Stream) -> int:
    return sum(stream.task_length(task) // stream.epoch_length(task) for task in range(_last_task(stream) + 1))


def _mean_share(stream: Stream) -> float:
    """The mean over tasks of the share of the classes that an evaluation looks at, which grow in equal parts."""
    tasks = _last_task(stream) + 1
    return (tasks + 1) / (2 * tasks)


HEADER = ["precision", "replicas", "executor, block, threads", "a step (ms)", "steps a second", "an evaluation (s)"]
HEADER += ["memory (GiB)", "compile (s)", "whole run (h)"]


def cells(found: Sequence[Projection]) -> list[list[str]]:
    """The lines of the table."""
    return [
        [
            each.precision,
            str(each.replicas),
            each.executor,
            f"{1e3 * each.step:.3g}",
            f"{1 / each.step:.3g}",
            f"{each.evaluation:.3g}",
            "" if each.memory is None else f"{each.memory / 2**30:.1f}",
            f"{each.compiling:.0f}",
            f"{each.total / 3600:.3g}",
        ]
        for each in found
    ]
