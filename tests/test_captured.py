"""Captured blocks: buffers that stay where they are, and what is copied into them between two calls.

A graph is recorded on a GPU only; elsewhere the same buffers are advanced by calling the block again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lopbench.captured import Captured, Capturing, in_place
from lopbench.choosing import choose, missing_compiler
from lopbench.executors import Stacked, compiled
from lopbench.learner import initial_state, make_block
from lopbench.population import Population, map_tree
from lopbench.protocols import Clock, Tree
from lopbench.strategies import ContinualBackprop, SelectiveWeightReinit
from lopbench.training import Plan, train
from tests.helpers import tiny_population

CPU = torch.device("cpu")


def clock_at(step: int) -> Clock:
    return Clock(*(torch.tensor(value) for value in (step, 0, step)))


def doubling(state: Tree, clock: Clock, tables: Tree, event: Tree) -> None:
    """a <- 2 a + b + the table; b stays."""
    state["a"].copy_(2 * state["a"] + state["b"] + tables["add"])
    clock.step.copy_(clock.step + 1)


def block() -> Callable[[Tree, Clock, Tree], tuple[Tree, Clock]]:
    captured = Captured(doubling, Capturing(CPU), "hot")
    return lambda state, clock, tables: captured(state, clock, tables, {})


def tensors(**values: float) -> dict[str, Tensor]:
    return {name: torch.tensor([value]) for name, value in values.items()}


def test_nothing_moves_between_two_calls_and_the_clock_counts() -> None:
    call, tables = block(), tensors(add=0.0)
    state, clock = call(tensors(a=1.0, b=0.5), clock_at(3), tables)
    places = [leaf.data_ptr() for leaf in (*state.values(), clock.step)]
    state, clock = call(state, clock, tables)
    assert places == [leaf.data_ptr() for leaf in (*state.values(), clock.step)]
    assert (state["a"].item(), clock.step.item()) == (2 * 2.5 + 0.5, 5)


def test_what_the_caller_gave_stays_as_it_was() -> None:
    given, clock = tensors(a=1.0, b=0.5), clock_at(3)
    block()(given, clock, tensors(add=1.0))
    assert given["a"].item() == 1 and clock.step.item() == 3


def test_new_leaves_and_tables_take_their_places() -> None:
    call = block()
    state, clock = call(tensors(a=1.0, b=0.0), clock_at(0), tensors(add=0.0))
    state, clock = call({**state, **tensors(b=10.0)}, clock, tensors(add=100.0))
    assert state["a"].item() == 2 * 2 + 10 + 100
    state, _ = call(state, clock_at(7), tensors(add=0.0))
    assert state["a"].item() == 2 * 114 + 10


def test_a_leaf_that_lies_in_another_buffer_is_read_before_that_is_written() -> None:
    """As where a strategy keeps the parameters that another hook then changes."""
    call = block()
    state, clock = call(tensors(a=1.0, b=0.0), clock_at(0), tensors(add=0.0))
    assert state["a"].item() == 2
    state, _ = call({**tensors(a=5.0), "b": state["a"]}, clock, tensors(add=0.0))
    assert (state["a"].item(), state["b"].item()) == (2 * 5 + 2, 2)


def population(device: str = "cpu") -> Population:
    strategies = [SelectiveWeightReinit(period=7, reinit_factor=0.5), ContinualBackprop(0.05, maturity_threshold=3)]
    made = tiny_population(strategies, dtype=torch.float64, steps_per_task=25)
    seeds = made.seeds.to(device)
    return replace(made, stream=replace(made.stream, seeds=seeds), seeds=seeds)  # type: ignore[type-var]


@pytest.mark.skipif(missing_compiler(CPU) is not None, reason="needs a C++ compiler")
def test_compiled_in_place_a_block_does_what_it_does() -> None:
    p = population()
    state, place = initial_state(p), map_tree(torch.clone, initial_state(p))
    plain = make_block(p, 3)
    advance = compiled(in_place(plain))
    clock, counting, tables = clock_at(0), clock_at(0), p.stream.prepare(0)
    for _ in range(8):
        state, clock = plain(state, clock, tables, {})
        advance(place, counting, tables, {})
    assert torch.equal(clock.step, counting.step)
    map_tree(lambda a, b: torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, equal_nan=True), state, place)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_a_captured_run_on_a_gpu_is_the_eager_one() -> None:
    """50 steps in float64 with rare work, two tasks, and windows that end between."""
    p, plan = population("cuda"), Plan(50, 10)
    assert choose(p, 10**6).executor == "captured"
    captured, eager = (train(p, Stacked(p, 2, block), plan, lambda records: None) for block in ("captured", "eager"))
    map_tree(lambda a, b: torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, equal_nan=True), captured, eager)
