"""A population of a study as a process: the command that trains it, or goes on with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from lopbench.ledger import POPULATION, Ledger, Planned
from lopbench.loggers import manifest
from lopbench.signals import REQUEUE

LOG = "log.txt"
#: how often a population is started that fails
TRIES = 2
#: what stops a run that goes on when it is started again; a run that is not yet listening dies of them
STOPPING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def command(
    workdir: str | Path, planned: Planned, data_dir: str | None, device: str, search_paths: Sequence[str] = ()
) -> list[str]:
    """The command that trains a population of the study in `workdir`, from wherever it is given."""
    folder = Path(workdir).absolute() / planned.folder
    flags = {"gin_file": folder / POPULATION, "workdir": folder, "device": device}
    if data_dir is not None:
        flags["data_dir"] = Path(data_dir).expanduser().absolute()
    paths = [f"--gin_search_path={Path(path).absolute()}" for path in search_paths]
    return [sys.executable, "-m", "lopbench.main", *(f"--{name}={value}" for name, value in flags.items()), *paths]


def environment(ledger: Ledger) -> dict[str, str]:
    """The variables of a population's process: it computes on the study's number of threads, and finds what we find."""
    found = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    if ledger.threads is not None:
        found |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(ledger.threads))
    return found


def start(command: Sequence[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start a population, its output at the end of `log`; Ctrl-C reaches it through us only."""
    with open(log, "ab") as out:
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def was_stopped(status: int) -> bool:
    """Whether a process with this status (minus a signal's number, if that ended it) goes on when started again."""
    return status == REQUEUE or -status in STOPPING


def has_finished(folder: Path) -> bool:
    """Whether a population's run has come to its end, with whatever result."""
    return manifest.read(folder).get("status") == "finished"


def last_line(log: Path, begin: int = 0) -> str:
    """What a process said last, behind the first `begin` bytes of its log."""
    try:
        text = log.read_bytes()[begin:].decode(errors="replace")
    except OSError:
        return ""
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""
