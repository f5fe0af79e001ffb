"""Signals while a run trains: the first one asks it to stop where it can go on from, a second Ctrl-C ends it at once.

    SIGTERM, SIGUSR1, SIGUSR2    what schedulers send before they take a machine back: status REQUEUE, "start me again"
    SIGINT                       Ctrl-C: status 130, as shells have it

Nothing is raised from within a handler: the loop asks between two calls of the executor, so that a file that is being
written, or a step that is being made, is never torn.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

#: EX_TEMPFAIL of sysexits.h: "temporary failure; the user is invited to retry"
REQUEUE = 75
#: the exit status after each signal that stops a run
STATUS = {
    getattr(signal, name): status
    for name, status in (("SIGTERM", REQUEUE), ("SIGUSR1", REQUEUE), ("SIGUSR2", REQUEUE), ("SIGINT", 130))
    if hasattr(signal, name)
}


class Request:
    """Whether a signal has asked to stop; `signal` is the first one that did, or None."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    @property
    def name(self) -> str:
        assert self.signal is not None
        return "Ctrl-C" if self.signal is signal.SIGINT else self.signal.name

    @property
    def status(self) -> int:
        assert self.signal is not None
        return STATUS[self.signal]

    def note(self, number: int, frame: FrameType | None = None) -> None:
        """The handler. From now on Ctrl-C is the operating system's: it ends the process even within a long call."""
        self.signal = self.signal or signal.Signals(number)
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        if number == signal.SIGINT:
            hint = (
                b"\nStopping with a checkpoint after this step. Ctrl-C again stops at once, and loses what is newer.\n"
            )
            with suppress(OSError):
                os.write(2, hint)  # stderr; print() must not be called from within itself


@contextmanager
def listening() -> Iterator[Request]:
    """Within this context signals make a request; before and after they mean what they meant before.

    But the scheduler's signal that made the request is ignored from then on: who sends it again while the process ends
    (as `timeout` does) still gets the status that says so. A signal that the process was told to ignore (Ctrl-C under
    nohup) stays ignored. Outside of the main thread there is nothing to listen to.
    """
    request = Request()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    heard = [number for number in STATUS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, request.note) for number in heard}
    try:
        yield request
    finally:
        for number, handler in before.items():
            again = number == request.signal and number != signal.SIGINT
            signal.signal(number, signal.SIG_IGN if again else handler)
