"""What was run, and by what: told by study.json and run.json, for the head of a report."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lopbench.loggers import manifest


@dataclass(frozen=True)
class Provenance:
    """What one workdir was made from. Texts are as they were written there: of anyone who wrote the results.

    `files`, `bindings`: the gin files and lines that were asked for; `commands`, `devices`, `versions`, `revisions`:
    each that was used, once; `started`, `ended`: the first and the last time, "" if not known.
    """

    name: str
    workdir: str
    files: tuple[str, ...]
    bindings: tuple[str, ...]
    commands: tuple[str, ...]
    devices: tuple[str, ...]
    versions: Mapping[str, str]
    revisions: tuple[str, ...]
    started: str
    ended: str


def of(workdir: Path, folders: Iterable[Path]) -> Provenance:
    """Read study.json, if there is one, and the run.json of each folder; what is missing or damaged is left out."""
    told = [run for run in map(manifest.read, folders) if run]
    study = _study(workdir)
    commands = [_texts(run.get("command")) for run in told]
    return Provenance(
        name=str(study.get("name") or workdir.resolve().name),
        workdir=str(workdir),
        files=_texts(study.get("files")) or _given(commands, "gin_file"),
        bindings=_texts(study.get("bindings")) or _given(commands, "gin_bindings"),
        commands=_once(shlex.join(["python", "-m", *_module(command)]) for command in commands if command),
        devices=_once(str(run["device"]) for run in told if run.get("device")),
        versions=_versions(told),
        revisions=_once(_revision(run["git"]) for run in told if isinstance(run.get("git"), dict)),
        started=min((run["started"] for run in told if run.get("started")), default=""),
        ended=max((str(run["ended"]) for run in told if run.get("ended")), default=""),
    )


def _study(workdir: Path) -> dict[str, Any]:
    try:
        content = json.loads((workdir / "study.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else ()


def _given(commands: Sequence[Sequence[str]], flag: str) -> tuple[str, ...]:
    """The values of a flag on command lines, written --flag=VALUE, --flag VALUE, or with one dash."""
    found = []
    for command in commands:
        for word, following in zip(command, [*command[1:], ""], strict=False):
            name, equals, value = word.lstrip("-").partition("=")
            if word.startswith("-") and name == flag:
                found.append(value if equals else following)
    return _once(found)


def _module(command: Sequence[str]) -> list[str]:
    """A command line whose first word is the path of one of our modules, as it is typed after `python -m`."""
    path = Path(command[0]).with_suffix("")
    return [".".join(path.parts[-2:]), *command[1:]]


def _versions(told: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Of each package, every version that was used."""
    found: dict[str, list[str]] = {}
    for run in told:
        for package, version in (run.get("versions") or {}).items():
            found.setdefault(str(package), []).append(str(version or "none"))
    return {package: ", ".join(_once(versions)) for package, versions in found.items()}


def _revision(git: Mapping[str, Any]) -> str:
    return f"{git.get('revision')}{' (with changes)' if git.get('dirty') else ''}"


def _once(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))
