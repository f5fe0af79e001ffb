"""Parsing of a command line: with absl's one set of flags, or with a program's own."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

from absl import flags


def parse(argv: Sequence[str]) -> list[str]:
    """Parse the flags; what is left of `argv`. A mistake in them is one line on stderr, and exit status 1."""
    try:
        return list(flags.FLAGS(list(argv)))
    except (flags.Error, ValueError, OSError, RecursionError) as error:  # absl raises the others, too
        _refuse(error)


def parse_own(asked: flags.FlagValues, argv: Sequence[str], doc: str | None) -> list[str]:
    """The same with flags of one's own, `asked`; with --help, one of them, they are printed after `doc`."""
    try:
        left = list(asked(list(argv))[1:])
    except (flags.Error, ValueError, OSError, RecursionError) as error:
        _refuse(error)
    if asked.help:
        print(f"{doc}{asked.main_module_help()}")
        sys.exit(0)
    return left


def _refuse(error: Exception) -> NoReturn:
    print(f"{' '.join(str(error).split())[:500]} --help shows the flags.", file=sys.stderr)
    sys.exit(1)
