"""The report of studies and runs: curves, tables, sensitivity and correlates in one HTML file, and files for papers.

  python -m lopbench.analysis runs/quickstart
  python -m lopbench.analysis runs/a runs/b --tag=units/dead --statistic=iqm --out=both

It takes the folders of studies and runs, and reads them however far they are: what is still missing, damaged or has
diverged is named at the top of the report. Exit status: 0 written, 1 something was wrong.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from lopbench.command_line import parse_own
from lopbench.errors import answering, require


@answering
def main(argv: Sequence[str]) -> int:
    """Write the report of the workdirs that are named; returns the exit status."""
    asked, workdirs = parse(argv)
    require(bool(workdirs), "A report of what? Name studies or runs: python -m lopbench.analysis WORKDIR...")
    from lopbench.analysis.report import write_report  # not above, so that --help is quick

    wanted: dict[str, Any] = {name: asked[name].value for name in ("out", "over", "bins", "statistic", "baseline")}
    print(f"report:      {write_report(workdirs, tags=asked.tag, **wanted)}")
    return 0


def parse(argv: Sequence[str]) -> tuple[flags.FlagValues, list[str]]:
    """The flags' values, and the workdirs; a mistake is one line on stderr, and status 1. --help prints and exits."""
    asked = flags.FlagValues()  # its own, without those of the programs that train
    flags.DEFINE_multi_string("tag", [], "A tag to draw besides the one that the study is judged by.", asked)
    flags.DEFINE_enum("over", "task", ["task", "step"], "What curves go over.", asked)
    flags.DEFINE_integer("bins", 100, "The most points of a curve: neighbours are averaged.", 1, None, asked)
    flags.DEFINE_enum("statistic", "mean", ["mean", "iqm"], "Of curves; iqm: the interquartile mean.", asked)
    flags.DEFINE_string("baseline", None, "The variant to compare with; without it the first.", asked)
    flags.DEFINE_string("out", None, "The report's folder; without it: report, in the first workdir.", asked)
    flags.DEFINE_boolean("help", False, "Show this.", asked)
    return asked, parse_own(asked, argv, __doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
