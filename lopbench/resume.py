"""Going on with what an earlier process left in the workdir, if it is the same run.

The run is the same if the same is asked for: its config.gin, but for bindings that change no number (when checkpoints
are written, and what a non-finite replica leads to). Of its checkpoints the newest good one is gone on from.
"""

from __future__ import annotations

import difflib
import hashlib
import re
import sys
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lopbench import checkpoint, files
from lopbench.checkpoint import Checkpoint, DamagedError
from lopbench.errors import UserError, require
from lopbench.keyed_random import LAYOUT_VERSION
from lopbench.loggers import manifest
from lopbench.loggers.records import name_of
from lopbench.protocols import Tree
from lopbench.variants import Group

#: bindings that change no number, which a run may go on without or with others
FREE = re.compile(r"""\s*['"]?run\.(checkpoint_\w+|keep_\w+|on_nonfinite)\b""")
START_AFRESH = "Choose another --workdir, or give --overwrite to remove what is there."


@dataclass(frozen=True)
class Standing:
    """Where the whole run stands: what a checkpoint holds besides its population's state, as JSON has it."""

    population: int  #: its number; those before it have ended
    ended: bool  #: whether it has, too
    seconds: float  #: trained for, in this population
    table: dict[str, Any]  #: how much was written: `Table.position`
    tensorboard: dict[str, Any]  #: `TensorBoard.position`
    died: dict[str, int]  #: {replica's index: updates it completed} of those that turned non-finite, in all populations
    choices: list[dict[str, Any]]  #: executor, block length and threads of every population
    config: str  #: digest of what was asked for
    data: dict[str, str]  #: digest of each data set
    random: int = LAYOUT_VERSION  #: the version of the layout of random numbers

    @classmethod
    def of(cls, found: Checkpoint) -> Standing:
        """That of a checkpoint; `UserError` if it holds none that this version understands."""
        told = found.run or {}
        require(bool(told), f"{found.path} is of an older layout, which can be measured on but not gone on from.")
        kinds = {name: typing.get_origin(kind) or kind for name, kind in typing.get_type_hints(cls).items()}
        understood = told.keys() == kinds.keys() and all(isinstance(told[name], kinds[name]) for name in kinds)
        require(
            understood, f"{found.path} was written by another version of lopbench, which this one can't go on from."
        )
        return cls(**told)


@dataclass(frozen=True)
class Start:
    """What a run goes on from."""

    checkpoint: Checkpoint
    standing: Standing


@dataclass(frozen=True)
class Past:
    """What an earlier process of this run has left: it has finished, or may go on from `start` (None: not yet)."""

    start: Start | None
    finished: bool


def past(workdir: Path, asked: str) -> Past | None:
    """What is there of the run that asks for `asked` (its config.gin); None: no results at all.

    Bad checkpoints are named on stderr, passed by, and renamed, so that they are in nobody's way. Raises `UserError` if
    the results are of another run, or if there are checkpoints and none of them can be gone on from.
    """
    if not files.holds_results(workdir):
        return None
    _require_same(workdir, asked)
    if manifest.read(workdir).get("status") == "finished":
        return Past(None, finished=True)
    paths = _newest_first(workdir)
    for number, path in enumerate(paths):
        start = _read(path, digest(asked))
        if start is not None:
            for bad in paths[:number]:
                files.rename(bad, bad.with_suffix(".damaged"))
            return Past(start, finished=False)
    require(not paths, f"None of the checkpoints in {workdir / 'checkpoints'} can be gone on from. {START_AFRESH}")
    return Past(None, finished=False)


def digest(asked: str) -> str:
    """SHA-256 of what counts in a config.gin."""
    return hashlib.sha256("\n".join(_that_counts(asked)).encode()).hexdigest()


def require_same_data(then: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Refuse to go on with other data than the run began with; both are digests by source."""
    for source in then:
        require(
            now.get(source) == then[source],
            f"The data of {source} are not those that this run began with (SHA-256 {then[source][:12]}... then, "
            f"{now.get(source, 'unknown')[:12]}... now): point --data_dir to those. {START_AFRESH}",
        )


def tell_what_changed(workdir: Path, device: torch.device) -> None:
    """Name on stderr the versions and the device that are not those of the process before; bits may then differ."""
    before = manifest.read(workdir)
    now = {**manifest.versions(), "device": manifest.device_name(device)}
    then = before.get("versions")
    then = {**then, "device": before.get("device")} if isinstance(then, dict) else now
    changed = [f"{name} was {then.get(name)}, is {value}" for name, value in now.items() if then.get(name) != value]
    if changed:
        print(f"Note: {'; '.join(changed)}. What follows may differ in its last bits.", file=sys.stderr)


def require_fits(found: Checkpoint, g: Group) -> None:
    """Refuse a checkpoint of other replicas or networks than the config makes; the message has the first difference."""
    path, count, made = found.path, len(found.replicas), len(g.replicas)
    require(count == made, f"{path} holds {count} replicas where the config makes {made}.")
    for theirs, ours in zip(found.replicas, g.replicas, strict=True):
        require(theirs == ours, f"{path} holds {name_of(theirs)} where the config makes {name_of(ours)}.")
    population = g.population()
    shapes = {name: (made, *parameter.shape) for name, parameter in population.module.named_parameters()}
    own = {name: torch.empty(shape, dtype=population.dtype, device="meta") for name, shape in shapes.items()}
    saved = _shapes({branch: found.state[branch] for branch in ("parameters", "buffers")})
    built = _shapes({"parameters": own, "buffers": population.initial_buffers()})
    for name in [*built, *saved]:
        here, there = saved.get(name, "missing"), built.get(name, "missing")
        require(here == there, f"In {path} {name} is {here}, and in the network that the config makes {there}.")


def _shapes(state: Tree) -> dict[str, str]:
    """What networks consist of: `{"parameters/hidden.0.weight": "float32 [2, 5, 16]"}`."""
    return {
        f"{branch}/{name}": f"{str(leaf.dtype).removeprefix('torch.')} {list(leaf.shape)}"
        for branch, leaves in state.items()
        for name, leaf in leaves.items()
    }


def _that_counts(text: str) -> list[str]:
    """The lines of a config.gin without comments, empty lines, and bindings that change no number."""
    lines = (line.rstrip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#") and not FREE.match(line)]


def _require_same(workdir: Path, asked: str) -> None:
    """Refuse results of another run, with the first difference."""
    try:
        there = (workdir / "config.gin").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{workdir} holds results, but not what was asked for (config.gin). {START_AFRESH}") from None
    difference = first_difference(there, asked)
    require(not difference, f"{workdir} holds the results of another run. {difference}\n{START_AFRESH}")


def first_difference(there: str, asked: str) -> str:
    """Where two gin files first differ in what changes numbers; "" if they don't."""
    old, new = _that_counts(there), _that_counts(asked)
    for kind, i, i_end, j, j_end in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind != "equal":
            theirs, ours = (
                lines[0].strip().rstrip(",") if lines else "(nothing)" for lines in (old[i:i_end], new[j:j_end])
            )
            return f"The first difference:\n    there:  {theirs}\n    asked:  {ours}"
    return ""


def _newest_first(workdir: Path) -> list[Path]:
    """Every checkpoint; those that say nothing of themselves come first, so that they are named."""

    def age(numbered: tuple[int, Path]) -> tuple[int, bool, float]:
        population, path = numbered
        step = checkpoint.step_of(path)
        return population, path.stem == "end", float("inf") if step is None else step

    return [path for _, path in sorted(checkpoint.files_of(workdir), key=age, reverse=True)]


def _read(path: Path, config: str) -> Start | None:
    """A checkpoint of this run, or None, and why not on stderr."""
    found = None
    try:
        found = checkpoint.load(path)
        standing = Standing.of(found)
        require(standing.config == config, f"{path} belongs to another run.")
        layout = standing.random
        require(
            layout == LAYOUT_VERSION,
            f"{path} has version {layout} of the layout of random numbers; this lopbench has {LAYOUT_VERSION}.",
        )
    except UserError as error:
        if found is None and not isinstance(error, DamagedError):
            raise  # the disk refuses it, and may give it later
        print(f"Passed by: {error.message}", file=sys.stderr)
        return None
    return Start(found, standing)
