"""How far a study is, or a run: a table that is brought up to date until everything has finished or you press Ctrl-C.

  python -m launch.status WORKDIR
  python -m launch.status WORKDIR --once

It only reads, so Ctrl-C leaves the study as it is. Where stdout is no terminal the table is printed once.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from absl import app, flags

from lopbench.command_line import parse
from lopbench.errors import answering, require

ONCE = flags.DEFINE_boolean("once", False, "Print the table once, and stop.")
EVERY = flags.DEFINE_float("every", 2.0, "Seconds from one look to the next.", lower_bound=0.1)


@answering
def main(argv: Sequence[str]) -> int:
    """Show the table; returns the exit status."""
    from .board import Board
    from .overview import table
    from .standing import Standing

    require(len(argv) == 2, "Which WORKDIR? python -m launch.status WORKDIR")
    standing, board = Standing(argv[1]), Board()
    if ONCE.value or not board.in_place:
        print(table(standing.lines()))
        return 0
    try:
        while True:
            lines = standing.lines()
            board.show(lines)
            if all(line.state == "finished" for line in lines):
                return 0
            time.sleep(EVERY.value)
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
