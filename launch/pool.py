"""The populations of a study on this machine: one process for each that is trained, so many at a time."""

from __future__ import annotations

import collections
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

from lopbench import lock
from lopbench.errors import StoppedError
from lopbench.ledger import Planned
from lopbench.signals import Request

from . import populations

POLL = 0.1  #: seconds between two looks at the processes
LOOK = 2.0  #: seconds between two looks at what other launchers do, and between two tables


@dataclass(frozen=True)
class Training:
    """A population that a process of ours trains, on a device; the log had `said` bytes when it began."""

    planned: Planned
    process: Popen[bytes]
    device: str
    said: int


class Pool:
    """Starts populations one after another, on `devices`, one process on each at a time.

    start: begins a population on a device. say: prints a line; look: called now and then. A population that another
    process trains is left to that, and taken over if it ends too early; on this machine it takes a place of ours.
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
        self._running: list[Training] = []
        self._failures: collections.Counter[str] = collections.Counter()
        self._looked = -LOOK
        self.failed: list[Planned] = []

    def run(self, request: Request) -> None:
        """Train all of them, or as many as can be: `failed` has the others. Raises `StoppedError` after a signal."""
        try:
            while (self._waiting or self._running) and not request:
                ended, due = self._collect(), time.monotonic() - self._looked >= LOOK
                if self._free and (ended or due):
                    self._fill()
                if due:
                    self._looked = time.monotonic()
                    self._look()
                time.sleep(POLL)
        finally:  # also if one of these fails
            self._stop(request.signal or signal.SIGTERM)
        if request:
            raise StoppedError(f"Stopped by {request.name}: the same command goes on from there.", request.status)

    def _fill(self) -> None:
        """Give free devices a population that nobody trains."""
        owners = {one.folder: lock.holder(self._folder(one)) for one in self._waiting}
        here = sum(owner is not None and owner.host == socket.gethostname() for owner in owners.values())
        for _ in range(len(self._waiting)):
            planned = self._waiting.popleft()
            if owners[planned.folder] is None and populations.has_finished(self._folder(planned)):
                continue
            if owners[planned.folder] is not None or len(self._free) <= here:
                self._waiting.append(planned)
                continue
            log = self._folder(planned) / populations.LOG
            said = log.stat().st_size if log.exists() else 0
            device = self._free.popleft()
            self._running.append(Training(planned, self._start(planned, device), device, said))

    def _collect(self) -> bool:
        """Note which processes have ended, and how; whether any has."""
        ended = [one for one in self._running if one.process.poll() is not None]
        for one in ended:
            status = one.process.returncode
            self._running.remove(one)
            self._free.append(one.device)
            folder = self._folder(one.planned)
            elsewhere = lock.holder(folder) is not None  # another launcher was quicker
            if elsewhere or populations.was_stopped(status) or populations.has_finished(folder):
                self._waiting.append(one.planned)
            else:
                self._note_failure(one, status)
        return bool(ended)

    def _note_failure(self, one: Training, status: int) -> None:
        name, log = one.planned.folder, self._folder(one.planned) / populations.LOG
        self._failures[name] += 1
        told = f"{name} failed with status {status}: {populations.last_line(log, one.said) or 'it said nothing'}"
        if self._failures[name] < populations.TRIES:
            self._say(f"{told}\n  It is tried once more.")
            self._waiting.append(one.planned)
        else:
            self._say(f"{told}\n  It is left out; {log} has all that it said.")
            self.failed.append(one.planned)

    def _stop(self, number: signal.Signals) -> None:
        """Hand a signal down, and wait until every process has written its checkpoint."""
        for one in self._running:
            one.process.send_signal(number)
        for one in self._running:
            one.process.wait()

    def _folder(self, planned: Planned) -> Path:
        return self._workdir / planned.folder
