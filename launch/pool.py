"""The populations of a study on this machine: one process for each that is trained, so many at a time."""

from __future__ import annotations

import collections
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from subprocess import Popen

from lopbench import lock
from lopbench.errors import StoppedError
from lopbench.ledger import Planned
from lopbench.loggers import manifest
from lopbench.signals import Request

from . import populations

POLL = 0.1  #: seconds between two looks at the processes
LOOK = 2.0  #: seconds between two looks at what other launchers do, and between two tables


class Pool:
    """Starts populations one after another, on `devices`, one process on each at a time.

    start: begins a population on a device. say: prints a line; look: called now and then. A population that another
    process trains is left to that, and taken over if it ends too early.
    """

    def __init__(
        self,
        workdir: Path,
        planned: Sequence[Planned],
        devices: Sequence[str],
        start: Callable[[Planned, str], Popen[bytes]],
        say: Callable[[str], None],
        look: Callable[[], None],
    ) -> None:
        self._workdir, self._start, self._say, self._look = workdir, start, say, look
        self._waiting = collections.deque(planned)
        self._free = collections.deque(devices)
        self._running: dict[str, tuple[Planned, Popen[bytes], str]] = {}
        self._failures: collections.Counter[str] = collections.Counter()
        self._looked = 0.0
        self.failed: list[Planned] = []

    def run(self, request: Request) -> None:
        """Train all of them, or as many as can be: `failed` has the others. Raises `StoppedError` after a signal."""
        try:
            while (self._waiting or self._running) and not request:
                self._fill()
                self._collect()
                if time.monotonic() - self._looked >= LOOK:
                    self._looked = time.monotonic()
                    self._look()
                time.sleep(POLL)
        finally:  # also if one of these fails
            self._stop(request.signal or signal.SIGTERM)
        if request:
            raise StoppedError(f"Stopped by {request.name}: the same command goes on from there.", request.status)

    def _fill(self) -> None:
        """Give free devices a population that nobody trains."""
        for _ in range(len(self._waiting)):
            if not self._free:
                return
            planned = self._waiting.popleft()
            folder = self._workdir / planned.folder
            if manifest.read(folder).get("status") == "finished" and not self._failures[planned.folder]:
                continue
            if lock.holder(folder) is not None:  # another launcher's
                self._waiting.append(planned)
                continue
            device = self._free.popleft()
            self._running[planned.folder] = (planned, self._start(planned, device), device)

    def _collect(self) -> None:
        """Note which processes have ended, and how."""
        for name, (planned, process, device) in list(self._running.items()):
            status = process.poll()
            if status is None:
                continue
            del self._running[name]
            self._free.append(device)
            if populations.was_stopped(status):
                self._waiting.append(planned)
            elif status != 0:
                self._note_failure(planned, status)

    def _note_failure(self, planned: Planned, status: int) -> None:
        self._failures[planned.folder] += 1
        log = self._workdir / planned.folder / populations.LOG
        told = f"{planned.folder} failed with status {status}: {populations.last_line(log) or 'it said nothing'}"
        if self._failures[planned.folder] < populations.TRIES:
            self._say(f"{told}\n  It is tried once more.")
            self._waiting.append(planned)
        else:
            self._say(f"{told}\n  It is left out; {log} has all that it said.")
            self.failed.append(planned)

    def _stop(self, number: signal.Signals) -> None:
        """Hand a signal down, and wait until every process has written its checkpoint."""
        for _, process, _ in self._running.values():
            process.send_signal(number)
        for _, process, _ in self._running.values():
            process.wait()
