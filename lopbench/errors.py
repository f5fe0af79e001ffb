"""How a program ends before its end: `UserError`, whose text is the user's answer, and `StoppedError`, by a signal."""

import functools
import sys
from collections.abc import Callable, Sequence

Main = Callable[[Sequence[str]], int]


class UserError(ValueError):
    """Something the user asked for can't be done.

    The message is one sentence or a short block: it names the value, where it came from and what
    would be right. Raise it before any training where the mistake can be known by then.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        #: as raised: gin wraps exceptions and appends to their `str`, but forwards this attribute
        self.message = message


class StoppedError(Exception):
    """A signal has stopped the run, which can go on later. `status` is the exit status that says so."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def answering(main: Main) -> Main:
    """A program that answers with one message on stderr and an exit status, without a traceback.

    A `UserError` ends in status 1, `StoppedError` in its own, Ctrl-C where nothing else is arranged in 130.
    """

    @functools.wraps(main)
    def answer(argv: Sequence[str]) -> int:
        try:
            return main(argv)
        except UserError as error:
            print(error.message, file=sys.stderr)
            return 1
        except StoppedError as stop:
            print(stop, file=sys.stderr)
            return stop.status
        except KeyboardInterrupt:
            print("Interrupted.", file=sys.stderr)
            return 130

    return answer


def require(condition: bool, message: str) -> None:
    """Raise `UserError(message)` unless `condition` holds."""
    if not condition:
        raise UserError(message)
