"""Where the table of a study is shown: in place on a terminal; elsewhere, as in a log, only what has changed."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from typing import TextIO

from .overview import Line, table, total

_UP_AND_CLEAR = "\x1b[{}F\x1b[J"  # ECMA-48: cursor to the start of the line that many above, erase from there on


class Board:
    """Shows tables one after another, each in place of the one before, and lines that stay."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self.in_place = self._stream.isatty()
        self._height = 0  # lines of the table that is shown
        self._states: list[str] = []

    def show(self, lines: Sequence[Line]) -> None:
        """Show how things stand: all of it on a terminal; elsewhere the totals, when a population's state changed."""
        states = [line.state for line in lines]
        if self.in_place:
            self._clear()
            text = table(lines, shutil.get_terminal_size())
            self._height = text.count("\n") + 1
            print(text, file=self._stream, flush=True)
        elif states != self._states:
            print(total(lines), file=self._stream, flush=True)
        self._states = states

    def say(self, text: str) -> None:
        """Print lines that stay, above the table that is shown next."""
        self._clear()
        print(text, file=self._stream, flush=True)

    def _clear(self) -> None:
        if self._height:
            self._stream.write(_UP_AND_CLEAR.format(self._height))
            self._height = 0
