"""One process a folder: a file that names who holds it, with a heartbeat.

    lock.json    {"host": ..., "pid_space": ..., "pid": ..., "started": ..., "token": ..., "since": ...}

The file is made exclusively and removed at the end. It needs neither byte-range locks nor hard links, so it holds on
network file systems. Its time of modification is the heartbeat, which a thread renews. A lock is stale if

- its process was of this host (and of this boot and container: `pid_space`) and is gone: no process has its number,
  or one that started at another time;
- its process can't be seen from here, or its text can't be read, and its heartbeat is old by the clock of the file
  system, which all hosts share.

Who finds a stale lock makes its own beside it, exclusively, under a name that belongs to the stale one's content: so
one process is its successor, and the others wait and see. It then renames its own onto the stale one, if that is still
as it was found. If a successor is killed in between, what it made is stale in turn and has a successor of its own, who
removes it in the end. A holder that was only out of touch is told by `Held.check`.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import math
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

from lopbench import files
from lopbench.errors import UserError

HEARTBEAT = 20.0  #: seconds between two heartbeats
STALE = 120.0  #: seconds without one until a process that can't be seen from here counts as dead

_ATTEMPTS, _PAUSE = 100, 0.05  # while others take the folder or give it back; seconds
_POLL = 1.0  # seconds between two looks for a sign of life
_SAME_START = 2.0  # seconds by which two readings of one start may differ: the time of booting is told in whole ones


@contextmanager
def hold(folder: str | Path, heartbeat: float = HEARTBEAT, stale: float = STALE) -> Iterator[Held]:
    """Hold `folder`, which must be there, within this context; a stale lock is taken over with a line on stderr.

    Raises `UserError` if another process holds it (or this one does so already), or if it can't be written to.
    `heartbeat`, `stale`: seconds (see `HEARTBEAT`, `STALE`). A child that is forked within has no part in the lock.
    """
    held = Held(Path(folder), stale)
    held._take()
    ended = threading.Event()
    try:
        threading.Thread(target=held._beat, args=(heartbeat, ended), name="heartbeat", daemon=True).start()
        yield held
    finally:
        if os.getpid() == held.owner.pid:
            ended.set()
            with suppress(UserError):  # what is left of a lock whose process is gone is stale
                held._remove_ours(held._path)


def holder(folder: str | Path) -> Owner | None:
    """Who holds a folder, as far as can be told without touching it; None: nobody, or a process that is gone.

    Of a process that can't be seen from here the heartbeat tells, by this host's clock.
    """
    found = _read(Path(folder) / "lock.json")
    if found is None or found.owner is None:
        return None
    lives = _lives(found.owner)
    fresh = time.time() - found.beat < STALE
    return found.owner if (fresh if lives is None else lives) else None


@dataclass(frozen=True)
class Owner:
    """Who holds a lock. `started`: seconds, of the boot on Linux; `token`: random, one for each time it is held."""

    host: str
    pid_space: str
    pid: int
    started: float
    token: str
    since: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


@dataclass(frozen=True)
class _Lock:
    """A lock as it was found."""

    content: bytes
    beat: float  # its time of modification

    @property
    def owner(self) -> Owner | None:
        """None if the file is empty, half written or damaged."""
        try:
            owner = Owner(**json.loads(self.content))
        except (ValueError, TypeError, RecursionError):
            return None
        right = isinstance(owner.pid, int) and owner.pid > 0 and isinstance(owner.started, float)
        return owner if right else None

    def __str__(self) -> str:
        return str(self.owner or "an unknown process")


class LockLostError(UserError):
    """This process holds its folder no longer, and must leave the files in it alone."""


class Held:
    """A folder that this process holds."""

    def __init__(self, folder: Path, stale: float) -> None:
        self.folder, self.owner = folder, _this_process()
        self._path = folder / "lock.json"
        self._content = json.dumps(dataclasses.asdict(self.owner), indent=2).encode() + b"\n"
        self._stale = stale

    def check(self) -> None:
        """Raise `LockLostError` if this process holds the folder no longer. Reads one small file."""
        found = _read(self._path)
        if found is None:
            raise LockLostError(
                f"{self._path} is gone: somebody removed it, or its file system has vanished. This run stops, since "
                "another could start there now; its checkpoints are whole."
            )
        if found.content != self._content:
            raise LockLostError(f"This run stops: {found} has taken over {self.folder}. Its checkpoints are whole.")

    def _take(self) -> None:
        stale = None
        for attempt in range(_ATTEMPTS):
            found = _read(self._path)
            if found is None:
                if files.create(self._path, self._content):
                    return
                time.sleep(_PAUSE)
            elif found.content == self._content:
                print(f"{self.folder}: its lock was left behind by {stale}, and is taken over.", file=sys.stderr)
                return
            elif found.owner is None and attempt < 2:  # made just now, perhaps, and in a moment it says by whom
                time.sleep(_PAUSE)
            else:
                self._refuse_unless_stale(found)
                stale = found
                self._take_over(found)
        raise UserError(
            f"{self._path} could be neither made nor taken over. Are others starting here? If not, remove it."
        )

    def _refuse_unless_stale(self, found: _Lock) -> None:
        """Refuse if the holder lives. Of one that can't be seen from here that shows by its next heartbeat.

        So a run that was killed on one host can be started on another at once: it begins when the heartbeat is overdue.
        """
        left = self._seconds_left(found)
        now: _Lock | None = found
        if left:
            print(f"{self.folder} is held by {found}: waiting {math.ceil(left)} s for a sign of life.", file=sys.stderr)
        while left and now == found:
            time.sleep(min(left, _POLL))
            now, left = _read(self._path), self._seconds_left(found)
        if left != 0 and now is not None and now.content == found.content:
            raise UserError(f"{self.folder} is in use by {found}: choose another --workdir, or stop that process.")

    def _seconds_left(self, found: _Lock) -> float | None:
        """How long a lock still counts: 0 if it is stale, None for as long as its process lives."""
        lives = _lives(found.owner)
        if lives is None:
            return max(0.0, self._stale - (self._now() - found.beat))
        return None if lives else 0.0

    def _now(self) -> float:
        """The time by the clock of the file system, as heartbeats are: it may be a server's."""
        probe = self.folder / f".lock.json.{self.owner.token}"
        files.create(probe, b"")
        try:
            files.touch(probe)
            with files.refusals_named(probe):
                return probe.stat().st_mtime
        finally:
            files.remove(probe)

    def _take_over(self, stale: _Lock) -> None:
        """Put our lock in the place of a stale one, unless another process does, or did."""
        left_behind: list[Path] = []
        previous = stale
        while not files.create(ours := self._successor(previous), self._content):
            other = _read(ours)
            if other is None or self._seconds_left(other) != 0:
                time.sleep(_PAUSE)
                return
            left_behind.append(ours)
            previous = other
        try:
            if _read(self._path) == stale:
                with files.refusals_named(self._path):
                    files.disk.rename(ours, self._path)
                for path in left_behind:
                    files.remove(path)
        finally:
            self._remove_ours(ours)

    def _successor(self, stale: _Lock) -> Path:
        return self.folder / f".lock.json.{hashlib.sha256(stale.content).hexdigest()[:16]}"

    def _beat(self, every: float, ended: threading.Event) -> None:
        """Renew the heartbeat until the end; errors, such as a mount that is gone, are for `check` to tell."""
        while not ended.wait(every):
            with suppress(UserError):
                found = _read(self._path)
                if found is not None and found.content == self._content:
                    files.touch(self._path)

    def _remove_ours(self, path: Path) -> None:
        found = _read(path)
        if found is not None and found.content == self._content:
            files.remove(path)


def _read(path: Path) -> _Lock | None:
    """A lock, or None if there is none; opened, since a network file system then asks its server."""
    with files.refusals_named(path):
        try:
            with open(path, "rb") as file:
                return _Lock(file.read(), os.fstat(file.fileno()).st_mtime)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESTALE):  # the latter if it is removed while it is read
                return None
            raise


def _this_process() -> Owner:
    host, pid_space = _here()
    process = psutil.Process()
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return Owner(host, pid_space, process.pid, _started(process), secrets.token_hex(8), since)


def _here() -> tuple[str, str]:
    """The host's name, and that within which its process numbers are unique: this boot, and this container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return socket.gethostname(), f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not told, as on systems other than Linux
        return socket.gethostname(), ""


def _lives(owner: Owner | None) -> bool | None:
    """Whether this process is alive; None if that can't be seen from here."""
    if owner is None or (owner.host, owner.pid_space) != _here():
        return None
    try:
        process = psutil.Process(owner.pid)
        ended = process.status() == psutil.STATUS_ZOMBIE  # only its exit status is left, which nobody has asked for
        return not ended and abs(_started(process) - owner.started) < _SAME_START
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return None


def _started(process: psutil.Process) -> float:
    """When a process started, in seconds: on Linux of the boot, so that setting the clock doesn't change it."""
    return process.create_time() - (psutil.boot_time() if psutil.LINUX else 0.0)
