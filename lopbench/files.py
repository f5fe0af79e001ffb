"""The one writer of bytes: atomic files, appended files, and the folder that a run owns.

A file is written aside (its name then starts with a dot, so that whoever reads a folder of parquet parts
passes it by), forced to disk and renamed: a reader sees the old file or the new one, never half of one.
Whatever the file system refuses becomes one `UserError` that names the path and the reason.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lopbench.errors import UserError, require

#: what a run leaves in its working folder; `--overwrite` removes these and nothing else, run.json last
RESULTS = (
    "metrics/part-*.parquet",
    "metrics/.part-*.tmp",
    "tensorboard/**/events.out.tfevents.*",
    "checkpoints/**/*.safetensors",
    "checkpoints/**/*.json",
    "checkpoints/**/.*.tmp",
    "remeasured/part-*.parquet",
    "remeasured/.part-*.tmp",
    "figures/plasticity*.png",
    "figures/test_accuracy.png",
    "config.gin",
    "operative_config.gin",
    ".*.gin.tmp",
    ".run.json.tmp",
    "run.json",
)
FOLDERS = ("metrics", "tensorboard", "checkpoints", "remeasured", "figures")

_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission is denied",
    errno.EPERM: "permission is denied",
    errno.ENOENT: "its folder does not exist (any more)",
    errno.ENOTDIR: "part of its path is a file, not a folder",
    errno.EEXIST: "there is a file of that name",
    errno.EISDIR: "there is a folder of that name",
    errno.ENAMETOOLONG: "the name is too long",
}


@contextmanager
def refusals_named(path: Path) -> Iterator[None]:
    """Turn an `OSError` into a `UserError` that names `path` and the reason."""
    try:
        yield
    except OSError as error:
        reason = _REASONS.get(error.errno or 0) or error.strerror or str(error)
        raise UserError(f"Can't write {path}: {reason}.") from error


def write_atomically(path: str | Path, data: bytes | str) -> None:
    """Write a whole file (text as UTF-8), or leave what was there; one writer a file is assumed.

    Raises `UserError` naming the path and the reason if the file system refuses.
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.tmp")
    with refusals_named(path):
        try:
            with open(aside, "wb") as file:
                file.write(data.encode() if isinstance(data, str) else data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        _force_names_to_disk(path.parent)


def append(path: str | Path, data: bytes) -> None:
    """Add bytes to the end of a file, made if it isn't there; nothing stays open between two calls."""
    path = Path(path)
    with refusals_named(path), open(path, "ab") as file:
        file.write(data)


def remove(path: str | Path) -> None:
    """Remove a file if it is there."""
    path = Path(path)
    with refusals_named(path):
        path.unlink(missing_ok=True)


def make_folder(path: str | Path) -> Path:
    """Make a folder and those above it, unless they are there."""
    path = Path(path)
    with refusals_named(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def holds_results(workdir: str | Path) -> bool:
    """Whether a run has written its results into this folder."""
    workdir = Path(workdir)
    return (workdir / "run.json").exists() or (workdir / "metrics").exists()


def claim_workdir(path: str | Path, overwrite: bool = False) -> Path:
    """Make `path` the folder of a new run, and return it.

    A folder that holds another run's results is refused, unless `overwrite`: then the files that a run
    leaves (`RESULTS`) are removed and all others stay. A path that is a file is refused always.
    """
    workdir = Path(path).expanduser()
    require(
        not workdir.exists() or workdir.is_dir(), f"--workdir={path} is a file: name a folder, new or there already."
    )
    if holds_results(workdir):
        require(
            overwrite,
            f"--workdir={path} holds the results of another run: choose another, or give --overwrite to remove them.",
        )
        _remove_results(workdir)
    return make_folder(workdir)


def _remove_results(workdir: Path) -> None:
    for pattern in RESULTS:
        for file in list(workdir.glob(pattern)):
            if file.is_symlink() or not file.is_dir():
                remove(file)
    for name in FOLDERS:
        for folder, _, _ in os.walk(workdir / name, topdown=False):
            if not os.listdir(folder) and not os.path.islink(folder):
                with refusals_named(Path(folder)):
                    os.rmdir(folder)


def _force_names_to_disk(folder: Path) -> None:
    """A rename survives a power cut only once the folder itself is on disk (POSIX)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
