"""The analysis of saved networks: metrics measured on a run's checkpoints, as the run itself would have measured them.

Both papers analyse their incremental image runs in this way: dormant units and ranks of the network that begins a
task, on images of the classes to come and of those before (Dohare et al. 2024; Hernandez-Garcia et al. 2025, who also
measure weight magnitudes by kind of layer, and of the final network).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from lopbench import checkpoint, config, files, lock
from lopbench.checkpoint import Checkpoint
from lopbench.errors import require
from lopbench.experiment import Loader, build, resolve_device
from lopbench.loggers.table import Table
from lopbench.precision import multiplying
from lopbench.probing import all_cores, measure
from lopbench.resume import digest, require_fits
from lopbench.training import as_records
from lopbench.variants import Group, Surroundings, group

FOLDER = "remeasured"


def remeasure(
    workdir: str | Path,
    bindings: Sequence[str] = (),
    search_paths: Sequence[str] = (),
    data_dir: str | None = None,
    device: str = "auto",
) -> None:
    """Measure a run's checkpoints, write the values to `workdir`/remeasured, and print how many there are.

    A metric that the run measured itself gives the same values, on a CPU to the bit.
    Raises `UserError` if there is no run, no checkpoint or no metric, if a file is damaged, if the config is not that
    of the run, or if with `bindings` it makes other replicas or networks than a population's first checkpoint holds.
    Until these are found to fit, what an earlier call wrote stays.
    """
    workdir = Path(workdir)
    config_file = workdir / "config.gin"
    require(config_file.is_file(), f"There is no run in {workdir}: it holds no config.gin.")
    saved = checkpoint.saved(workdir)
    require(
        bool(saved),
        f"There are no checkpoints in {workdir}: a run saves one at its end, and with run.keep_tasks = 1 one a task.",
    )
    where = resolve_device(device)
    request = config.read([str(config_file.absolute())], bindings, search_paths)
    asked = digest(config_file.read_text(encoding="utf-8"))
    variants, _ = build(request, Surroundings(where, Loader(data_dir, where)))
    groups = group(variants, request.points, request.most_replicas)
    require(any(g.plan.metrics for g in groups), "run.metrics is empty: bind it to what shall be measured.")
    for number, paths in saved.items():
        require(number < len(groups), f"{paths[0].parent} is no population of the config, which makes {len(groups)}.")
        require_fits(_load(asked, paths[0]), groups[number])

    with lock.hold(files.make_folder(workdir / FOLDER, parents=False)):
        table = Table(workdir, [replica for g in groups for replica in g.replicas], folder=FOLDER)
        for number, paths in saved.items():
            before = table.rows
            _measure_population(groups[number], paths, partial(_load, asked), table)
            names, rows = ", ".join(groups[number].names), table.rows - before
            print(f"population {number} ({names}): {len(paths)} checkpoints, {rows:,} rows")
        table.close()
    print(f"results:     {table.folder}, {table.rows:,} rows")


def _load(asked: str, path: Path, device: torch.device | str = "cpu") -> Checkpoint:
    """A checkpoint, if it is of the run whose config has the digest `asked`."""
    found = checkpoint.load(path, device)
    same = (found.run or {}).get("config", asked) == asked
    require(same, f"{path} is of a run with another config than config.gin is now.")
    return found


def _measure_population(g: Group, paths: Sequence[Path], load: Callable[..., Checkpoint], table: Table) -> None:
    """Measure one checkpoint after another; one state is held at a time."""
    population = g.population()
    for path in tqdm(paths, disable=None, leave=False):
        found = load(path, population.device)
        with all_cores(), multiplying(g.first.precision):  # as in the run: the last bits of a sum depend on it
            values = measure(population, found.state, g.plan.metrics, found.task, found.step)
        table.write(g.replicas, as_records(values, found.state, found.step, found.task))
