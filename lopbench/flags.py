"""The flags that every program shares that runs gin files."""

from __future__ import annotations

from absl import flags

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
DRY_RUN = flags.DEFINE_boolean("dry_run", False, "Build it, run a few steps on generated data, show the plan, stop.")
