"""What a step has to do, counted, and what the machine can do, measured: so that a time can be said to be bound."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.timing import seconds
from lopbench.population import Population
from lopbench.probing import DEFAULT_THREADS

if TYPE_CHECKING:
    from benchmarks.ours import Ours


@dataclass(frozen=True)
class Work:
    """What a step of plain SGD does for all replicas."""

    operations: float  #: floating-point operations of the matrix products, forward and backward
    traffic: float  #: bytes that must be moved if nothing stays in a cache from one step to the next


def work_of(population: Population) -> Work:
    """Counted from one network's shapes, and multiplied by the replicas.

    Traffic: every parameter, gradient and entry of a momentum is read once and written once; the batch is read.
    """
    stream, batch = population.stream, getattr(population.stream, "batch_size", 1)
    module = copy.deepcopy(population.module).to("meta")
    inputs = torch.zeros(batch, *stream.problem.input_shape, device="meta")  # needs no gradient
    with FlopCounterMode(display=False) as counter:
        module(inputs)[0].sum().backward()
    parameters = sum(parameter.numel() for parameter in module.parameters())
    tensors = 3 if (population.hyper["optimizer"]["momentum"] != 0).any() else 2
    entry = 1 if stream.data and stream.data.inputs["train"].dtype == torch.uint8 else population.dtype.itemsize
    traffic = 2 * tensors * parameters * population.dtype.itemsize + inputs.numel() * entry
    return Work(population.replicas * counter.get_total_flops(), population.replicas * traffic)


def kernels_a_step(side: Ours) -> float | None:
    """How many kernels a hot step runs on a GPU, copies left out; None on a CPU."""
    if side.population.device.type != "cuda":
        return None
    steps = 10 * side.choice.block_steps
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        side.hot(steps)
    events = [event for event in profiler.events() or [] if event.device_type == DeviceType.CUDA]
    return sum(not event.name.startswith("Mem") for event in events) / steps


@dataclass(frozen=True)
class Peaks:
    """What the device did at best in this process."""

    operations: float  #: a second, in a product of large float32 matrices
    traffic: float  #: bytes a second, read and written, in a copy of a large tensor

    def bound(self, work: Work) -> tuple[float, str]:
        """The least seconds of a step, and what they would be bound by."""
        return max((work.operations / self.operations, "operations"), (work.traffic / self.traffic, "bytes"))


def peaks(device: torch.device) -> Peaks:
    """Measured on the number of threads that torch has by itself."""
    torch.set_num_threads(DEFAULT_THREADS)
    side, entries = (2048, 2**26) if device.type == "cpu" else (8192, 2**30)
    a, b = torch.rand(2, side, side, device=device)
    product = torch.empty_like(a)
    fastest = _fastest(lambda: torch.mm(a, b, out=product), device)
    source = torch.rand(entries, device=device)
    target = torch.empty_like(source)
    copying = _fastest(lambda: target.copy_(source), device)
    return Peaks(2 * side**3 / fastest, 2 * entries * source.element_size() / copying)


def _fastest(call: Callable[[], object], device: torch.device, times: int = 8) -> float:
    """Seconds of the fastest of some calls."""

    def finished() -> None:
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    best = math.inf
    for _ in range(times):
        best = min(best, seconds(finished))
    return best
