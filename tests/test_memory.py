"""Memory: what is counted is what the allocator sees; what can't fit is refused, and what fits is told right."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from lopbench.architectures import MLP, ConvNet
from lopbench.choosing import Choice
from lopbench.errors import UserError
from lopbench.executors import Looped
from lopbench.memory import LiveBytes, StepBytes, data_bytes, guessed_bytes, step_bytes
from lopbench.population import Population, map_tree
from lopbench.protocols import Problem, Strategy
from lopbench.shortage import (
    USABLE,
    checked_bytes,
    most_in,
    naming_shortage,
    naming_shortage_of_data,
    require_room,
    share_bytes,
)
from lopbench.strategies import SelectiveWeightReinit
from lopbench.streams import Generated, PermutedInputs
from lopbench.training import Plan, train
from tests.helpers import TinyStream, tiny_population

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")


def choice(block_steps: int = 1, together: int = 1_000_000) -> Choice:
    return Choice("eager", block_steps, together, threads=1, reason="", compiled_events=False)


def wide(replicas: int, strategies: tuple[Strategy, ...] = (), width: int = 300) -> Population:
    """Networks whose weights are nearly all that a step holds."""
    problem = Problem((200,), 10, "cross_entropy")
    made = tiny_population(strategies, module=MLP(problem, width=width, depth=2), replicas=replicas)
    return replace(made, stream=TinyStream(made.seeds, inputs=200, classes=10, batch_size=16))


def photographs(replicas: int) -> Population:
    """Networks whose features are nearly all that a step holds."""
    problem = Problem((3, 32, 32), 10, "cross_entropy")

    class Images(TinyStream):
        problem = property(lambda self: Problem((3, 32, 32), 10, "cross_entropy"))

        def _draw(self, *what: object) -> tuple[torch.Tensor, torch.Tensor]:
            x, y = super()._draw(*what)  # type: ignore[arg-type]
            return x.unflatten(-1, (3, 32, 32)), y

    made = tiny_population(module=ConvNet(problem, channels=(8, 16), kernels=(5, 3), hidden=(30,)), replicas=replicas)
    return replace(made, stream=Images(made.seeds, inputs=3 * 32 * 32, classes=10, batch_size=16))


def trained(population: Population, executor: Choice, steps: int = 4) -> None:
    train(population, executor.build(population), Plan(steps, window_steps=steps), lambda records: None)


def test_tensors_are_counted_while_they_live() -> None:
    before = torch.zeros(1000)
    with LiveBytes() as live:
        old = before.view(10, 100).add_(1)  # in the memory of what was there
        assert live.now == 0
        one = torch.ones(100)
        views = [one[:50], one.view(10, 10).t()]
        assert live.now == 400
        two = one.double()
        assert live.now == live.peak == 1200
        del one, two
        assert live.now == 400  # the views hold it
        del views, old
        assert live.now == 0 and live.peak == 1200


@pytest.mark.parametrize("made", [wide, photographs])
def test_the_peak_counted_is_that_of_the_allocator(made, tmp_path: Path) -> None:
    population = made(3)
    trained(population, choice())  # whatever is made once
    with LiveBytes() as live:
        trained(population, choice())
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        trained(population, choice())
    profiled.export_chrome_trace(str(tmp_path / "trace.json"))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    changes = sorted((e["ts"], e["args"]["Bytes"]) for e in events if e.get("name") == "[memory]")
    peak = max(np.cumsum([change for _, change in changes]))
    assert peak > 2_000_000 and live.peak == pytest.approx(peak, rel=0.02)


@pytest.mark.parametrize(
    "executor", [choice(), choice(3), choice(together=1), choice(2, together=1), choice(together=4)]
)
@pytest.mark.parametrize("made", [wide, photographs])
def test_two_replicas_tell_what_eight_take(made, executor: Choice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Looped, "TURN", 0.0)  # the replicas take turns after each call, which takes the most memory
    population = made(8)
    with LiveBytes() as live:
        trained(population, executor, steps=3 * executor.block_steps)
    most = 1.2 if 1 < executor.together < 8 else 1.1  # parts that take turns share what this counts for each
    assert 0.99 * live.peak <= step_bytes(population, executor).of(8) <= most * live.peak


def test_rare_work_is_counted() -> None:
    strategy = SelectiveWeightReinit(period=1000, reinit_factor=0.5)
    assert step_bytes(wide(2, (strategy,)), choice()).replica > 1.05 * step_bytes(wide(2), choice()).replica


def test_a_single_replica_is_measured_too() -> None:
    alone, several = step_bytes(wide(1), choice()), step_bytes(wide(4), choice())
    assert alone.of(1) == pytest.approx(several.of(1), rel=0.1)


def test_the_data_set_is_part_of_what_is_fixed() -> None:
    data = Generated(shape=(20, 20), train_size=50_000, test_size=0).load(None, "cpu")
    assert data_bytes(data) == 50_000 * (400 + 8)
    stream = PermutedInputs(data=data, seeds=torch.tensor([1, 2]), dtype=torch.float32, batch_size=8)
    population = tiny_population(module=MLP(stream.problem, width=8, depth=1), seeds=[1, 2])
    assert 1 <= step_bytes(replace(population, stream=stream), choice()).fixed / data_bytes(data) < 1.1


@pytest.mark.parametrize("made", [wide, photographs])
def test_a_guess_from_sizes_is_near_what_is_measured(made) -> None:
    population = made(8)
    assert 0.5 < guessed_bytes(population, choice()) / step_bytes(population, choice()).of(8) < 3
    in_turn = choice(together=1)
    assert 0.5 < guessed_bytes(population, in_turn) / step_bytes(population, in_turn).of(8) < 6


@pytest.mark.parametrize("together", [1_000_000, 1])
def test_what_no_machine_holds_is_refused_before_it_is_made(together: int) -> None:
    one, replicas = wide(1), 1_000_000
    seeds = one.seeds.expand(replicas)  # of no size, either
    hyper = map_tree(lambda values: np.full(replicas, values[0]), one.hyper)
    many = replace(one, stream=TinyStream(seeds, inputs=200, classes=10, batch_size=16), seeds=seeds, hyper=hyper)
    message = r"^1,000,000 replicas of a, b take \d\.\d+ TiB, \d\.\d+ MiB a replica, but .* free for this process\. "
    refused = pytest.raises(UserError, match=message + r"[\d,]+ replicas would fit: bind sweep\.most_replicas")
    with LiveBytes() as live, refused:
        require_room(many, choice(together=together), ["a", "b"])
    assert live.peak <= step_bytes(wide(2), choice(together=together)).of(2)


def test_one_replica_that_ran_is_not_refused() -> None:
    assert checked_bytes(wide(1), choice(), ["a"]) == step_bytes(wide(1), choice())


def test_as_many_fit_as_leave_the_limit_unbroken() -> None:
    taken = StepBytes(fixed=100, replica=10)
    assert [taken.fits(limit) for limit in (90, 109, 110, 199, 200)] == [0, 0, 1, 9, 10]
    assert taken.of(taken.fits(173)) <= 173 < taken.of(taken.fits(173) + 1)


def test_a_population_is_packed_to_a_limit_whatever_is_free() -> None:
    population, taken = wide(8), step_bytes(wide(8), choice())
    assert [most_in(taken.of(count) * 1.001, population, choice()) for count in (2, 5, 8)] == [2, 5, 8]
    assert most_in(1e12, population, choice()) == 8  # from a guess, and no more than there are
    assert most_in(1, population, choice()) == 1


def test_the_share_of_a_process_is_that_of_its_threads() -> None:
    cores, memory = os.cpu_count() or 1, psutil.virtual_memory().total
    assert share_bytes(CPU, 1) == pytest.approx(USABLE * memory / cores)
    assert share_bytes(CPU, None) == share_bytes(CPU, 2 * cores) == pytest.approx(USABLE * memory)


def fail(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    "exhaust",
    [
        lambda: torch.empty(2**59),  # a RuntimeError
        lambda: np.empty(2**59),  # a MemoryError
        lambda: fail(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")),
        lambda: fail(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")),
    ],
    ids=["torch", "numpy", "CUDA", "cuBLAS"],
)
def test_every_kind_of_shortage_is_named(exhaust) -> None:
    room = r"[\d.]+ [KMG]iB of the [\d.]+ GiB of this machine are free for this process"
    named = pytest.raises(UserError, match=rf"^Out of memory while sources\.Arrays is loaded: {room}\.$")
    with named, naming_shortage_of_data("sources.Arrays", CPU):
        exhaust()


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("out of memory"), UserError("no")])
def test_nothing_else_is_caught(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, naming_shortage(wide(2), choice(), ["plain"]):
        fail(error)
    assert raised.value is error


def test_a_shortage_although_a_step_fits_is_one_of_metrics() -> None:
    names = ["a", "b", "c", "d", "e"]
    message = r"^Out of memory with 3 replicas of a, b, c and 2 more variants: .*\. That would fit; .*probe_size"
    with pytest.raises(UserError, match=message), naming_shortage(wide(3), choice(), names):
        fail(MemoryError())


def shortage(population: Population, together: int) -> str:
    """What is said when a population is trained; empty if nothing is."""
    try:
        with naming_shortage(population, choice(together=together), ["fast", "slow"]):
            trained(population, choice(together=together), steps=2)
    except UserError as error:
        return error.message
    return ""


def refusal(population: Population, together: int) -> str:
    """What is said before a population is made; empty if nothing is."""
    try:
        require_room(population, choice(together=together), ["fast", "slow"])
    except UserError as error:
        return error.message
    return ""


def with_little_memory(replicas: int, together: int, width: int = 300) -> tuple[str, str]:
    """In a process of its own: `refusal` and `shortage` with 60 MiB of address space left."""
    limit = psutil.Process().memory_info().vms + 60 * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return refusal(wide(replicas, width=width), together), shortage(wide(replicas, width=width), together)


def try_numbers() -> None:
    """In a process of its own: too many replicas, as many as then are said to fit, twice as many, and large ones."""
    torch.set_num_threads(1)  # threads of the parent would be missing in its children
    trained(wide(1), choice())  # which imports what else every child would
    tried = []
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as process:
        for together in (1_000_000, 1):
            many = process.apply(with_little_memory, (100, together))
            fits = int(re.findall(r"(\d+) replicas would fit", many[1])[0])
            enough, twice = (process.apply(with_little_memory, (n, together)) for n in (fits, 2 * fits))
            tried.append((many, fits, enough, twice))
        large = process.apply(with_little_memory, (3, 1_000_000, 1500))
    print(json.dumps([tried, large]))


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit of the address space that holds")
def test_as_many_replicas_fit_as_the_message_says() -> None:
    # the C library hoards nothing, and gives back what is freed, as by default it does for tensors above 32 MiB only
    malloc = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    environment = {**os.environ, **malloc, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", "from tests.test_memory import try_numbers; try_numbers()"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    tried, large = json.loads(done.stdout)
    room = r"[56]\d(\.\d+)? MiB of the .* GiB of this machine are free for this process"
    for (refused, many), fits, enough, twice in tried:
        assert re.match(rf"100 replicas of fast, slow take .* MiB, .* MiB a replica, but {room}\. \d+ rep", refused)
        assert abs(int(re.findall(r"(\d+) replicas would fit", refused)[0]) - fits) <= 0.2 * fits
        assert re.match(
            rf"Out of memory with 100 replicas of fast, slow: {room}, and a step takes .* MiB, .* MiB a replica\. "
            rf"{fits} replicas would fit: bind sweep\.most_replicas, which makes several populations",
            many,
        )
        assert enough == ["", ""]
        assert twice[0].startswith(f"{2 * fits} replicas of fast, slow take ")
        assert twice[1].startswith(f"Out of memory with {2 * fits} replicas of fast, slow")
    assert re.match(
        rf"Not even 2 replicas of fast, slow can take a step: {room}\. To fit, bind a smaller net", large[0]
    )
    assert re.match(rf"Out of memory with 3 replicas of fast, slow: {room}, and not even 2 replicas can take", large[1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_as_many_replicas_fit_on_a_gpu_as_the_message_says() -> None:
    device = torch.device("cuda", torch.cuda.current_device())

    def there(replicas: int) -> Population:
        data = Generated(train_size=1000, test_size=0).load(None, device)
        seeds = torch.arange(replicas, device=device)
        stream = PermutedInputs(data=data, seeds=seeds, dtype=torch.float32, batch_size=8)
        made = tiny_population(module=MLP(stream.problem, width=700, depth=2), replicas=replicas)
        return replace(made, stream=stream, seeds=seeds)

    torch.cuda.set_per_process_memory_fraction(2**30 / torch.cuda.mem_get_info(device)[1], device)
    try:
        told = shortage(there(500), 1_000_000)
        fits = int(re.findall(r"(\d+) replicas would fit", told)[0])
        assert told.startswith("Out of GPU memory with 500 replicas of fast, slow: ")
        assert refusal(there(fits), 1_000_000) == ""
        trained(there(fits), choice())
        assert refusal(there(2 * fits), 1_000_000).startswith(f"{2 * fits} replicas of fast, slow take ")
        assert shortage(there(2 * fits), 1_000_000).startswith(f"Out of GPU memory with {2 * fits} replicas")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
