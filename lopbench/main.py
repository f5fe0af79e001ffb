"""lopbench: does a method keep a network plastic on a stream of tasks? Trains many replicas at once.

  python -m lopbench.main --gin_file=quickstart.gin
  python -m lopbench.main --gin_file=quickstart.gin --gin_bindings='run.seeds = 5' --workdir=runs/five

A gin file says what is run; flags say where and how. --list shows everything that gin can bind;
without --gin_file you are told which gin files come with lopbench. The same command again goes on with a run that was
stopped or killed. Exit status: 0 finished, 1 something was wrong, 75 stopped by SIGTERM, SIGUSR1 or
SIGUSR2 (start it again), 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from absl import app, flags

from lopbench.command_line import parse
from lopbench.errors import answering, require
from lopbench.flags import BINDINGS, DATA_DIR, DEVICE, DRY_RUN, FILES, SEARCH_PATHS, WORKDIR

flags.adopt_module_key_flags(sys.modules["lopbench.flags"])  # for --help
OVERWRITE = flags.DEFINE_boolean("overwrite", False, "Delete what an earlier run left in the workdir; start afresh.")
LIST = flags.DEFINE_boolean("list", False, "Show every part by kind, with its parameters, and stop.")


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


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
