"""Compiling ahead: `python -m lopbench.warm_up RUN CONFIG DEVICE FIRST [DATA_DIR]` fills the compiler's cache on disk.

While process RUN trains population FIRST, this process builds the later ones and runs their blocks once, so that RUN
finds them compiled. It changes no result: if it fails or comes too late, RUN compiles by itself. It ends with RUN,
however that ends.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from lopbench import config
from lopbench.choosing import Choice
from lopbench.events import Events
from lopbench.executors import stretch
from lopbench.learner import initial_state
from lopbench.protocols import Clock
from lopbench.variants import Group


@contextmanager
def beside(
    config_file: Path, device: torch.device, data_dir: str | None, choices: Sequence[Choice], first: int = 0
) -> Iterator[None]:
    """Compile ahead within this context, where that helps: compiled populations after `first`, and a core to spare."""
    later = [choice for choice in choices[first + 1 :] if choice.executor.endswith("compiled")]
    if device.type != "cpu" or not later or (os.cpu_count() or 1) < 2:
        yield
        return
    command = [
        sys.executable,
        "-m",
        "lopbench.warm_up",
        str(os.getpid()),
        str(config_file),
        str(device),
        str(first),
        *([data_dir] if data_dir else []),
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, env=environment, stdin=quiet, stdout=quiet, stderr=quiet)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def warm(g: Group, choice: Choice) -> None:
    """Run a hot block of a population, and one with its first event."""
    population = g.population()
    executor, state = choice.build(population), initial_state(population)
    tables = population.stream.prepare(0)

    def clock() -> Clock:
        return Clock(*(torch.tensor(0, device=population.device) for _ in range(3)))

    stretch(executor, state, clock(), choice.block_steps, tables)
    first = Events(population).ahead
    if first is not None:
        stretch(executor, state, clock(), 1, tables, [(0, first[1])])


def _end_with(run: int) -> None:
    """End this process once its run has, which may have been killed, and even before this one looked."""
    while os.getppid() == run:
        time.sleep(1)
    os._exit(1)


def main(run: str, config_file: str, device: str, first: str, data_dir: str | None = None) -> None:
    threading.Thread(target=_end_with, args=(int(run),), daemon=True).start()
    from lopbench.experiment import Loader, build
    from lopbench.variants import Surroundings, group

    where = torch.device(device)
    request = config.read([config_file])
    variants, _ = build(request, Surroundings(where, Loader(data_dir, where)))
    groups = group(variants, request.points, request.most_replicas)
    for g in groups[int(first) + 1 :]:
        choice = g.choice()
        if choice.executor.endswith("compiled"):
            warm(g, choice)


if __name__ == "__main__":
    main(*sys.argv[1:])
