"""Real runs in processes of their own, for tests that send them signals and kill them.

`command` starts `python -m lopbench.main`, which imports for seconds before it does anything. A `Server` has imported
all that and forks: each of its runs is a process too, and executes that same module as that command does, but begins
at once. It is this file as a program: it reads one request a line, and answers with the process's number and then with
how it ended.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parent.parent.parent

#: what a run imports, lopbench.main apart: each run executes that anew, as `python -m` does
IMPORTED = (
    *("absl.app", "lopbench.config", "lopbench.experiment", "lopbench.listing"),
    *("pandas", "pyarrow.dataset", "scipy.stats", "matplotlib.figure", "matplotlib.backends.backend_agg"),
)
#: seconds after which a run that has not ended hangs
PATIENCE = 300.0


@dataclass(frozen=True)
class Ended:
    """How a process ended. `status`: its exit status; of one that a signal has ended, minus the signal's number."""

    status: int
    out: str
    err: str


class Run:
    """A process that runs in `folder`, to which it writes the files stdout and stderr.

    `status`: waits so many seconds for its end; None: it has not ended.
    """

    def __init__(self, pid: int, folder: Path, status: Callable[[float], int | None]) -> None:
        self.pid, self._folder, self._status = pid, folder, status

    def send(self, number: int) -> None:
        """Send it a signal, unless it has just ended."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def ended_within(self, seconds: float) -> bool:
        return self._status(seconds) is not None

    def ended(self, seconds: float = PATIENCE) -> Ended:
        """Wait for its end; one that takes longer is killed, and the test fails."""
        status = self._status(seconds)
        if status is None:
            self.send(signal.SIGKILL)
            self._status(PATIENCE)
        out, err = self.out, self.err
        assert status is not None, f"still running after {seconds} seconds\n{out}\n{err}"
        return Ended(status, out, err)

    def wait_for(self, happened: Callable[[], Any], seconds: float = PATIENCE) -> None:
        """Wait until something has happened, which must be before its end."""
        until = time.monotonic() + seconds
        while not happened():
            assert not self.ended_within(0.005), f"ended early\n{self.ended()}"
            assert time.monotonic() < until, f"nothing happened in {seconds} seconds\n{self.out}\n{self.err}"

    @property
    def out(self) -> str:
        return (self._folder / "stdout").read_text()

    @property
    def err(self) -> str:
        return (self._folder / "stderr").read_text()


def environment(**more: str) -> dict[str, str]:
    """That of a run: one thread, and this checkout's lopbench, whatever the folder."""
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **more}


@contextmanager
def command(folder: Path, *arguments: str, prefix: tuple[str, ...] = ()) -> Iterator[Run]:
    """Start `python -m lopbench.main` in a folder; `prefix`: a command that starts it. What is left of it is killed."""
    words = [*prefix, sys.executable, "-m", "lopbench.main", *arguments]
    with open(folder / "stdout", "wb") as out, open(folder / "stderr", "wb") as err, _ctrl_c_counts():
        process = subprocess.Popen(
            words, cwd=folder, env=environment(), stdin=subprocess.DEVNULL, stdout=out, stderr=err
        )

    def status(seconds: float) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(seconds)
        return None

    with _killed_at_last(process):
        yield Run(process.pid, folder, status)


class Server:
    """Forks runs, one at a time. `more`: entries of their environment. To be closed (`contextlib.closing`)."""

    def __init__(self, **more: str) -> None:
        pipe = subprocess.PIPE
        words = [sys.executable, "-m", "tests.end_to_end.processes"]
        with _ctrl_c_counts():
            self._process = subprocess.Popen(
                words, cwd=ROOT, env=environment(**more), stdin=pipe, stdout=pipe, bufsize=0, start_new_session=True
            )
        self._latest: Run | None = None
        assert self._answer(PATIENCE) == 0  # it has imported everything

    def start(self, folder: Path, *arguments: str) -> Run:
        """What `command` does, at once."""
        assert self._latest is None or self._latest.ended_within(0), "another run is under way"
        assert self._process.stdin is not None
        for name in ("stdout", "stderr"):
            (folder / name).write_bytes(b"")  # it may be killed before it opens them
        self._process.stdin.write(json.dumps({"folder": str(folder), "arguments": arguments}).encode() + b"\n")
        pid = self._answer(PATIENCE)
        assert pid is not None
        ended: list[int] = []

        def status(seconds: float) -> int | None:
            if not ended and (answer := self._answer(seconds)) is not None:
                ended.append(answer)
            return ended[0] if ended else None

        self._latest = Run(pid, folder, status)
        return self._latest

    def close(self) -> None:
        with self._process, _killed_at_last(self._process):
            pass

    def _answer(self, seconds: float) -> int | None:
        pipe = self._process.stdout
        assert pipe is not None
        if not select.select([pipe], [], [], seconds)[0]:
            return None
        line = pipe.readline()
        assert line, f"the server of runs has ended with status {self._process.wait(PATIENCE)}"
        return int(line)


@contextmanager
def _killed_at_last(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def _ctrl_c_counts() -> Iterator[None]:
    """Within this context processes are started that Ctrl-C ends, even if these tests ignore it (in the background)."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


# The server's side ------------------------------------------------------------------------------------


def _serve(requests: IO[str]) -> None:
    for module in IMPORTED:
        importlib.import_module(module)
    from lopbench import config

    config.import_parts()
    gc.collect()
    gc.freeze()  # a collection in a forked process would touch, and so copy, all that was imported
    warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside the thread of pyarrow's allocator
    _tell(0)
    while line := requests.readline():
        pid = os.fork()
        if not pid:
            _become(**json.loads(line))
        _tell(pid)
        _, status = os.waitpid(pid, 0)
        _tell(os.waitstatus_to_exitcode(status))
    os._exit(0)


def _tell(number: int) -> None:
    os.write(1, b"%d\n" % number)


def _become(folder: str, arguments: list[str]) -> None:
    """In a forked process: be the command, and end as it would, but for the seconds of an interpreter's own end."""
    os.chdir(folder)
    sys.path[0] = folder
    sys.argv = ["-m", *arguments]
    for descriptor, path in enumerate((os.devnull, "stdout", "stderr")):
        opened = os.open(path, os.O_RDONLY if descriptor == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(opened, descriptor)
    try:
        runpy.run_module("lopbench.main", run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _serve(sys.stdin)
