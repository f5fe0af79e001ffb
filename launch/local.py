"""A study on this machine: every population of a gin file, on all GPUs, or in several processes; then the report.

  python -m launch.local --gin_file=quickstart.gin
  python -m launch.local --gin_file=study.gin --workdir=runs/study --processes=4
  python -m launch.local --gin_file=study.gin --dry_run

The same command again goes on with a study that was stopped, and with a gin file that asks for more seeds or values it
trains these. How the study is packed into populations does not depend on how many processes there are, so the numbers
don't either. python -m launch.status WORKDIR shows how far it is. Exit status: 0 all has finished, 1 something was
wrong or a population failed twice, 75 stopped by SIGTERM, SIGUSR1 or SIGUSR2 (start it again), 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import app, flags

from lopbench.command_line import parse
from lopbench.errors import answering, require
from lopbench.flags import DEVICE, DRY_RUN

from .planning import Asked, asked, counted, describe, plan

if TYPE_CHECKING:
    from subprocess import Popen

    from lopbench.ledger import Ledger, Planned

flags.adopt_module_key_flags(sys.modules["lopbench.flags"])  # for --help
PROCESSES = flags.DEFINE_integer(
    "processes", None, "How many populations at a time; without it one a GPU, or as many as the cores allow.", 1
)
THREADS = flags.DEFINE_integer(
    "threads",
    None,
    "Processor threads of each process, of the whole study: 1 without it, on a GPU as many as it likes.",
    1,
)


@answering
def main(argv: Sequence[str]) -> int:
    """Do what the flags say; returns the exit status."""
    study = asked(argv)
    from lopbench.experiment import resolve_device
    from lopbench.shortage import share_bytes

    device = resolve_device(DEVICE.value)
    threads = _threads(study, device.type)
    devices = _devices(device.type, device.index, threads)
    room = share_bytes(device, threads)
    if DRY_RUN.value:
        print(describe(study, device, room, len(devices)))
        return 0
    ledger = plan(study, device, threads, room)
    count, each = len(devices), f" of {threads} thread{'s' if threads != 1 else ''}" if threads else ""
    print(f"{study.workdir}: {counted(ledger)}, {count} process{'es' if count != 1 else ''} at a time{each}")
    failed = _train(study, ledger, devices)
    _report(study)
    require(not failed, f"{failed} of {len(ledger.populations)} populations failed twice (see above).")
    return 0


def _threads(study: Asked, kind: str) -> int | None:
    """Threads of each process: those that the study has begun with, for they decide how sums are rounded."""
    from lopbench.ledger import is_study, read

    wanted = THREADS.value or (1 if kind == "cpu" else None)
    if not is_study(study.workdir):
        return wanted
    begun = read(study.workdir).threads
    require(
        THREADS.value in (None, begun),
        f"--threads is {THREADS.value}, and {study.workdir} has begun with {begun or 'as many as there are'}: "
        "leave it out, or choose another --workdir.",
    )
    return begun


def _devices(kind: str, index: int | None, threads: int | None) -> list[str]:
    """The device of each process: every GPU unless one is named, or the processor as often as its cores allow."""
    import torch

    if kind == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return ["cpu"] * (PROCESSES.value or max(1, cores // (threads or cores)))
    one = index is not None and DEVICE.value.startswith("cuda:")
    gpus = [f"cuda:{index}"] if one else [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return [gpus[number % len(gpus)] for number in range(PROCESSES.value or len(gpus))]


def _train(study: Asked, ledger: Ledger, devices: Sequence[str]) -> int:
    """Train what is left; how many populations failed."""
    from lopbench import signals

    from . import populations
    from .board import Board
    from .pool import Pool
    from .standing import Standing

    board, standing, environment = Board(), Standing(study.workdir), populations.environment(ledger)

    def start(planned: Planned, device: str) -> Popen[bytes]:
        command = populations.command(study.workdir, planned, study.data_dir, device, study.search_paths)
        return populations.start(command, environment, study.workdir / planned.folder / populations.LOG)

    with signals.listening() as request:
        pool = Pool(study.workdir, ledger.populations, devices, start, board.say, lambda: board.show(standing.lines()))
        pool.run(request)
    board.show(standing.lines())
    return len(pool.failed)


def _report(study: Asked) -> None:
    from lopbench.analysis.report import write_report

    print(f"report:      {write_report([study.workdir])}")
    print(f"TensorBoard: tensorboard --samples_per_plugin=scalars=0 --logdir={shlex.quote(str(study.workdir))}")


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
