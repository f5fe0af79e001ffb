"""The whole of swr_vit.gin, projected: the time of its steps and of its evaluations, and the memory they take.

On generated images of CIFAR-100's shape, at full size, under the executor that a run would choose. A projection is

    updates * seconds a step + evaluations * seconds of one on all classes * mean share of the classes shown

SWR's rare work comes once in 128 updates and is left out, as are logging and compiling.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch

from benchmarks.ours import Ours, Setting, populations
from benchmarks.timing import seconds
from lopbench.metrics import Evaluation
from lopbench.probing import measure
from lopbench.protocols import Stream
from lopbench.variants import planned_steps

GIN_FILE = "swr_vit.gin"
REPLICAS = (1, 5)
#: what torch may do with float32 products on a GPU: nothing, or round their factors to TF32 (which a run does not do)
PRECISIONS = {"float32": "highest", "TF32": "high"}
STEPS = 20


@dataclass(frozen=True)
class Projection:
    """One line of the table."""

    precision: str
    replicas: int
    executor: str
    step: float  #: seconds, the median of `STEPS`
    evaluation: float  #: seconds, on all classes
    memory: int | None  #: bytes at the peak; None on a CPU
    compiling: float  #: seconds until the first step has returned
    total: float  #: seconds of the whole run


def projections(setting: Setting) -> list[Projection]:
    """Every precision (on a CPU: float32 alone) with every number of replicas."""
    precisions = PRECISIONS if setting.device.type == "cuda" else {"float32": "highest"}
    return [
        _project(setting, precision, replicas)
        for precision in precisions
        for replicas in (REPLICAS[:1] if setting.quick else REPLICAS)
    ]


def _project(setting: Setting, precision: str, replicas: int) -> Projection:
    (population,) = populations(setting, GIN_FILE, replicas).values()
    with _multiplying(PRECISIONS[precision]), _peak_memory(setting.device) as peak:
        side = Ours(setting, population)
        compiling = seconds(partial(side.hot, 1))
        step = statistics.median(seconds(partial(side.hot, 1)) for _ in range(3 if setting.quick else STEPS))
        _evaluate(side)  # the first call loads kernels
        evaluation = seconds(partial(_evaluate, side))
    stream = population.stream
    total = _updates(stream) * step + _epochs(stream) * evaluation * _mean_share(stream)
    executor = f"{side.choice.executor}, {side.choice.threads}"
    return Projection(precision, replicas, executor, step, evaluation, peak.get("bytes"), compiling, total)


def _evaluate(side: Ours) -> None:
    """The evaluation at an epoch's end in the last task, in which all classes are shown."""
    metric = Evaluation(every="epoch_end", probe_size=None, probe_split=("test", "validation"))
    tasks = side.population.stream.tasks
    assert tasks is not None
    results = measure(side.population, side.state, [metric], tasks - 1)
    next(iter(results.values())).cpu()


def _updates(stream: Stream) -> int:
    return planned_steps(stream, None, None)


def _epochs(stream: Stream) -> int:
    assert stream.tasks is not None
    return sum(stream.task_length(task) // stream.epoch_length(task) for task in range(stream.tasks))


def _mean_share(stream: Stream) -> float:
    """The mean over tasks of the share of the classes that an evaluation looks at, which grow in equal parts."""
    assert stream.tasks is not None
    return (stream.tasks + 1) / (2 * stream.tasks)


@contextlib.contextmanager
def _multiplying(precision: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextlib.contextmanager
def _peak_memory(device: torch.device) -> Iterator[dict[str, int]]:
    """Fills in "bytes" at the end, on a GPU."""
    peak: dict[str, int] = {}
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    yield peak
    if device.type == "cuda":
        peak["bytes"] = torch.cuda.max_memory_allocated(device)


def table(found: list[Projection]) -> str:
    """The projections in Markdown."""
    head = ["precision", "replicas", "executor, threads", "a step (ms)", "steps a second", "an evaluation (s)"]
    head += ["memory (GiB)", "compile (s)", "whole run (h)"]
    lines = [head, ["---"] * 3 + ["---:"] * (len(head) - 3)]
    for each in found:
        memory = "" if each.memory is None else f"{each.memory / 2**30:.1f}"
        numbers = [f"{1e3 * each.step:.3g}", f"{1 / each.step:.3g}", f"{each.evaluation:.3g}"]
        lines.append(
            [
                each.precision,
                str(each.replicas),
                each.executor,
                *numbers,
                memory,
                f"{each.compiling:.0f}",
                f"{each.total / 3600:.3g}",
            ]
        )
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
