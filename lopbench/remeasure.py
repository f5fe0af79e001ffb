"""Measures a run's networks afterwards, from the checkpoints that it kept: with run.keep_tasks = 1 one a task.

  python -m lopbench.remeasure --workdir=runs/mine
  python -m lopbench.remeasure --workdir=runs/mine --gin_bindings='run.metrics = [@metrics.Ranks]'

Every metric of run.metrics, whatever its `every`, is measured on each checkpoint's task: as that task begins, and
after the last update. The run is that of the workdir's config.gin; bindings may change what is measured, not the
networks. The values go to the folder remeasured of the workdir, a table like metrics, in place of what is there.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from absl import flags

from lopbench.command_line import parse_own
from lopbench.errors import answering, require


@answering
def main(argv: Sequence[str]) -> int:
    """Do what the flags say; returns the exit status."""
    asked = parse(argv)
    require(asked.workdir is not None, "Which run? Name its folder: --workdir=DIR.")
    from lopbench.analysis.checkpoints import remeasure  # not above, so that --help is quick

    remeasure(asked.workdir, asked.gin_bindings, asked.gin_search_path, asked.data_dir, asked.device)
    return 0


def parse(argv: Sequence[str]) -> flags.FlagValues:
    """The flags' values; a mistake in them is one line on stderr, and exit status 1. --help prints and exits."""
    asked = flags.FlagValues()  # its own: main.py has flags of the same names
    flags.DEFINE_string("workdir", None, "The folder of a run that has saved checkpoints.", asked)
    flags.DEFINE_multi_string("gin_bindings", [], "A line of gin that wins over the run's config.gin.", asked)
    flags.DEFINE_multi_string("gin_search_path", [], "A folder with modules that the run imports.", asked)
    flags.DEFINE_string("data_dir", None, "The folder that holds the data sets.", asked)
    flags.DEFINE_string("device", "auto", "auto (a GPU if there is one), cpu, cuda, or cuda:N.", asked)
    flags.DEFINE_boolean("help", False, "Show this.", asked)
    left = parse_own(asked, argv, __doc__)
    require(not left, f"{' '.join(left)}: not a flag. --help shows the flags.")
    return asked


if __name__ == "__main__":
    sys.exit(main(sys.argv))
