"""The experiment: from what was asked to results on disk.

`execute` builds every variant before any training, so that a mistake in the last one is found at the start; looks
whether an earlier process has left the same run unfinished, and goes on with that (see resume.py); and leaves in the
workdir:

    config.gin, operative_config.gin   what was asked, and what was used: running the latter repeats the run
    run.json                           versions, command, device, seeds, executors, start, end, status
    metrics/, tensorboard/             every value, and curves to look at
    figures/plasticity.png             online performance over the tasks
    figures/test_accuracy.png          test accuracy over the tasks, where it was measured
    checkpoints/                       the populations' state at the end, and what to go on from
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lopbench import config, dry_run, files, lock, resume, signals, warm_up
from lopbench.analysis.figures import standard_figures
from lopbench.choosing import Choice
from lopbench.errors import require
from lopbench.keyed_random import LAYOUT_VERSION
from lopbench.loggers.console import summary
from lopbench.loggers.manifest import Manifest
from lopbench.protocols import Dataset, Source
from lopbench.resume import START_AFRESH, Start
from lopbench.running import Running
from lopbench.shortage import naming_shortage_of_data, naming_shortage_while, require_room
from lopbench.streams.sources import digest
from lopbench.variants import Group, Surroundings, Variant, group, run


@dataclass(frozen=True)
class Setting:
    """Where and how: what the flags say. None of it changes a number, but for the device's rounding."""

    workdir: str
    data_dir: str | None = None
    device: str = "auto"
    overwrite: bool = False
    dry_run: bool = False
    command: tuple[str, ...] = ()


def resolve_device(name: str) -> torch.device:
    """auto (a GPU if there is one), cpu, cuda, or cuda:N; refuses a GPU that is not there."""
    os.environ.setdefault(
        "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
    )  # which run.deterministic needs before the first product
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    kind, colon, number = name.partition(":")
    right = kind == "cuda" and (number.isdigit() if colon else True)
    require(right, f"--device is {name!r}: it must be auto, cpu, cuda or cuda:N.")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    require(count > 0, f"--device is {name!r}, but torch sees no GPU here. Use --device=cpu, or auto.")
    index = int(number or 0)
    require(index < count, f"--device is {name!r}, but there are {count} GPUs here: cuda:0 to cuda:{count - 1}.")
    return torch.device("cuda", index)


class Loader:
    """Loads each source once."""

    def __init__(self, data_dir: str | None, device: torch.device) -> None:
        self._data_dir, self._device = data_dir, device
        self._loaded: dict[Source, Dataset] = {}

    def __call__(self, source: Source) -> Dataset:
        if source not in self._loaded:
            with naming_shortage_of_data(f"sources.{type(source).__name__}", self._device):
                self._loaded[source] = source.load(self._data_dir, self._device)
        return self._loaded[source]

    def digests(self) -> dict[str, str]:
        """SHA-256 of each data set that was loaded, by its source."""
        return {f"sources.{source}": digest(data) for source, data in self._loaded.items()}


def imitation(device: torch.device) -> Callable[[Source], Dataset]:
    """Generated data of each source's shape, for a dry run: no data set is read."""
    return functools.cache(lambda source: source.imitation().load(None, device))


def build(request: config.Request, surroundings: Surroundings) -> tuple[dict[str, Variant], dict[str, dict]]:
    """Every variant's parts, and the operative bindings of each; refuses bindings that nothing used."""
    variants, operative = {}, {}
    for name in request.variants:
        with request.variant(name):
            variants[name] = run(surroundings)
            operative[name] = request.operative()
    for warning in request.check_used(operative):
        print(warning, file=sys.stderr)
    for key, of in (("run.on_nonfinite", "on_nonfinite"), ("run.checkpoint_* or run.keep_*", "checkpoints")):
        different = len({getattr(variant, of) for variant in variants.values()}) > 1
        require(not different, f"{key} differs between variants: it is of the whole run, so bind it for all of them.")
    return variants, operative


def execute(request: config.Request, setting: Setting) -> int:
    """Run all of it, or what is left of it, or show its plan; the exit status.

    Raises `UserError` if some population lost every replica, and `StoppedError` after a signal.
    """
    device = resolve_device(setting.device)
    load = Loader(setting.data_dir, device)
    with naming_shortage_while("the run is built", device):
        variants, operative = build(request, Surroundings(device, imitation(device) if setting.dry_run else load))
        groups = group(variants, request.points, request.most_replicas)
        chosen = [g.choice() for g in groups]
        if setting.dry_run:
            print(dry_run.describe(groups, chosen))
            return 0
    workdir, asked = files.workdir_at(setting.workdir), request.asked_text()
    require(
        not (workdir / "study.json").exists(),
        f"{workdir} holds a study, whose populations are runs: python -m lopbench.launch.local goes on with it. "
        "Choose another --workdir for a single run.",
    )
    with lock.hold(files.make_folder(workdir)) as held:
        files.remove_leftovers(workdir)
        past = None if setting.overwrite else resume.past(workdir, asked)
        if past is not None and past.finished:
            print(f"{workdir} holds this run, and it has finished: nothing is left to do.")
            _report(workdir)
            return 0
        if past is None or past.start is None:  # a checkpoint's state takes room itself
            for g, choice in zip(groups, chosen, strict=True):
                require_room(g.population(), choice, g.names)
        if setting.overwrite:
            files.remove_results(workdir)
        data = load.digests()
        start = _start(past, workdir, groups, data, device)
        choices = chosen if start is None else _choices(start, device)
        texts = _written_configs(workdir, request, groups, choices, operative)
        manifest = Manifest(workdir, setting.command, device, {name: v.seeds for name, v in variants.items()})
        manifest.update(
            keyed_random_layout=LAYOUT_VERSION,
            executors={", ".join(g.names): vars(c) for g, c in zip(groups, choices, strict=True)},
            data=data,
            populations=[{"variants": g.names, "replicas": len(g.replicas), "steps": g.plan.steps} for g in groups],
            points={name: point.told() for name, point in request.points.items()} if request.swept else None,
        )
        with manifest.finishing():
            with signals.listening() as stop:
                config_digest = resume.digest(asked)
                running = Running(groups, choices, workdir, texts, config_digest, data, start, held, stop)
                with warm_up.beside(workdir / "config.gin", device, setting.data_dir, choices, running.begun):
                    running.train()
            held.check()
            manifest.update(frozen_replicas=running.died, compile_seconds=running.compile_seconds)
            _report(workdir)
            held.check()  # before it is told to have finished
        _require_survivors(groups, running.died)
    return 0


def _written_configs(
    workdir: Path,
    request: config.Request,
    groups: list[Group],
    choices: list[Choice],
    operative: dict[str, dict[str, Any]],
) -> dict[str, str]:
    """config.gin and operative_config.gin, which pins the executors: so that running it gives the same bits."""
    for g, choice in zip(groups, choices, strict=True):
        for name in g.names:
            operative[name] |= choice.bindings()
    texts = {"config.gin": request.asked_text(), "operative_config.gin": request.operative_text(operative)}
    for name, text in texts.items():
        files.write_atomically(workdir / name, text)
    return texts


def _start(
    past: resume.Past | None, workdir: Path, groups: list[Group], data: dict[str, str], device: torch.device
) -> Start | None:
    """What the run goes on from; None: it begins (again, and without what there is, if it had no checkpoint yet)."""
    if past is None:
        return None
    if past.start is None:
        print(f"{workdir} holds this run, but no checkpoint yet: it begins again.")
        files.remove_results(workdir)
        return None
    found, standing = past.start.checkpoint, past.start.standing
    require(
        standing.population < len(groups) == len(standing.choices),
        f"{found.path} is of {len(standing.choices)} populations where the config makes {len(groups)}. {START_AFRESH}",
    )
    resume.require_fits(found, groups[standing.population])
    resume.require_same_data(standing.data, data)
    print(f"{workdir} holds this run: it goes on after {found.step:,} updates of population {standing.population}.")
    resume.tell_what_changed(workdir, device)
    return past.start


def _choices(start: Start, device: torch.device) -> list[Choice]:
    """Each population's executor: the one that it began with."""
    choices = [Choice.of(told, start.checkpoint.path) for told in start.standing.choices]
    for choice in choices:
        choice.require_possible(device)
    return choices


def _report(workdir: Path) -> None:
    """The summary, the figure, and where everything is."""
    text = summary(workdir)
    if text:
        print(f"\n{text}\n")
        for path in standard_figures(workdir):
            print(f"figure:      {path}")
    else:
        print("\nNo task ended, so there is no summary and no figure.")
    print(f"results:     {workdir / 'metrics'}")
    print(f"report:      python -m lopbench.analysis {workdir}")
    print(f"TensorBoard: tensorboard --samples_per_plugin=scalars=0 --logdir={workdir / 'tensorboard'}")


def _require_survivors(groups: list[Group], died: Mapping[str, int]) -> None:
    lost = [", ".join(g.names) for g in groups if all(str(replica.index) in died for replica in g.replicas)]
    require(not lost, f"Every replica of {'; '.join(lost)} turned non-finite: a smaller learning rate may help.")
