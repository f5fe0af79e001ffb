"""Too little memory: refused before a population is made, named where it runs out, and how many replicas fit."""

from __future__ import annotations

import gc
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import psutil
import torch

from lopbench.choosing import Choice
from lopbench.errors import UserError
from lopbench.memory import StepBytes, data_bytes, free_bytes, guessed_bytes, readable, step_bytes
from lopbench.population import Population

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


FEWER = "bind sweep.most_replicas, which makes several populations, or fewer run.seeds or values of a sweep"
SMALLER = "bind a smaller network or a smaller batch"


# Beforehand ------------------------------------------------------------------------------------------


def require_room(population: Population, choice: Choice, names: Sequence[str]) -> None:
    """Raise `UserError` if a population can't fit into the memory that is free; call it before any of it is made.

    names: of the variants in the population. Measured only where a guess comes near to what is free.
    """
    with naming_shortage_while(f"the memory of {_listed(names)} is guessed", population.device):
        near = guessed_bytes(population, choice) > free_bytes(population.device) / 2
    if near:
        checked_bytes(population, choice, names)


def checked_bytes(population: Population, choice: Choice, names: Sequence[str]) -> StepBytes:
    """What a population takes, measured on its first one or two replicas; raises `UserError` if less is free."""
    replicas, device, data = population.replicas, population.device, data_bytes(population.stream.data)
    few = f"{_few(replicas)} of {_listed(names)}"
    with _answered(lambda: f"Not even {few} can take a step: {room(device)}. To fit, {SMALLER}."):
        taken = step_bytes(population, choice)
    if replicas > fits(population, taken) and taken.of(replicas) - data > free_bytes(device):
        raise UserError(
            f"{counted(replicas)} of {_listed(names)} take {readable(taken.of(replicas) - data)}, "
            f"{readable(taken.replica)} a replica, but {room(device)}. {_advice(fits(population, taken))}"
        )
    return taken


def fits(population: Population, taken: StepBytes) -> int:
    """How many replicas of a population are sure to fit; `taken` is told from one or two, which did."""
    free = USABLE * free_bytes(population.device)
    return max(min(2, population.replicas), taken.fits(free + data_bytes(population.stream.data)))


def share_bytes(device: torch.device, threads: int | None) -> float:
    """Bytes that a process may fill if others like it work beside it: a whole GPU, or its cores' share of the memory.

    Told from the size of the memory and not from what is free, so that it is the same each time.
    """
    if device.type == "cuda":
        return USABLE * torch.cuda.get_device_properties(device).total_memory
    cores = os.cpu_count() or 1
    return USABLE * psutil.virtual_memory().total * min(threads or cores, cores) / cores


def most_in(limit: float, population: Population, choice: Choice) -> int:
    """How many replicas of a population's kind train within `limit` bytes, the data set left out; at least one.

    Measured only where a guess comes near to the limit.
    """
    if guessed_bytes(population, choice) <= limit / 2:
        return population.replicas
    few = _few(population.replicas)
    with _answered(lambda: f"Not even {few} can take a step: {room(population.device)}. To fit, {SMALLER}."):
        taken = step_bytes(population, choice)
    return max(1, min(population.replicas, taken.fits(limit + data_bytes(population.stream.data))))


# Running out -----------------------------------------------------------------------------------------


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
    return _answered(lambda: f"Out of {_kind(device)} while {what}: {room(device)}.")


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
    said = f"Out of {_kind(device)} with {counted(replicas)} of {_listed(names)}: {room(device)}"
    try:
        taken = step_bytes(population, choice)
    except (MemoryError, RuntimeError) as error:
        if not is_shortage(error):
            raise
        return f"{said}, and not even {_few(replicas)} can take a step in that: {SMALLER}."
    said += f", and a step takes {readable(taken.of(replicas))}, {readable(taken.replica)} a replica"
    if fits(population, taken) >= replicas:
        return f"{said}. That would fit; metrics take memory besides: bind a smaller probe_size of theirs."
    return f"{said}. {_advice(fits(population, taken))}"


# Saying ----------------------------------------------------------------------------------------------


def room(device: torch.device) -> str:
    """How much is free, of how much, where: "12 GiB of the 16 GiB of this machine are free for this process"."""
    if device.type == "cuda":
        name, total = torch.cuda.get_device_name(device), torch.cuda.mem_get_info(device)[1]
    else:
        name, total = "this machine", psutil.virtual_memory().total
    return f"{readable(free_bytes(device))} of the {readable(total)} of {name} are free for this process"


def counted(replicas: int) -> str:
    """ "1 replica", "30 replicas"."""
    return f"{replicas:,} replica{'s' if replicas > 1 else ''}"


def _advice(most: int) -> str:
    return f"{counted(most)} would fit: {FEWER}."


def _few(replicas: int) -> str:
    return counted(min(replicas, 2))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more variants" if len(names) > 3 else "")


def _kind(device: torch.device) -> str:
    return "GPU memory" if device.type == "cuda" else "memory"
