"""Runs a study on a SLURM cluster, one job a population, and shows how far it is. Needs pip install 'lopbench[slurm]'.

  python -m launch.slurm --gin_file=F.gin --workdir=W --partition=gpu --gpus=1 --time=4:00:00 --mem=16G

Run it where `sbatch` is. Ctrl-C leaves the jobs as they are; the same command again sees what has finished and what is
queued or running, and submits the rest. A job that runs out of time or is preempted stops with a checkpoint and is
queued again. A run that fails is tried once more within its job; a job that is lost is submitted once more. Exit
status: 0 all has finished (or was submitted, with --nowatch), 1 something was wrong or a population failed, 130 Ctrl-C.

What all of your studies share, such as --partition, stands in a site file, one flag a line, that --site names; else the
environment's LOPBENCH_SLURM_SITE; else it is ~/.config/lopbench/slurm.flags, if there. Flags of the command win over
it; those that may be given several times are added to it.

Populations are packed to --mem. With --gpus they are not, since their memory can't be seen from here: if a GPU's is too
small for one, bind sweep.most_replicas.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import app, flags

import lopbench.flags
from lopbench.errors import UserError, answering, require
from lopbench.flags import DEVICE, DRY_RUN

from . import slurm_flags
from .planning import Asked, asked, counted, describe, plan
from .slurm_flags import (
    CPUS,
    GPUS,
    MAX_PARALLEL,
    MEM,
    POLL_SECONDS,
    WATCH,
    memory_bytes,
    parse_with_site,
    sbatch_parameters,
)

if TYPE_CHECKING:
    from lopbench.ledger import Ledger

for shown in (lopbench.flags, slurm_flags):  # by --help
    flags.adopt_module_key_flags(shown)


@answering
def main(argv: Sequence[str]) -> int:
    """Do what the flags say; returns the exit status."""
    parameters = sbatch_parameters()
    if not DRY_RUN.value:
        _require_programs()
    study = asked(argv)
    import torch

    device, room = torch.device("cpu"), _room()  # what the jobs' nodes have can't be seen from here
    if DRY_RUN.value:
        print(describe(study, device, room, MAX_PARALLEL.value))
        return 0
    ledger = plan(study, device, None if GPUS.value else CPUS.value, room)
    print(f"{study.workdir}: {counted(ledger)}")
    parameters["job_name"] = f"lopbench-{study.name}"
    return _run(study, ledger, parameters)


def _require_programs() -> None:
    try:
        import submitit  # noqa: F401
    except ImportError as error:
        raise UserError(f"submitit is missing ({error}): pip install 'lopbench[slurm]'") from error
    require(shutil.which("sbatch") is not None, "There is no sbatch here: run this where jobs are submitted from.")


def _room() -> float | None:
    """Bytes that a population may take: a job's; None, of a GPU or a whole node that can't be seen from here: any."""
    from lopbench.shortage import USABLE

    memory = None if GPUS.value or MEM.value is None else memory_bytes(MEM.value)
    return USABLE * memory if memory else None  # to sbatch 0 is the whole node's


def _run(study: Asked, ledger: Ledger, parameters: dict[str, Any]) -> int:
    """Submit what is left, and watch it; the exit status."""
    from lopbench import files, lock

    from .board import Board
    from .slurm_job import Task
    from .slurm_queue import Jobs
    from .slurm_watch import Watch
    from .standing import Standing

    workdir = study.workdir.absolute()
    data_dir = None if study.data_dir is None else str(Path(study.data_dir).expanduser().absolute())
    device = DEVICE.value if DEVICE.value != "auto" else "cuda" if GPUS.value else "cpu"
    paths = tuple(str(Path(path).absolute()) for path in study.search_paths)
    tasks = [Task(str(workdir), planned.folder, data_dir, device, paths) for planned in ledger.populations]
    with lock.hold(files.make_folder(workdir / "slurm")):
        watch = Watch(Standing(workdir), Jobs(workdir), tasks, parameters, Board())
        watch.submit()
        if not WATCH.value:
            return 0
        try:
            finished = watch.until_the_end(POLL_SECONDS.value)
        except KeyboardInterrupt:
            print("\nThe jobs stay as they are, and the same command watches them again.")
            print(f"How far they are: python -m launch.status {study.workdir}")
            print(f"To cancel them:   scancel --name={parameters['job_name']}")
            return 130
    print(f"report: python -m lopbench.analysis {study.workdir}")
    return 0 if finished else 1


if __name__ == "__main__":
    app.run(main, flags_parser=parse_with_site)
