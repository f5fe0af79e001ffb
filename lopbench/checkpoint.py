"""Checkpoints: a population's whole state tree in one safetensors file, which other programs can read too.

    checkpoints/population-0/task-0000.safetensors    as task 0 begins: what metrics of "task_start" see
    checkpoints/population-0/task-0001.safetensors    ...
    checkpoints/population-0/end.safetensors          after the last update

Populations are numbered in the order of `lopbench.variants.group`, in which they are trained. The tensors lie on
their paths in the tree (see learner.py): "parameters/hidden.0.weight", "optimizer/momentum/hidden.0.weight",
"strategies/0/...", "hyper/optimizer/learning_rate", "seeds"; each leads with R. The file's metadata, all strings:

    format     "lopbench checkpoint"
    layout     the version of this layout
    step       updates completed
    task       index of the task, from 0: the one that begins, at the end the last one
    replicas   JSON: `[{"index": ..., "variant": ..., "seed": ..., "hyper": {...}}, ...]`, in the order of the rows
    tree       JSON: the tree with null for each tensor. It keeps the order of entries, and the branches without any
    sha256     of all of the above and every tensor: `_digest`

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

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as as_safetensors
from torch import Tensor

from lopbench import files
from lopbench.errors import UserError, require
from lopbench.loggers.records import Replica
from lopbench.population import map_tree
from lopbench.protocols import Tree

FORMAT, LAYOUT = "lopbench checkpoint", "1"


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds: the state, when it was saved, and whose it is."""

    state: Tree
    step: int
    task: int
    replicas: tuple[Replica, ...]


def path_of(workdir: str | Path, population: int, task: int | None) -> Path:
    """The file of a population as `task` begins; None: at the end."""
    name = "end" if task is None else f"task-{task:04d}"
    return Path(workdir) / "checkpoints" / f"population-{population}" / f"{name}.safetensors"


def saved(workdir: str | Path) -> dict[int, list[Path]]:
    """The files of a run that are there, of each population in the order in which they were saved."""
    found: dict[int, list[tuple[float, Path]]] = {}
    for path in (Path(workdir) / "checkpoints").glob("population-*/*.safetensors"):
        name = re.fullmatch(r"population-(\d+)/(?:task-(\d+)|end)", f"{path.parent.name}/{path.stem}")
        if name:
            task = float("inf") if name[2] is None else int(name[2])
            found.setdefault(int(name[1]), []).append((task, path))
    return {population: [path for _, path in sorted(found[population])] for population in sorted(found)}


def save(path: str | Path, state: Tree, step: int, task: int, replicas: Sequence[Replica]) -> None:
    """Write `state` of these replicas after `step` updates, whole or not at all; its folder is made.

    Beside the state the host holds the file's bytes, and on a GPU a copy of the state.
    Raises `UserError` naming the path if the file system refuses.
    """
    metadata = {
        "format": FORMAT,
        "layout": LAYOUT,
        "step": str(step),
        "task": str(task),
        "replicas": json.dumps([dataclasses.asdict(replica) for replica in replicas]),
        "tree": json.dumps(map_tree(lambda leaf: None, state)),
    }
    tensors = _apart(dict(_leaves(state)))
    metadata["sha256"] = _digest(metadata, tensors)
    files.make_folder(Path(path).parent)
    files.write_atomically(path, as_safetensors(tensors, metadata))


def load(path: str | Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Read and verify a file; the state's tensors are on `device`, in memory of their own.

    Raises `UserError` naming the path if it is missing or damaged, no checkpoint, or of another layout.
    """
    metadata, tensors = _read(Path(path))
    found = metadata.get("layout")
    require(metadata.get("format") == FORMAT, f"{path} is not a checkpoint of lopbench.")
    require(found == LAYOUT, f"{path} is a checkpoint of layout {found}; this version of lopbench reads {LAYOUT}.")
    told = metadata.pop("sha256", None)
    require(told == _digest(metadata, tensors), f"{path} is damaged: its contents are not those that were saved.")
    # copied, since what was read lies in the file's own pages, not aligned as torch aligns
    state = _grown(json.loads(metadata["tree"]), {name: t.to(device, copy=True) for name, t in tensors.items()})
    replicas = tuple(Replica(**replica) for replica in json.loads(metadata["replicas"]))
    return Checkpoint(state, int(metadata["step"]), int(metadata["task"]), replicas)


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
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise UserError(f"There is no checkpoint {path}.") from error
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged, or not a checkpoint of lopbench: {error}.") from error


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
