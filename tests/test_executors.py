"""Which executor a run gets, by its sizes; and hot blocks compiled beside rare steps that are not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lopbench import choosing, executors
from lopbench.architectures import ConvNet
from lopbench.choosing import (
    COMPILE_EVENTS_FROM,
    COMPILE_EVENTS_FROM_A_TENSOR,
    COMPILE_FROM_STEPS,
    choose,
    many_events,
    missing_compiler,
    multiply_adds,
)
from lopbench.errors import UserError
from lopbench.events import Events
from lopbench.executors import Stacked, stretch
from lopbench.learner import Block, initial_state
from lopbench.population import Population, map_tree
from lopbench.protocols import Clock, Problem, Tree
from lopbench.strategies import SelectiveWeightReinit
from lopbench.training import Plan, train
from tests.helpers import TinyNet, TinyStream, tiny_population

pytestmark = pytest.mark.skipif(missing_compiler(torch.device("cpu")) is not None, reason="needs a C++ compiler")


def of_images(replicas: int, batch_size: int = 8, **fields: object) -> Population:
    """A population of convolutional networks; its stream is not asked for batches."""
    problem = Problem((3, 32, 32), 10, "cross_entropy")

    class Images(TinyStream):
        problem = property(lambda self: Problem((3, 32, 32), 10, "cross_entropy"))

    made = tiny_population(module=ConvNet(problem, **fields), replicas=replicas)  # type: ignore[arg-type]
    return replace(made, stream=Images(made.seeds, batch_size=batch_size))


def test_many_steps_are_compiled_and_few_are_not() -> None:
    p = tiny_population()
    assert choose(p, COMPILE_FROM_STEPS).executor == "compiled"
    assert choose(p, COMPILE_FROM_STEPS - 1).executor == "eager"


def test_few_steps_of_much_work_are_compiled_too() -> None:
    steps = COMPILE_FROM_STEPS - 1
    assert choose(of_images(1, batch_size=8), steps).executor == "eager"
    assert choose(of_images(1, batch_size=1000), steps).executor == "compiled"


def test_on_a_cpu_convolutions_run_one_replica_after_another() -> None:
    assert choose(of_images(3), 10).together == 1
    assert choose(of_images(3), 10, together=2).together == 2


def test_on_a_cpu_as_many_replicas_run_together_as_its_caches_hold() -> None:
    p = tiny_population(replicas=12)
    entries = 3 * sum(parameter.numel() for parameter in p.module.parameters()) + p.stream.batch_size * 4

    def together(replicas_that_fit: float) -> int:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(choosing, "CACHE_BYTES", int(replicas_that_fit * 4 * entries))
            return choose(p, 10).together

    assert [together(fit) for fit in (0.5, 1, 2.5, 5, 6, 11, 12, 100)] == [1, 1, 2, 4, 6, 6, 12, 12]


def test_replicas_that_take_turns_do_what_all_together_do() -> None:
    """With a last part that is smaller than the others."""
    p, plan = tiny_population([SelectiveWeightReinit(period=5)], replicas=5, dtype=torch.float64), Plan(20, 10)
    at_once = train(p, choose(p, 20).build(p), plan, lambda records: None)
    in_turn = train(p, choose(p, 20, together=2).build(p), plan, lambda records: None)
    map_tree(lambda a, b: torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, equal_nan=True), at_once, in_turn)


def test_captured_blocks_want_a_gpu() -> None:
    with pytest.raises(UserError, match=r"^run\.executor is 'captured', but CUDA graphs need a GPU\."):
        choose(tiny_population(), 10, "captured")


def test_multiply_adds_are_those_of_every_place_of_a_map() -> None:
    p = of_images(1, channels=(4,), kernels=(5,), hidden=(6,))
    assert multiply_adds(p) == 28 * 28 * 4 * 3 * 25 + 14 * 14 * 4 * 6 + 6 * 10
    assert p.module.training


def test_rare_steps_are_compiled_where_there_are_many() -> None:
    enough = COMPILE_EVENTS_FROM + COMPILE_EVENTS_FROM_A_TENSOR * len(
        list(TinyNet(TinyStream(torch.tensor([1])).problem).parameters())
    )
    p = tiny_population([SelectiveWeightReinit(period=10)])
    assert many_events(p, 10 * enough) and choose(p, 10 * enough).compiled_events
    assert not many_events(p, 10 * enough - 1) and not choose(p, 10 * enough - 1).compiled_events
    assert not choose(p, 10 * enough, executor="eager").compiled_events
    assert not many_events(tiny_population(), 10**9)  # nothing is ever due


def test_rare_steps_run_eagerly_beside_compiled_blocks() -> None:
    p = tiny_population([SelectiveWeightReinit(period=5, reinit_factor=0.5)], dtype=torch.float64, steps_per_task=13)
    plan = Plan(26, window_steps=13)  # blocks of 2, and one step left over before some of the events

    def end(block: str, compiled_events: bool | None = None) -> dict:
        return train(p, Stacked(p, 2, block, compiled_events), plan, lambda records: None)

    def close(a: torch.Tensor, b: torch.Tensor) -> None:
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, equal_nan=True)

    map_tree(close, end("compiled", compiled_events=False), end("eager"))


@pytest.mark.parametrize("settings", [{"executor": "fast"}, {"block_steps": 0}, {"block_steps": 1.5}, {"together": 0}])
def test_a_wrong_choice_is_refused(settings: dict) -> None:
    with pytest.raises(UserError, match=r"^run\.(executor|block_steps|replicas_together) is .*: it must be"):
        choose(tiny_population(), 10, **settings)


def test_a_stretch_that_is_begun_again_makes_the_same_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which block, after which step, and with which tables of rare work: a compiled block has a graph for each."""
    calls: list[tuple[int, list[str]]] = []

    def logged(block: Block) -> Block:
        def call(state: Tree, clock: Clock, tables: Tree, event: Tree) -> tuple[Tree, Clock]:
            calls.append((int(clock.step), list(event)))
            return block(state, clock, tables, event)

        return call

    monkeypatch.setattr(executors, "compiled", logged)  # takes the place of torch.compile, which would take minutes
    p = tiny_population([SelectiveWeightReinit(period=4)])
    for steps in (7, 9):  # single steps before events, and before an end without one
        seen = []
        for start in range(steps):
            executor, events = Stacked(p, 2, "compiled"), Events(p, after=start)
            calls.clear()
            clock = Clock(*(torch.tensor(value) for value in (start, 0, start)))
            due = events.until(start, steps)
            stretch(executor, initial_state(p), clock, steps - start, p.stream.prepare(0), due, events.idle)
            seen.append(list(calls))
        whole = seen[0]
        for step, _ in whole:
            assert seen[step] == [call for call in whole if call[0] >= step]
