"""The one exception whose text is the user's answer: shown without a traceback, exit status 1."""

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


def answering(main: Main) -> Main:
    """A program whose mistakes by the user end in their message on stderr and status 1, and Ctrl-C in status 130."""

    @functools.wraps(main)
    def answer(argv: Sequence[str]) -> int:
        try:
            return main(argv)
        except UserError as error:
            print(error.message, file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("Interrupted.", file=sys.stderr)
            return 130

    return answer


def require(condition: bool, message: str) -> None:
    """Raise `UserError(message)` unless `condition` holds."""
    if not condition:
        raise UserError(message)
