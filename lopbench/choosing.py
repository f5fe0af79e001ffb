"""Which executor a population gets: by rules on sizes, with the reason; and what a machine must have for it."""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lopbench.errors import UserError, require
from lopbench.events import Events
from lopbench.executors import Looped, Stacked
from lopbench.population import Population
from lopbench.probing import DEFAULT_THREADS, evaluation_mode

EXECUTORS = ("auto", "eager", "compiled", "captured")

#: Fewer steps than this, with fewer multiply-adds in all their forward passes, are not worth the time of compiling.
COMPILE_FROM_STEPS = 4000
COMPILE_FROM_WORK = 4e12
#: So many steps with rare work are worth compiling; it takes the longer the more tensors are reinitialised.
COMPILE_EVENTS_FROM, COMPILE_EVENTS_FROM_A_TENSOR = 200, 50
#: From so many multiply-adds in the forward pass of one call on, a CPU's cores share the work.
THREADS_FROM_WORK = 5_000_000
#: On a CPU as many replicas go through a block together as these bytes hold: their parameters, gradients and new
#: parameters, and a batch. More of them push each other out of the processor's caches.
CACHE_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Choice:
    """How a population is run: its blocks, of how many steps, how many replicas together, on how many threads; why."""

    executor: str
    block_steps: int
    together: int
    threads: int
    reason: str
    compiled_events: bool

    @classmethod
    def of(cls, told: Mapping[str, Any], path: Path) -> Choice:
        """The choice that the file at `path` tells of."""
        try:
            return cls(**told)
        except TypeError as error:
            raise UserError(f"{path} tells of another kind of executor than this version of lopbench has.") from error

    def require_possible(self, device: torch.device) -> None:
        """Refuse to go on with a run that was compiled where nothing can be compiled: its numbers would be others."""
        missing = why_not(self.executor, device)
        require(
            missing is None, f"This run began with run.executor = {self.executor!r}, but {missing}: it can't go on."
        )

    def described(self, replicas: int) -> str:
        """One line for whoever looks on."""
        some = f", {self.together} at a time" if self.together < replicas else ""
        steps = f"{self.block_steps} step{'s' if self.block_steps > 1 else ''} a call"
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        many = f"{replicas} replica{'s' if replicas > 1 else ''}"
        return f"{many}{some}, {self.executor}, {steps}, {threads} ({self.reason})"

    def bindings(self) -> dict[str, Any]:
        """The gin bindings that ask for the same."""
        named = {"executor": self.executor, "block_steps": self.block_steps, "replicas_together": self.together}
        return {f"run.{name}": value for name, value in named.items()}

    def loops(self, population: Population) -> bool:
        """Whether some of the replicas wait while others train."""
        return self.together < population.replicas

    def build(self, population: Population) -> Stacked | Looped:
        """The executor; also sets the number of threads that torch uses from here on."""
        torch.set_num_threads(self.threads)
        if self.loops(population):
            return Looped(population, self.block_steps, self.executor, self.compiled_events, self.together)
        return Stacked(population, self.block_steps, self.executor, self.compiled_events)


def choose(
    population: Population,
    steps: int,
    executor: str = "auto",
    block_steps: int | None = None,
    together: int | None = None,
) -> Choice:
    """The executor for `steps` steps, by rules on sizes (so that the same run chooses the same)."""
    require(executor in EXECUTORS, f"run.executor is {executor!r}: it must be one of {', '.join(EXECUTORS)}.")
    for name, value in (("block_steps", block_steps), ("replicas_together", together)):
        require(
            value is None or (isinstance(value, int) and value >= 1),
            f"run.{name} is {value!r}: it must be an integer at least 1, or None to let lopbench choose.",
        )
    device = population.device
    alone = multiply_adds(population) * getattr(population.stream, "batch_size", 1)  # of one replica's forward pass
    reason = "as run.executor says"
    if executor == "auto":
        executor, reason = _by_size(population, steps, alone)
    missing = why_not(executor, device)
    require(
        missing is None,
        f"run.executor is {executor!r}, but {missing}. Leave run.executor at 'auto', which takes what there is.",
    )
    require(
        together is None or executor != "captured" or together >= population.replicas,
        f"run.replicas_together is {together}, but a captured block has all {population.replicas} replicas in it: "
        "leave it None, or bind run.executor = 'compiled'.",
    )
    if together is None:
        together = population.replicas if executor == "captured" else side_by_side(population)
    together = min(together, population.replicas)
    work = alone * together  # of one call
    if block_steps is None:
        block_steps = 1 if executor == "eager" else steps_a_call(work, steps, device)
    # two threads meet at the end of every kernel: in a small step they wait for each other longer than they work
    threads = 1 if work < THREADS_FROM_WORK else DEFAULT_THREADS
    compiled_events = executor != "eager" and many_events(population, steps)
    return Choice(executor, block_steps, together, threads, reason, compiled_events)


def _by_size(population: Population, steps: int, alone: int) -> tuple[str, str]:
    """The executor that suits a population, and why; `alone`: multiply-adds of one replica's forward pass."""
    best = "captured" if population.device.type == "cuda" else "compiled"
    missing = why_not(best, population.device)
    if missing:
        return "eager", missing
    if steps < COMPILE_FROM_STEPS and steps * alone * population.replicas < COMPILE_FROM_WORK:
        return "eager", f"{steps:,} steps are too few to be worth compiling"
    parameters = sum(parameter.numel() for parameter in population.module.parameters())
    return best, f"{parameters:,} parameters a replica, {steps:,} steps"


def side_by_side(population: Population) -> int:
    """How many replicas go through a block together: all of them on a GPU, on a CPU as many as its caches hold.

    Not so with convolutions: stacked, they become one of many groups, for which a CPU has only slow kernels.
    """
    if population.device.type != "cpu":
        return population.replicas
    if convolves(population.module):
        return 1
    entries = 3 * sum(parameter.numel() for parameter in population.module.parameters())
    entries += getattr(population.stream, "batch_size", 1) * math.prod(population.stream.problem.input_shape)
    most = max(1, CACHE_BYTES // (entries * population.dtype.itemsize))
    parts = -(-population.replicas // most)
    return -(-population.replicas // parts)


def steps_a_call(work: int, steps: int, device: torch.device) -> int:
    """Steps unrolled in one compiled call: many where a step of `work` multiply-adds costs less than the call.

    The more, the longer it compiles: ten are for a long run.
    """
    if device.type == "cuda":  # which launches a graph while it works on the one before
        return 4 if work < 1_000_000_000 else 1
    if work < 1_000_000:
        return 10 if steps >= 1_000_000 else 5
    return 2 if work < 10_000_000 else 1


def many_events(population: Population, steps: int) -> bool:
    """Whether a run of `steps` has so many steps with rare work that compiling these is worth its time."""
    tensors = len(list(population.module.parameters()))
    enough = COMPILE_EVENTS_FROM + COMPILE_EVENTS_FROM_A_TENSOR * tensors
    return Events(population).count(steps, at_most=enough) == enough


def convolves(module: nn.Module) -> bool:
    """Whether a network has convolutions.

    Stacked, they become one convolution of many groups, for which a CPU has only slow kernels.
    """
    return any(isinstance(part, nn.Conv2d) for part in module.modules())


def multiply_adds(population: Population) -> int:
    """Multiply-adds of one network's forward pass on one example, counted by torch."""
    example = torch.zeros(1, *population.stream.problem.input_shape)
    with torch.no_grad(), evaluation_mode(population.module), FlopCounterMode(display=False) as counter:
        population.module(example)
    return counter.get_total_flops() // 2


def why_not(executor: str, device: torch.device) -> str | None:
    """Why an executor can't run on this machine; None if it can."""
    if executor == "eager":
        return None
    if executor == "captured" and device.type != "cuda":
        return "CUDA graphs need a GPU"
    return missing_compiler(device)


def missing_compiler(device: torch.device) -> str | None:
    """Why `torch.compile` can't work on this machine; None if it can."""
    if device.type == "cuda":
        triton = importlib.util.find_spec("triton")
        return None if triton else "Triton, which torch.compile needs on a GPU, is not installed"
    default = "clang++" if sys.platform == "darwin" else "g++"
    compiler = os.environ.get("CXX", default)
    found = shutil.which(compiler)
    return None if found else f"there is no C++ compiler ({compiler}), which torch.compile needs on a CPU"
