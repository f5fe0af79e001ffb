"""lopbench: does a method keep a network plastic on a stream of tasks? Trains many replicas at once.

  python -m lopbench.main --gin_file=quickstart.gin
  python -m lopbench.main --gin_file=quickstart.gin --gin_bindings='run.seeds = 5' --workdir=runs/five

A gin file says what is run; flags say where and how. --list shows everything that gin can bind;
without --gin_file you are told which gin files come with lopbench. The same command again goes on with a run that was
stopped or killed. Exit status: 0 finished, 1 something was wrong, 75 stopped by SIGTERM or SIGUSR1 (start it again),
130 stopped by Ctrl-C.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from absl import app, flags

from lopbench.errors import answering, require

FILES = flags.DEFINE_multi_string(
    "gin_file", [], "A gin file: a path, or the name of one of yours or of a shipped one."
)
BINDINGS = flags.DEFINE_multi_string("gin_bindings", [], "A line of gin, such as 'run.seeds = 5'; wins over the files.")
SEARCH_PATHS = flags.DEFINE_multi_string("gin_search_path", [], "A folder with gin files, or modules that they import.")
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where results go, and a run goes on. Without it: runs/NAME, for --gin_file=NAME.gin."
)
DATA_DIR = flags.DEFINE_string("data_dir", None, "The folder that holds the data sets.")
DEVICE = flags.DEFINE_string("device", "auto", "auto (a GPU if there is one), cpu, cuda, or cuda:N.")
OVERWRITE = flags.DEFINE_boolean("overwrite", False, "Delete what an earlier run left in the workdir; start afresh.")
LIST = flags.DEFINE_boolean("list", False, "Show every part by kind, with its parameters, and stop.")
DRY_RUN = flags.DEFINE_boolean("dry_run", False, "Build it, run a few steps on generated data, show the plan, stop.")


@answering
def main(argv: Sequence[str]) -> int:
    """Do what the flags say; returns the exit status."""
    from lopbench import config, listing, lookup  # not above, so that --help is quick

    require(len(argv) == 1, f"{' '.join(argv[1:])}: not a flag. A gin file is given as --gin_file=NAME.gin.")
    if LIST.value:
        config.import_parts()
        print(listing.describe())
        return 0
    require(bool(FILES.value), f"Which --gin_file? {lookup.shipped_runs()}")
    request = config.read(FILES.value, BINDINGS.value, SEARCH_PATHS.value)
    print(*request.notices, sep="\n")
    from lopbench import experiment

    setting = experiment.Setting(
        workdir=WORKDIR.value or f"runs/{lookup.run_name(request.files[0])}",
        data_dir=DATA_DIR.value,
        device=DEVICE.value,
        overwrite=OVERWRITE.value,
        dry_run=DRY_RUN.value,
        command=tuple(sys.argv),
    )
    return experiment.execute(request, setting)


def parse(argv: Sequence[str]) -> list[str]:
    """Parse the flags; a mistake in them is one line on stderr, and exit status 1."""
    try:
        return list(flags.FLAGS(list(argv)))
    except (flags.Error, ValueError, OSError, RecursionError) as error:  # absl raises the others, too
        print(f"{' '.join(str(error).split())[:500]} --help shows the flags.", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
