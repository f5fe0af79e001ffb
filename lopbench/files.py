"""The one writer of bytes: atomic files, appended files, and the folder that a run owns.

A file is written aside (its name then starts with a dot, so that whoever reads a folder of parquet parts
passes it by), forced to disk and renamed: a reader sees the old file or the new one, never half of one.
Whatever the file system refuses becomes one `UserError` that names the path and the reason.

All of it goes through `disk`: its methods are the only system calls by which results change.
"""

from __future__ import annotations

import errno
import fnmatch
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from lopbench.errors import UserError, require

#: What a run leaves in its folder; `--overwrite` removes these and nothing else, in this order: what is left when
#: that is broken off is no finished run, and none to go on with unless its numbers are all there. The lock is not
#: among them: a run holds it. A * stands for folders, too
RESULTS = (
    "run.json",
    ".run.json.tmp",
    "checkpoints/*.safetensors",
    "checkpoints/*.damaged",
    "checkpoints/*.tmp",
    "metrics/part-*.parquet",
    "metrics/.part-*.tmp",
    "tensorboard/*/events.out.tfevents.*",
    "remeasured/part-*.parquet",
    "remeasured/.part-*.tmp",
    "figures/plasticity*.png",
    "figures/test_accuracy.png",
    "figures/.*.png.tmp",
    "report/index.html",
    "report/figures/*.p[nd][gf]",
    "report/tables/*.csv",
    "report/tables/*.tex",
    "report/tensorboard/*events.out.tfevents.*",
    "report/*.tmp",
    ".lock.json.*",
    "operative_config.gin",
    "config.gin",
    ".*.gin.tmp",
)
#: of these, what a folder holds of a run, however that ended
NUMBERS = ("run.json", "checkpoints/*.safetensors", "metrics/part-*.parquet", "tensorboard/*/events.out.tfevents.*")
FOLDERS = ("metrics", "tensorboard", "checkpoints", "remeasured", "figures", "report")

#: by name, since no system has all of them
_REASONS = {
    "ENOSPC": "the disk is full",
    "EDQUOT": "the disk quota is used up",
    "EFBIG": "the file would be larger than the system allows",
    "EROFS": "the file system is read-only",
    "EACCES": "permission is denied",
    "EPERM": "permission is denied",
    "ENOENT": "its folder does not exist (any more)",
    "ENOTDIR": "part of its path is a file, not a folder",
    "EEXIST": "there is a file of that name",
    "EISDIR": "there is a folder of that name",
    "ENAMETOOLONG": "the name is too long",
    "ELOOP": "its links lead in a circle",
    "EIO": "the disk, or the way to it, has failed",
    "ESTALE": "the network file system has lost it",
    "ENOTCONN": "the network file system is disconnected",
    "ESHUTDOWN": "the network file system is disconnected",
    "ETIMEDOUT": "its file server does not answer",
    "EHOSTDOWN": "its file server does not answer",
    "EHOSTUNREACH": "its file server does not answer",
    "ENODEV": "its device is gone",
    "ENXIO": "its device is gone",
    "EMFILE": "this process has too many files open",
    "ENFILE": "this computer has too many files open",
}


class Disk:
    """The system calls that change the file system, each a method that raises `OSError` and does nothing more.

    Tests put another object in the place of `files.disk`, whose n-th operation fails or writes fewer bytes than
    it was given. So every function here looks `disk` up when it is called, and so must whoever else uses it.
    """

    def open(self, path: Path, mode: str) -> FileIO:
        """`mode`: "wb" (made or emptied), "xb" (made, must not be there), "ab" (appended to) or "r+b"."""
        return FileIO(path, mode)

    def write(self, file: FileIO, data: memoryview) -> int:
        """How many bytes were taken: at times fewer than were given."""
        return file.write(data) or 0

    def truncate(self, file: FileIO, length: int) -> None:
        file.truncate(length)

    def sync(self, descriptor: int) -> None:
        os.fsync(descriptor)

    def close(self, file: FileIO) -> None:
        """Network file systems tell only now that they are full."""
        file.close()

    def rename(self, old: Path, new: Path) -> None:
        """A file `new` is replaced."""
        os.replace(old, new)

    def remove(self, path: Path) -> None:
        os.remove(path)

    def touch(self, path: Path) -> None:
        """Set the file's times to now, by the clock of its file system."""
        os.utime(path)

    def make_folder(self, path: Path) -> None:
        os.mkdir(path)

    def remove_folder(self, path: Path) -> None:
        os.rmdir(path)


disk = Disk()


@contextmanager
def refusals_named(path: Path, what: str = "write") -> Iterator[None]:
    """Turn an `OSError` into a `UserError` that names `path` and the reason."""
    try:
        yield
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, "")
        raise UserError(f"Can't {what} {path}: {_REASONS.get(name) or error.strerror or error}.") from error


def write_atomically(path: str | Path, data: bytes | str) -> None:
    """Write a whole file (text as UTF-8), or leave what was there; one writer a file is assumed.

    Raises `UserError` naming the path and the reason if the file system refuses.
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.tmp")
    with refusals_named(path):
        try:
            _fill(disk.open(aside, "wb"), data.encode() if isinstance(data, str) else data, sync=True)
            disk.rename(aside, path)
        except BaseException:
            with suppress(OSError):
                disk.remove(aside)
            raise
        _force_names_to_disk(path.parent)  # if this is refused, the new file is there all the same, and whole


def append(path: str | Path, data: bytes) -> None:
    """Add bytes to the end of a file, made if it isn't there; nothing stays open between two calls.

    If the file system refuses, what it took of them is cut off again, so that a second try repeats nothing. They
    are not forced to disk (see `sync`). One writer a file is assumed.
    """
    path = Path(path)
    with refusals_named(path):
        length = _size(path)
        try:
            _fill(disk.open(path, "ab"), data)
        except BaseException:
            with suppress(OSError):
                _cut(path, length)
            raise


def sync(path: str | Path) -> None:
    """Force a file that was appended to onto the disk, as before a checkpoint that counts on its bytes."""
    path = Path(path)
    with refusals_named(path):
        file = disk.open(path, "r+b")
        try:
            disk.sync(file.fileno())
        finally:
            disk.close(file)


def truncate(path: str | Path, length: int) -> None:
    """Cut a file to its first `length` bytes; refuses one that has fewer, and so one that is missing."""
    path = Path(path)
    with refusals_named(path):
        size = _size(path)
        require(size >= length, f"{path} has {size} bytes where {length} were written: its end is lost.")
        if size > length:
            _cut(path, length)


def create(path: str | Path, data: bytes) -> bool:
    """Make a file, whole or not at all, unless there is one of that name; whether it was made.

    Of several processes that try at once, one makes it, on network file systems too. It is not forced to disk.
    """
    path = Path(path)
    with refusals_named(path):
        try:
            file = disk.open(path, "xb")
        except FileExistsError:
            return False
        try:
            _fill(file, data)
        except BaseException:
            with suppress(OSError):
                disk.remove(path)
            raise
    return True


def touch(path: str | Path) -> None:
    """Set a file's times to now, by the clock of its file system."""
    path = Path(path)
    with refusals_named(path):
        disk.touch(path)


def rename(old: str | Path, new: str | Path) -> None:
    """Rename a file, over another of that name."""
    with refusals_named(Path(new)):
        disk.rename(Path(old), Path(new))


def remove(path: str | Path) -> None:
    """Remove a file if it is there."""
    path = Path(path)
    with refusals_named(path), suppress(FileNotFoundError):
        disk.remove(path)


def make_folder(path: str | Path, parents: bool = True) -> Path:
    """Make a folder, unless it is there, and those above it.

    Without `parents` the folder above must be there: a run that goes on this way never makes anew, and fills, the
    empty place where a file system was mounted.
    """
    path = Path(path)
    with refusals_named(path):
        _make_folder(path, parents)
    return path


def workdir_at(path: str | Path) -> Path:
    """The folder that --workdir names, there or not; nothing is made. Refuses a path that is a file, and a URL."""
    require(
        not re.match(r"[A-Za-z][\w+.-]+:/", str(path)), f"--workdir={path} is a URL: name a folder of a file system."
    )
    try:
        workdir = Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"--workdir={path}: there is no such user's home.") from error
    with refusals_named(workdir):
        there = workdir.exists()
    require(not there or workdir.is_dir(), f"--workdir={path} is a file: name a folder, new or there already.")
    return workdir


def files_in(folder: str | Path) -> list[Path]:
    """Every file below a folder, sorted; none if it isn't there.

    Raises `UserError` if a folder can't be read, which must not look as if it were empty.
    """

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            with refusals_named(Path(error.filename), "read"):
                raise error

    walk = os.walk(folder, onerror=refuse)
    return sorted(Path(above) / name for above, folders, names in walk for name in [*names, *_links(above, folders)])


def _links(above: str, folders: Iterable[str]) -> list[str]:
    """Those of the folders in a folder that are links, and not gone into."""
    return [name for name in folders if os.path.islink(os.path.join(above, name))]


def _matching(workdir: Path, patterns: Iterable[str]) -> list[Path]:
    """What matches patterns below the `FOLDERS` of a run, or beside them, in the order of the patterns."""
    with refusals_named(workdir, "read"):
        entries = list(os.scandir(workdir)) if os.path.lexists(workdir) else []
    beside = [Path(entry) for entry in entries if entry.is_symlink() or not entry.is_dir()]
    found = [*beside, *(path for name in FOLDERS for path in files_in(workdir / name))]
    named = [(path.relative_to(workdir).as_posix(), path) for path in found]
    return [path for pattern in patterns for name, path in named if fnmatch.fnmatchcase(name, pattern)]


def holds_results(workdir: str | Path) -> bool:
    """Whether a run has written its results into this folder, or some of them are left."""
    return bool(_matching(Path(workdir), NUMBERS))


def remove_results(workdir: str | Path) -> None:
    """Remove the files that a run leaves in its folder (`RESULTS`), and the folders that this empties."""
    workdir = Path(workdir)
    for file in _matching(workdir, RESULTS):
        remove(file)
    with refusals_named(workdir):
        for name in FOLDERS:
            for folder, _, _ in os.walk(workdir / name, topdown=False):
                if not os.listdir(folder) and not os.path.islink(folder):
                    disk.remove_folder(Path(folder))


def remove_leftovers(workdir: str | Path) -> None:
    """Remove what a process that was killed has left half written."""
    for file in _matching(Path(workdir), [pattern for pattern in RESULTS if pattern.endswith(".tmp")]):
        remove(file)


def _fill(file: FileIO, data: bytes, sync: bool = False) -> None:
    """Write all of it, however little the system takes at a time, and close the file."""
    try:
        rest = memoryview(data)
        while rest:
            taken = disk.write(file, rest)
            if not taken:
                raise OSError(errno.EIO, "no byte was taken")
            rest = rest[taken:]
        if sync:
            disk.sync(file.fileno())
    finally:
        disk.close(file)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _cut(path: Path, length: int) -> None:
    file = disk.open(path, "r+b")
    try:
        disk.truncate(file, length)
    finally:
        disk.close(file)


def _make_folder(path: Path, parents: bool) -> None:
    try:
        disk.make_folder(path)
    except FileNotFoundError:
        if not parents or path.parent == path:
            raise
        _make_folder(path.parent, parents)
        _make_folder(path, parents=False)
    except OSError:  # of one that is there, a read-only file system may say that it is read-only
        if not path.is_dir():
            raise


def _force_names_to_disk(folder: Path) -> None:
    """A rename survives a power cut only once the folder itself is on disk (POSIX)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        disk.sync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems have no such thing for folders
            raise
    finally:
        os.close(descriptor)
