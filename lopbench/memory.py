"""Memory: what a population takes, measured on one replica and two; what is free; both in readable units."""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import psutil
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lopbench.choosing import Choice
from lopbench.events import Events
from lopbench.executors import Stacked, stretch
from lopbench.learner import initial_state
from lopbench.population import Population, map_tree
from lopbench.probing import bytes_an_example
from lopbench.protocols import Clock, Dataset, Tree


@dataclass(frozen=True)
class StepBytes:
    """What training holds at its peak, in bytes: `fixed`, and `replica` more for each replica."""

    fixed: float
    replica: float

    def of(self, replicas: int) -> float:
        """Bytes that so many replicas take."""
        return self.fixed + replicas * self.replica

    def fits(self, limit: float) -> int:
        """How many replicas take no more than `limit` bytes."""
        return max(0, int((limit - self.fixed) // self.replica))


def step_bytes(population: Population, choice: Choice) -> StepBytes:
    """The peak of tensors alive while a population is made and takes a few steps, eagerly; measured, on any device.

    Told from runs of one replica and of two, the first event of rare work included; the data set, which is on the
    device already, is in `fixed`. Compiled steps take about as much. Not seen: metrics, hooks at a task's ends, and
    what a kernel holds only within. Raises whatever a shortage of memory raises.
    """
    data, together = data_bytes(population.stream.data), choice.together
    one = _peaks(population.part(slice(0, 1)), choice)
    if population.replicas == 1:
        return StepBytes(data, one.training)
    two = _peaks(population.part(slice(0, 2)), choice, trains=together > 1)
    beside = min(two.training - one.training, two.training / 2)  # kernels for one alone may take less
    if choice.loops(population):
        # each replica's state at three times: as the stretch began, after the last turn, and now; some take a step
        lasting = 3 * one.state + one.tables
        at_once = two.training + (together - 2) * beside if together > 1 else one.training
        held = together * (lasting - one.state)  # of those, besides what the step itself counts
        return StepBytes(data + at_once - held, max(lasting, two.start - one.start))
    return StepBytes(data + two.training - 2 * beside, beside)


def guessed_bytes(population: Population, choice: Choice) -> float:
    """About what training holds at its peak, the data set left out; from sizes, in milliseconds.

    For telling whether measuring is worth its time: between three quarters and the double of what the stacked
    `step_bytes` are for the networks that come with lopbench, and more where replicas take turns.
    """
    one = population.part(slice(0, 1))
    shapes = {name: (1, *parameter.shape) for name, parameter in population.module.named_parameters()}
    zeros = {name: torch.zeros(shape, dtype=one.dtype, device=one.device) for name, shape in shapes.items()}
    with LiveBytes() as live:
        one.stream.prepare(0)
    example = bytes_an_example(one, {"parameters": zeros, "buffers": one.initial_buffers()})
    features = 6 * example * getattr(one.stream, "batch_size", 1)  # forward, backward, and what lies between layers
    networks = 8 * memory_bytes(zeros)  # old and new ones, their gradients, the optimizer's slots, what is drawn
    return population.replicas * (networks + live.peak) + min(choice.together, population.replicas) * features


def memory_bytes(state: Tree) -> int:
    """Bytes held by a state tree."""
    sizes: list[int] = []
    map_tree(lambda leaf: sizes.append(math.prod(leaf.shape) * leaf.element_size()), state)
    return sum(sizes)


def data_bytes(data: Dataset | None) -> int:
    """Bytes of a data set's tensors."""
    tensors = [*data.inputs.values(), *data.labels.values()] if data else []
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class _Peaks(NamedTuple):
    state: int  #: bytes of the state
    tables: int  #: bytes of a stretch's tables
    start: int  #: at most alive while these were made
    training: int  #: at most alive in all, with the steps


def _peaks(population: Population, choice: Choice, trains: bool = True) -> _Peaks:
    """Two calls of an eager executor, as training makes them, the second with the first event, if there is one.

    Without `trains` there are no calls, and the state and the tables only are made.
    """
    events = Events(population)
    rare = [] if events.ahead is None else [(choice.block_steps, events.ahead[1])]
    with LiveBytes() as live:
        clock = Clock(*(torch.tensor(0, device=population.device) for _ in range(3)))
        state, tables = initial_state(population), population.stream.prepare(0)
        start = live.peak
        if trains:
            executor = Stacked(population, choice.block_steps)
            steps = choice.block_steps + (1 if rare else choice.block_steps)
            stretch(executor, state, clock, steps, tables, rare)
    return _Peaks(memory_bytes(state), memory_bytes(tables), start, live.peak)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that are made within this context: `now` alive, and `peak` at most.

    Storages are counted, so that views cost nothing, and so do tensors that were there before.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self._meet((args, kwargs), made=False)
        result = func(*args, **(kwargs or {}))
        self._meet(result, made=True)
        return result

    def _meet(self, tree: Any, made: bool) -> None:
        for storage in [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]:
            key = storage._cdata
            if key not in self._known:
                self._known.add(key)
                size = storage.nbytes() if made else 0
                self.now += size
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._forget, key, size).atexit = False

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def free_bytes(device: torch.device) -> float:
    """Bytes that this process may still fill with tensors on a device."""
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        free, total = torch.cuda.mem_get_info(index)
        mine = torch.cuda.get_per_process_memory_fraction(index) * total
        reserved, allocated = torch.cuda.memory_reserved(index), torch.cuda.memory_allocated(index)
        return min(free + reserved, mine) - allocated
    return min(psutil.virtual_memory().available, _address_space_left())


def _address_space_left() -> float:
    """What `ulimit -v` leaves, where there is such a thing."""
    if os.name != "posix":
        return float("inf")
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return float("inf") if limit == resource.RLIM_INFINITY else limit - psutil.Process().memory_info().vms


def readable(count: float) -> str:
    """Bytes, in the unit that gives a short number."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:,.4g} {unit}"
        count /= 1024
    return f"{count:,.4g} TiB"
