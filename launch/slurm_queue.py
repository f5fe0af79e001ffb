"""The jobs of a study on a SLURM cluster: submitted, remembered and looked up, by `squeue` and not by `sacct`.

    WORKDIR/slurm/jobs.json    {population's folder: its jobs, the latest last}
    WORKDIR/slurm/             besides, what submitit writes: scripts, pickles, results, and what each job printed

There may be no accounting database, so nothing but the queue is asked for. A job that is in it no longer has ended; if
it left a result it ended by itself, and else it was lost: killed, cancelled, or its node went.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lopbench import files
from lopbench.errors import UserError, require

from . import slurm_job


class Jobs:
    """The jobs of the study in `workdir`."""

    def __init__(self, workdir: Path) -> None:
        self.folder = files.make_folder(workdir / "slurm")
        self._path = self.folder / "jobs.json"
        self._jobs = remembered(workdir)

    def latest(self, population: str) -> str | None:
        """The number of a population's latest job, such as "12_3"; None: it had none yet."""
        return self._jobs[population][-1] if self._jobs.get(population) else None

    def submit(self, tasks: Sequence[slurm_job.Task], parameters: Mapping[str, Any]) -> None:
        """Submit a job for each task, as one array, and remember them. `parameters`: submitit's, of SLURM.

        Raises `UserError` with what `sbatch` says if it refuses.
        """
        import submitit
        from submitit.core.utils import FailedJobError

        executor = submitit.SlurmExecutor(self.folder)
        executor.update_parameters(**parameters)
        try:
            with _uninterrupted():
                for task, job in zip(tasks, executor.map_array(slurm_job.train, tasks), strict=True):
                    self._jobs.setdefault(task.folder, []).append(job.job_id)
                files.write_atomically(self._path, json.dumps(self._jobs, indent=1) + "\n")
        except FailedJobError as error:
            raise UserError(f"SLURM refuses the jobs: {_last_line(str(error))}") from error

    def ended_by_itself(self, job: str) -> bool:
        """Of a job that is not in the queue: whether it came to its end, well or not; else it was lost."""
        return (self.folder / f"{job}_0_result.pkl").exists()

    def log(self, job: str) -> Path:
        """What a job printed: not its run, but the scripts around it."""
        return self.folder / f"{job}_0_log.out"


def remembered(workdir: Path) -> dict[str, list[str]]:
    """The jobs of each population, by its folder; empty where none were ever submitted."""
    path = workdir / "slurm" / "jobs.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} can't be read ({error}). If none of this study's jobs is in the queue any more, remove it."
        ) from error


def queued() -> dict[str, str]:
    """This user's jobs that are queued or running, and the state of each, such as "12_3": "RUNNING".

    Raises `UserError` if SLURM does not answer.
    """
    command = ["squeue", "--noheader", "--array", f"--user={os.getuid()}", "--format=%i %T"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"{command[0]} does not answer: {error}") from error
    require(answer.returncode == 0, f"squeue does not answer: {_last_line(answer.stderr)}")
    return dict(line.split() for line in answer.stdout.splitlines())


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Within this context Ctrl-C does nothing: jobs that were submitted and not remembered would be submitted again."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it says nothing"
