"""Slowly-changing regression ("bit flipping"): a fixed target network on inputs of which some bits rarely change."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

import lopbench
from lopbench.checks import check_choice, check_count, check_number
from lopbench.errors import require
from lopbench.keyed_random import integers, words
from lopbench.protocols import Clock, Problem, Stream, Tree

#: More fast bits than this would make the table of a task's targets large.
MAX_FAST_BITS = 12
#: More inputs, target units or examples a step than this are a slip of a key, which would fill the memory.
MOST = 100_000


@dataclass(frozen=True)
class ThresholdNetwork:
    """A layer of n linear threshold units and a linear output: y = v . h + c, all weights -1 or 1.

        h_i = 1 if w_i . x + b_i > beta (m + 1) - S_i, else 0

    threshold "upstream": S_i = (m - sum_j w_ij + b_i) / 2, the published code's, which made the published figures;
    "paper": S_i is the number of negative incoming weights, the bias included, (m + 1 - sum_j w_ij - b_i) / 2.

    Shapes: weight `[..., n, m]`, bias and output_weight `[..., n]`, output_bias `[...]`. Everything is computed in
    float32, where these sums of integers and halves are exact, so that y is the same whatever the run's dtype.
    """

    weight: Tensor
    bias: Tensor
    output_weight: Tensor
    output_bias: Tensor
    beta: float
    threshold: str = "upstream"

    def __call__(self, x: Tensor) -> Tensor:
        """y `[..., K]` of the inputs `[..., K, m]`, float32."""
        m = self.weight.shape[-1]
        negative = (m - self.weight.sum(dim=-1) + self.bias) / 2
        if self.threshold == "paper":
            negative = negative + 0.5 - self.bias
        bound = self.beta * (m + 1) - negative
        active = x.float() @ self.weight.mT + self.bias[..., None, :] > bound[..., None, :]
        return (active * self.output_weight[..., None, :]).sum(dim=-1) + self.output_bias[..., None]


@lopbench.register("streams")
@dataclass(frozen=True, eq=False)
class SlowlyChangingRegression(Stream):
    """Slowly-changing regression: binary inputs, of which the slow bits change once a task; a fixed random target.

    An input has `slow_bits` bits that hold for a task and inputs - slow_bits fast ones, fair coins at every example;
    the target is the output of a `ThresholdNetwork` that the replica keeps for the whole run, without noise. A task
    is a period. There is no data set: everything follows from the replica's seed.

    inputs: m, the number of bits of an input, 0.0 or 1.0 (the slow ones first).
    slow_bits: those that hold for a task; at most 12 others, as a task keeps a table of all its inputs.
    period: T, steps between changes of the slow bits (the length of a task).
    target_units: n, hidden units of the target network.
    beta: of their thresholds.
    change: "redraw": every slow bit is drawn anew at a task's start; "flip_one": one of them is negated.
    threshold: "upstream", which made the published figures, or "paper": see `ThresholdNetwork`.
    batch_size: examples a step; the published learner takes 1.
    tasks: how many; None: as many as asked for.

    Example e (counted from the run's start) takes its fast bits from the highest bits of word e % 4 at step e // 4.
    Source: Dohare et al. 2024, "Loss of plasticity in deep continual learning" (Nature), and its code: "redraw"
    made the figure of the code's front page, "flip_one" Extended Data Fig. 2.
    """

    needs_source: ClassVar[bool] = False

    data: None
    seeds: Tensor
    dtype: torch.dtype
    inputs: int = 20
    slow_bits: int = 15
    period: int = 10_000
    target_units: int = 100
    beta: float = 0.7
    change: str = "redraw"
    threshold: str = "upstream"
    batch_size: int = 1
    tasks: int | None = None

    steps_per_task: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        require(self.data is None, "streams.SlowlyChangingRegression makes its own data: leave run.source unbound.")
        for each in ("inputs", "slow_bits", "target_units", "batch_size"):
            check_count(self, each, getattr(self, each), most=MOST)
        check_number(self, "period", self.period, at_least=1, integer=True)
        check_number(self, "tasks", self.tasks, at_least=1, integer=True, optional=True)
        check_number(self, "beta", self.beta)
        check_choice(self, "change", self.change, ("redraw", "flip_one"))
        check_choice(self, "threshold", self.threshold, ("upstream", "paper"))
        require(
            0 <= self.fast_bits <= MAX_FAST_BITS,
            f"streams.SlowlyChangingRegression.slow_bits is {self.slow_bits}: of {self.inputs} inputs it must leave "
            f"0 to {MAX_FAST_BITS} fast ones, so it must be {max(1, self.inputs - MAX_FAST_BITS)} to {self.inputs}.",
        )
        object.__setattr__(self, "steps_per_task", self.period)

    @property
    def problem(self) -> Problem:
        return Problem((self.inputs,), 1, "squared_error")

    @property
    def fast_bits(self) -> int:
        """How many bits are drawn at every example."""
        return self.inputs - self.slow_bits

    @cached_property
    def target(self) -> ThresholdNetwork:
        """Every replica's target network."""
        n, m = self.target_units, self.inputs
        signs = 2 * self._bits("target", 0, n * m + 2 * n + 1).float() - 1
        weight, bias, output_weight, output_bias = signs.split((n * m, n, n, 1), dim=1)
        weight = weight.unflatten(1, (n, m))
        return ThresholdNetwork(weight, bias, output_weight, output_bias[:, 0], self.beta, self.threshold)

    def slow(self, task: int) -> Tensor:
        """The slow bits of `task`, int64 `[R, slow_bits]`: 0 or 1."""
        if self.change == "redraw" or task == 0:
            return self._bits("slow", task, self.slow_bits)
        # task k negates the bit that element k - 1 draws, so a bit has changed if it was drawn an odd number of times
        drawn = integers(self.seeds, "stream/flip", self._at(0), task, below=self.slow_bits)
        counts = self._bits("slow", 0, self.slow_bits).scatter_add(1, drawn, torch.ones_like(drawn))
        return counts % 2

    def next_boundary(self, step: int) -> int:
        return (step // self.period + 1) * self.period

    def prepare(self, step: int) -> Tree:
        """`inputs` `[R, K, m]`, all that the task can show, in the order of their fast bits; `targets` `[R, K]`."""
        slow = self.slow(step // self.period)
        numbers = torch.arange(2**self.fast_bits, device=self.seeds.device)
        places = torch.arange(self.fast_bits - 1, -1, -1, device=self.seeds.device)
        fast = (numbers[:, None] >> places) & 1
        inputs = torch.cat((slow[:, None].expand(-1, len(fast), -1), fast.expand(len(slow), -1, -1)), dim=-1)
        return {"seeds": self.seeds, "inputs": inputs.to(self.dtype), "targets": self.target(inputs).to(self.dtype)}

    def batches(self, tables: Tree, clock: Clock, n: int) -> tuple[Tensor, Tensor]:
        inputs, targets = self._examples(tables, "fast", clock.step * self.batch_size, n * self.batch_size)
        shape = (n, self.batch_size)
        return inputs.unflatten(1, shape).movedim(1, 0), targets.unflatten(1, shape).movedim(1, 0)

    def probe(self, split: str, size: int, task: int, step: int = 0) -> tuple[Tensor, Tensor]:
        """The first `size` examples of a task (drawn on past its end if it has fewer), or others of the same task."""
        name = "streams.SlowlyChangingRegression"
        require(split in ("train", "test"), f"{name} has no {split!r} examples: it has train, test.")
        first, purpose = self._at(task * self.period * self.batch_size), "fast" if split == "train" else "test"
        return self._examples(self.prepare(task * self.period), purpose, first, size)

    def _examples(self, tables: Tree, purpose: str, first: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Inputs `[R, count, m]` and targets `[R, count, 1]` of the examples from number `first` on."""
        steps = first // 4 + torch.arange(count // 4 + 2, device=first.device)  # however `first` lies in its four
        drawn = words(tables["seeds"], f"stream/{purpose}", steps, 4).movedim(1, 0).flatten(1)
        numbers = drawn[:, first % 4 + torch.arange(count, device=first.device)] >> (32 - self.fast_bits)
        rows = numbers[:, :, None].expand(-1, -1, self.inputs)
        return tables["inputs"].gather(1, rows), tables["targets"].gather(1, numbers)[:, :, None]

    def _bits(self, purpose: str, step: int, count: int) -> Tensor:
        """Fair coins, int64 `[R, count]`."""
        return words(self.seeds, f"stream/{purpose}", self._at(step), count) >> 31

    def _at(self, step: int) -> Tensor:
        return torch.tensor(step, device=self.seeds.device)
