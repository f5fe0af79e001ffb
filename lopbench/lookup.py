"""Where gin files are found: the working directory, the search paths, beside the including file, the shipped ones."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lopbench.errors import UserError, require
from lopbench.gin_text import is_text
from lopbench.registry import KINDS, nearest


@dataclass(frozen=True)
class Found:
    """A gin file that was chosen, and the shipped file of the same name that it hides, if it does."""

    path: Path
    hides: Path | None = None


def shipped() -> Path:
    """The folder of the gin files that come with lopbench: of an installed wheel, else of a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "gin_configs"
    return installed if installed.is_dir() else package.parent / "gin_configs"


def shipped_names() -> list[str]:
    """The shipped gin files, as a user would write them (`strategies/swr.gin`)."""
    folder = shipped()
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.gin"))


def shipped_runs() -> str:
    """What there is to run, in a few lines: the shipped files, and the folders with how many each holds.

    Without the folders of fragments, which are named after the kinds of parts.
    """
    runs = [name.split("/") for name in shipped_names()]
    files = [parts[0] for parts in runs if len(parts) == 1]
    folders = Counter(parts[0] for parts in runs if len(parts) > 1 and parts[0] not in KINDS)
    lines = [", ".join(files), *(f"{folder}/ ({count})" for folder, count in folders.items())]
    return "\n  ".join([f"There are, in {shipped()}:", *lines])


def run_name(file: str | Path) -> str:
    """What a run of a gin file is called: after a shipped one's path (`permuted_mnist/swr`), after another's stem."""
    path = Path(file).resolve()
    return path.relative_to(shipped()).with_suffix("").as_posix() if path.is_relative_to(shipped()) else path.stem


def own_places(search_paths: Sequence[str], beside: Path | None = None) -> list[Path]:
    """The user's folders, in the order of the search; `beside` is the folder of the file that includes or imports."""
    try:
        here = Path.cwd()
    except FileNotFoundError:
        raise UserError("The working directory is gone: change into one that is there.") from None
    folders = [here, *(map(_expanded, search_paths)), *([beside] if beside else [])]
    return list(dict.fromkeys(Path(os.path.abspath(folder)) for folder in folders))


def _expanded(path: str) -> Path:
    """With the user's home for ~; a user that there isn't is left as it is."""
    return Path(os.path.expanduser(path))


def find(name: str, search_paths: Sequence[str] = (), beside: Path | None = None) -> Found:
    """The file meant by `name`, or `UserError` with the places tried and the nearest shipped names."""
    given = _expanded(name)
    tried = list(dict.fromkeys(folder / given for folder in [*own_places(search_paths, beside), shipped()]))
    for path in tried:
        if os.path.isfile(path):  # False, too, for what can be no path: a name that is too long, or holds a NUL
            require(
                is_text(str(path)), f"The path {str(path)!r} is not UTF-8, and can't be saved with the run: rename it."
            )
            default = shipped() / given
            hides = not given.is_absolute() and default.is_file() and not default.samefile(path)
            return Found(Path(os.path.abspath(path)), default if hides else None)
    hint = nearest(name, shipped_names())
    raise UserError(
        f"There is no gin file {name!r}.{hint if 'Did you mean' in hint else ''}\n"
        "  looked for: " + "\n              ".join(map(str, tried))
    )
