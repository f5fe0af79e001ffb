"""Checkpoints: a population's whole state tree in one safetensors file, which other programs can read too.

    checkpoints/population-0/task-0000.safetensors          as task 0 begins: what metrics of "task_start" see
    checkpoints/population-0/step-000000012345.safetensors  after 12,345 updates: to go on from
    checkpoints/population-0/end.safetensors                after the last update

Populations are numbered in the order of `lopbench.variants.group`, in which they are trained. The tensors lie on
their paths in the tree (see learner.py): "parameters/hidden.0.weight", "optimizer/momentum/hidden.0.weight",
"strategies/0/...", "hyper/optimizer/learning_rate", "seeds"; and "task/sums/...", "task/best/...", "task/selected/...",
what is known of the running task (see task_so_far.py). Each leads with R. The file's metadata, all strings, are its
manifest:

    format     "lopbench checkpoint"
    layout     the version of this layout: "2"
    name       its own: "population-0/end.safetensors"
    step       updates completed
    task       index of the task, from 0: the one that runs, or begins; at the end the last one
    replicas   JSON: `[{"index": ..., "variant": ..., "seed": ..., "hyper": {...}}, ...]`, in the order of the rows
    tree       JSON: the tree with null for each tensor. It keeps the order of entries, and the branches without any
    run        JSON: what the whole run goes on from (see resume.py)
    sha256     of all of the above and every tensor: `_digest`

Layout "1" lacked `run` and the branch "task": its networks can be read, but no run can go on from it.
Nothing here is pickled, so reading a file runs no code of it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as as_safetensors
from torch import Tensor

from lopbench import files
from lopbench.errors import UserError, require
from lopbench.loggers.records import Replica
from lopbench.population import map_tree
from lopbench.protocols import Tree
from lopbench.task_so_far import Values

if TYPE_CHECKING:
    from lopbench.training import Snapshot

FORMAT, LAYOUT = "lopbench checkpoint", "2"
READ_LAYOUTS = ("1", "2")
NAME = re.compile(r"population-(\d+)/(?:task-\d+|step-\d+|end)\.safetensors")


class DamagedError(UserError):
    """A file that is no whole checkpoint, or of a layout that this version doesn't know."""


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds: the state, when it was saved, whose it is, and what the whole run goes on from."""

    path: Path
    state: Tree
    step: int
    task: int
    replicas: tuple[Replica, ...]
    so_far: dict[str, Values]  #: of the running task
    run: dict[str, Any] | None  #: None: of a layout that kept too little to go on from


def path_of(workdir: str | Path, population: int, task: int | None = None, step: int | None = None) -> Path:
    """The file of a population: that kept as `task` begins, that to go on from after `step` updates, or the end's."""
    name = "end" if step is None else f"step-{step:012d}"
    name = name if task is None else f"task-{task:04d}"
    return Path(workdir) / "checkpoints" / f"population-{population}" / f"{name}.safetensors"


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def saved(workdir: str | Path) -> dict[int, list[Path]]:
    """The networks that a run keeps for good: of each population as its tasks began, in order, and at the end."""
    found: dict[int, list[tuple[float, Path]]] = {}
    for population, path in files_of(workdir):
        if not path.stem.startswith("step-"):
            task = float("inf") if path.stem == "end" else int(path.stem.removeprefix("task-"))
            found.setdefault(population, []).append((task, path))
    return {population: [path for _, path in sorted(found[population])] for population in sorted(found)}


def files_of(workdir: str | Path) -> list[tuple[int, Path]]:
    """(population, path) of every checkpoint, in no order."""
    named = ((NAME.fullmatch(_name(path)), path) for path in files.files_in(Path(workdir) / "checkpoints"))
    return [(int(name[1]), path) for name, path in named if name]


def save(
    path: str | Path, snapshot: Snapshot, replicas: Sequence[Replica], run: Mapping[str, Any] | None = None
) -> None:
    """Write a snapshot of these replicas, whole or not at all; its folder must be there.

    Beside the state the host holds the file's bytes, and on a GPU a copy of the state.
    Raises `UserError` naming the path if the file system refuses.
    """
    task_so_far = {name: map_tree(torch.from_numpy, values) for name, values in snapshot.so_far.items()}
    tree = {**snapshot.state, "task": task_so_far}
    metadata = {
        "format": FORMAT,
        "layout": LAYOUT,
        "name": _name(Path(path)),
        "step": str(snapshot.step),
        "task": str(snapshot.task),
        "replicas": json.dumps([dataclasses.asdict(replica) for replica in replicas]),
        "tree": json.dumps(map_tree(lambda leaf: None, tree)),
        "run": json.dumps(run),
    }
    tensors = _apart(dict(_leaves(tree)))
    metadata["sha256"] = _digest(metadata, tensors)
    files.write_atomically(path, as_safetensors(tensors, metadata))


def load(path: str | Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Read and verify a file; the state's tensors are on `device`, in memory of their own.

    Raises `DamagedError`, naming the path, if it is no checkpoint; another `UserError` if the disk doesn't give it.
    """
    path = Path(path)
    metadata, tensors = _read(path)
    found = metadata.get("layout")
    if metadata.get("format") != FORMAT:
        raise DamagedError(f"{path} is not a checkpoint of lopbench.")
    if found not in READ_LAYOUTS:
        readable = " and ".join(READ_LAYOUTS)
        raise DamagedError(f"{path} is a checkpoint of layout {found}; this version of lopbench reads {readable}.")
    name = metadata.get("name", _name(path))
    if name != _name(path) and NAME.fullmatch(_name(path)):  # elsewhere it may be called what one likes
        raise DamagedError(f"{path} is another: it was written as {name}.")
    told = metadata.pop("sha256", None)
    if told != _digest(metadata, tensors):
        raise DamagedError(f"{path} is damaged: its contents are not those that were saved.")
    try:
        return _understood(path, metadata, tensors, device)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise DamagedError(f"{path} is not a checkpoint that lopbench has written: {error!r}.") from error


def _understood(
    path: Path, metadata: Mapping[str, str], tensors: Mapping[str, Tensor], device: torch.device | str
) -> Checkpoint:
    tree = json.loads(metadata["tree"])
    so_far = _grown(tree.pop("task", {}), tensors, "task/")
    # copied, since what was read lies in the file's own pages, not aligned as torch aligns
    state = _grown(tree, {name: t.to(device, copy=True) for name, t in tensors.items()})
    return Checkpoint(
        path,
        state,
        int(metadata["step"]),
        int(metadata["task"]),
        tuple(Replica(**replica) for replica in json.loads(metadata["replicas"])),
        map_tree(lambda leaf: leaf.numpy().copy(), so_far),
        json.loads(metadata.get("run", "null")),
    )


def step_of(path: str | Path) -> int | None:
    """The updates that a file says were completed; None if it can't be read."""
    try:
        with safe_open(path, framework="pt") as file:
            return int((file.metadata() or {})["step"])
    except (SafetensorError, OSError, KeyError, ValueError):
        return None


def state_dict(path: str | Path, replica: int) -> dict[str, Tensor]:
    """One replica's parameters and buffers, for `load_state_dict` of its architecture's `nn.Module`.

    `replica`: its number in the run, the column `replica` of the metrics. The tensors have the run's dtype: of a
    run in float64 they go whole into `module.double()`. The module's non-persistent buffers must be its `key`s
    (of modules that draw), for these are no state. Raises `UserError` where `load` does, and for a replica not there.
    """
    found = load(path)
    indices = [one.index for one in found.replicas]
    require(replica in indices, f"{path} holds no replica {replica}: it has {', '.join(map(str, indices))}.")
    row = indices.index(replica)
    return {name: leaf[row].clone() for key in ("parameters", "buffers") for name, leaf in found.state[key].items()}


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """A safetensors file's metadata and tensors, the latter in the file's pages."""
    require(path.exists() or path.is_symlink(), f"There is no checkpoint {path}.")
    if path.is_file():
        with files.refusals_named(path, "read"), open(path, "rb") as file:  # what the disk refuses may be good later
            file.read(1)
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise DamagedError(f"{path} is damaged, or not a checkpoint of lopbench: {error}.") from error


def _leaves(tree: Tree, above: str = "") -> Iterator[tuple[str, Tensor]]:
    """(path, tensor) of every leaf."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{above}{key}/")
        else:
            yield above + key, value


def _grown(shape: Tree, tensors: Mapping[str, Tensor], above: str = "") -> Tree:
    """The tree of this shape (null for each leaf) with the tensors on their paths."""
    return {
        key: _grown(value, tensors, f"{above}{key}/") if isinstance(value, dict) else tensors[above + key]
        for key, value in shape.items()
    }


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the host, contiguous, no two of them in the same memory (as a copy kept by a strategy may be)."""
    storages: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        result[name] = tensor.clone() if storage in storages else tensor
        storages.add(storage)
    return result


def _digest(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the metadata as sorted JSON, then by name each tensor's "name dtype shape" and bytes."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
