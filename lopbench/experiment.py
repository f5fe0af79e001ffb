"""The experiment: from what was asked to results on disk.

`execute` builds every variant before any training, so that a mistake in the last one is found at the start;
then trains population after population, and leaves in the workdir:

    config.gin, operative_config.gin   what was asked, and what was used: running the latter repeats the run
    run.json                           versions, command, device, seeds, executors, start, end, status
    metrics/, tensorboard/             every value, and curves to look at
    figures/plasticity.png             online performance over the tasks
    figures/test_accuracy.png          test accuracy over the tasks, where it was measured
    checkpoints/                       the populations' state, where `run.checkpoints` asks for it
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lopbench import checkpoint, config, dry_run, files, warm_up
from lopbench.analysis.figures import standard_figures
from lopbench.errors import require
from lopbench.executors import Choice, choose
from lopbench.keyed_random import LAYOUT_VERSION
from lopbench.loggers.console import Progress, summary
from lopbench.loggers.manifest import Manifest
from lopbench.loggers.records import Record, Replica
from lopbench.loggers.table import Table
from lopbench.loggers.tensorboard import HEADLINE, TensorBoard
from lopbench.protocols import Dataset, Source, Tree
from lopbench.training import Moment, train
from lopbench.variants import Group, Surroundings, Variant, group, run

Save = Callable[[int, int, Tree], None]  #: called with (step, task, state)


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


def loader(data_dir: str | None, device: torch.device) -> Callable[[Source], Dataset]:
    """Loads each source once."""
    loaded: dict[Source, Dataset] = {}

    def load(source: Source) -> Dataset:
        if source not in loaded:
            loaded[source] = source.load(data_dir, device)
        return loaded[source]

    return load


def imitation(device: torch.device) -> Callable[[Source], Dataset]:
    """Generated data of each source's shape, for a dry run: no data set is read."""
    return lambda source: source.imitation().load(None, device)


def build(request: config.Request, surroundings: Surroundings) -> tuple[dict[str, Variant], dict[str, dict]]:
    """Every variant's parts, and the operative bindings of each; refuses bindings that nothing used."""
    variants, operative = {}, {}
    for name in request.variants:
        with request.variant(name):
            variants[name] = run(surroundings)
            operative[name] = request.operative()
    for warning in request.check_used(operative):
        print(warning, file=sys.stderr)
    return variants, operative


def choose_all(groups: list[Group]) -> list[Choice]:
    """The executor of each population."""
    return [choose(g.population(), g.plan.steps, g.first.executor, g.first.block_steps) for g in groups]


def execute(request: config.Request, setting: Setting) -> int:
    """Run all of it, or show its plan; the exit status. Raises `UserError` if some population lost every replica."""
    device = resolve_device(setting.device)
    data = imitation(device) if setting.dry_run else loader(setting.data_dir, device)
    variants, operative = build(request, Surroundings(device, data))
    groups = group(variants)
    choices = choose_all(groups)
    if setting.dry_run:
        print(dry_run.describe(groups, choices))
        return 0
    for g, choice in zip(groups, choices, strict=True):
        for name in g.names:  # pinned, so that the operative config repeats the numbers to the bit
            operative[name] |= {"run.executor": choice.executor, "run.block_steps": choice.block_steps}

    workdir = files.claim_workdir(setting.workdir, setting.overwrite)
    texts = {"config.gin": request.asked_text(), "operative_config.gin": request.operative_text(operative)}
    manifest = Manifest(workdir, setting.command, device, {name: v.seeds for name, v in variants.items()})
    manifest.update(
        keyed_random_layout=LAYOUT_VERSION,
        executors={", ".join(g.names): vars(c) for g, c in zip(groups, choices, strict=True)},
    )
    for name, text in texts.items():
        files.write_atomically(workdir / name, text)
    with manifest.finishing(), warm_up.beside(workdir / "config.gin", device, setting.data_dir, choices):
        died = _train_all(groups, choices, workdir, texts)
        manifest.update(frozen_replicas=died)
        _report(workdir)
        lost = [", ".join(g.names) for g in groups if all(str(replica.index) in died for replica in g.replicas)]
        require(not lost, f"Every replica of {'; '.join(lost)} turned non-finite: a smaller learning rate may help.")
    return 0


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
    print(f"TensorBoard: tensorboard --samples_per_plugin=scalars=0 --logdir={workdir / 'tensorboard'}")


def _train_all(groups: list[Group], choices: list[Choice], workdir: Path, texts: dict[str, str]) -> dict[str, int]:
    """Train every population; `{replica index: updates it completed}` of those that turned non-finite."""
    replicas = [replica for g in groups for replica in g.replicas]
    died: dict[str, int] = {}
    table = Table(workdir, replicas)
    classifies = groups[0].first.stream.problem.loss == "cross_entropy"
    board = TensorBoard(
        workdir,
        replicas,
        total_steps=max(g.plan.steps for g in groups),
        headline=HEADLINE if classifies else ("task/online_loss",),
    )
    progress = Progress(total_steps=sum(g.plan.steps for g in groups))
    try:
        board.texts(texts)
        for number, (g, choice) in enumerate(zip(groups, choices, strict=True)):
            progress.start(g.names, g.plan.steps, f"{len(g.replicas)} replicas, {choice.executor} ({choice.reason})")
            died |= _train_one(g, choice, [table, board, progress], progress, _saver(g, workdir, number))
    finally:
        for logger in (table, board, progress):
            logger.close()
    return died


def _saver(g: Group, workdir: Path, number: int) -> Save:
    """What saves population `number` as each task begins and at the end, if it is to be saved."""

    def save(step: int, task: int, state: Tree) -> None:
        begins = step == g.first.stream.task_start(task)
        checkpoint.save(checkpoint.path_of(workdir, number, task if begins else None), state, step, task, g.replicas)

    return save if g.first.checkpoints == "tasks" else lambda step, task, state: None


def _train_one(g: Group, choice: Choice, loggers: list, progress: Progress, save: Save) -> dict[str, int]:
    died: dict[str, int] = {}

    def emit(records: Sequence[Record]) -> None:
        for logger in loggers:
            logger.write(g.replicas, records)

    def watch(moment: Moment) -> None:
        progress.advance(moment.step)
        for replica, alive, step in zip(g.replicas, moment.alive, moment.died_at, strict=True):
            if not alive and str(replica.index) not in died:
                died[str(replica.index)] = int(step)
                progress.say(
                    f"{name_of(replica)} turned non-finite after {int(step)} updates: frozen at its last finite values."
                )

    population = g.population()
    train(population, choice.build(population), g.plan, emit, watch, save=save)
    return died


def name_of(replica: Replica) -> str:
    """A replica as messages name it."""
    hyper = "".join(f", {name}={value}" for name, value in replica.hyper.items())
    return f"replica {replica.index} ({replica.variant}, seed {replica.seed}{hyper})"
