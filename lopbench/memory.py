"""Running out of memory: what a population takes, as measured, and a message that says how many replicas fit."""

from __future__ import annotations

import gc
import os
import traceback
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import psutil
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lopbench.errors import UserError
from lopbench.events import Events
from lopbench.executors import Choice, Stacked, memory_bytes, stretch
from lopbench.learner import initial_state
from lopbench.population import Population
from lopbench.protocols import Clock, Dataset

#: The share of free memory that tensors are sure to fill: allocators round sizes up and leave holes.
USABLE = 0.8
#: What a `RuntimeError` says if it is one of memory: of torch's allocators, C++, CUDA and its libraries.
SHORTAGES = (
    "Storage size calculation overflowed",
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "bad_alloc",
    "ALLOC_FAILED",
)


# Measuring -------------------------------------------------------------------------------------------


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
    device already, is in `fixed`. Not seen: metrics, hooks at a task's ends, and what a kernel holds only within.
    Raises whatever a shortage of memory raises.
    """
    data = data_bytes(population.stream.data)
    one = _peaks(population.part(slice(0, 1)), choice)
    if population.replicas == 1:
        return StepBytes(data, one.training)
    two = _peaks(population.part(slice(0, 2)), choice)
    replica: float
    if choice.executor.startswith("looped"):
        # each replica's state at three times: as the stretch began, after the last turn, and now; one takes a step
        replica = max(3 * one.state, two.start - one.start)
        return StepBytes(data + one.training - 2 * one.state, replica)
    replica = min(two.training - one.training, two.training / 2)  # kernels for one alone may take less
    return StepBytes(data + two.training - 2 * replica, replica)


def data_bytes(data: Dataset | None) -> int:
    """Bytes of a data set's tensors."""
    tensors = [*data.inputs.values(), *data.labels.values()] if data else []
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class _Peaks(NamedTuple):
    state: int  #: bytes of the state
    start: int  #: at most alive while it was made
    training: int  #: at most alive in all, with the steps


def _peaks(population: Population, choice: Choice) -> _Peaks:
    """Two calls of an eager executor, as training makes them, the second with the first event, if there is one."""
    events = Events(population)
    rare = [] if events.ahead is None else [(choice.block_steps, events.ahead[1])]
    with LiveBytes() as live:
        clock = Clock(*(torch.tensor(0, device=population.device) for _ in range(3)))
        state = initial_state(population)
        start = live.peak
        executor = Stacked(population, choice.block_steps, compiled=False)
        steps = choice.block_steps + (1 if rare else choice.block_steps)
        stretch(executor, state, clock, steps, population.stream.prepare(0), rare)
    return _Peaks(memory_bytes(state), start, live.peak)


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


# Saying ----------------------------------------------------------------------------------------------


def naming_shortage(population: Population, choice: Choice, names: Sequence[str]) -> AbstractContextManager[None]:
    """A context that turns a shortage of memory into a `UserError`: how many replicas there are, and how many fit.

    names: of the variants in the population. What functions called within the context hold is let go first; the
    caller itself must hold none of the population's state.
    """
    return _answered(lambda: _too_many(population, choice, names))


def naming_shortage_of_data(name: str, device: torch.device) -> AbstractContextManager[None]:
    """A context that turns a shortage of memory while the data set `name` is loaded into a `UserError`."""
    return naming_shortage_while(f"{name} is loaded", device)


def naming_shortage_while(what: str, device: torch.device) -> AbstractContextManager[None]:
    """A context that turns a shortage of memory while `what` is done into a `UserError`."""
    return _answered(lambda: f"Out of {_kind(device)} while {what}: {_room(device)}.")


def is_shortage(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, the host's or a device's."""
    if isinstance(error, RuntimeError):
        return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in SHORTAGES)
    return isinstance(error, MemoryError)


@contextmanager
def _answered(message: Callable[[], str]) -> Iterator[None]:
    try:
        yield
        return
    except (MemoryError, RuntimeError) as error:
        if not is_shortage(error):
            raise
        traceback.clear_frames(error.__traceback__)  # they hold the tensors that were too many
    gc.collect()
    torch.cuda.empty_cache()
    raise UserError(message()) from None


def _too_many(population: Population, choice: Choice, names: Sequence[str]) -> str:
    replicas, device = population.replicas, population.device
    variants = ", ".join(names[:3]) + (f" and {len(names) - 3} more variants" if len(names) > 3 else "")
    said = f"Out of {_kind(device)} with {_counted(replicas)} of {variants}: {_room(device)}"
    room = USABLE * free_bytes(device) + data_bytes(population.stream.data)
    try:
        taken = step_bytes(population, choice)
    except (MemoryError, RuntimeError) as error:
        if not is_shortage(error):
            raise
        few = _counted(min(replicas, 2))
        return f"{said}, and not even {few} can take a step in that: bind a smaller network or a smaller batch."
    said += f", and a step takes {readable(taken.of(replicas))}, {readable(taken.replica)} a replica"
    fits = max(2, taken.fits(room))  # two did
    if fits >= replicas:
        return f"{said}. That would fit; metrics take memory besides: bind a smaller probe_size of theirs."
    fewer = "bind fewer run.seeds or fewer values in sweep.grid, or split them into several runs"
    return f"{said}. {_counted(fits)} would fit: {fewer}."


def _counted(replicas: int) -> str:
    return f"{replicas} replica{'s' if replicas > 1 else ''}"


def _kind(device: torch.device) -> str:
    return "GPU memory" if device.type == "cuda" else "memory"


def _room(device: torch.device) -> str:
    """How much is free, of how much, where."""
    if device.type == "cuda":
        name, total = torch.cuda.get_device_name(device), torch.cuda.mem_get_info(device)[1]
    else:
        name, total = "this machine", psutil.virtual_memory().total
    return f"{readable(free_bytes(device))} of the {readable(total)} of {name} are free for this process"


def readable(count: float) -> str:
    """Bytes, in the unit that gives a short number."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:,.4g} {unit}"
        count /= 1024
    return f"{count:,.4g} GiB"
