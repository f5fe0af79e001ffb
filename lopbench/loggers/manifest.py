"""run.json: what ran, on what, when, and how it ended."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import lopbench
from lopbench import files
from lopbench.errors import StoppedError, UserError
from lopbench.lock import LockLostError

PACKAGES = ("torch", "torchvision", "gin-config", "numpy", "tensorboard")


class Manifest:
    """Keeps `workdir`/run.json, which is whole at any time.

    `command`: the command line; `device`: a `torch.device`; `seeds`: those of each variant. A run that is resumed
    keeps its first start; the times of its resumes are listed.
    """

    def __init__(
        self, workdir: str | Path, command: Sequence[str], device: Any, seeds: Mapping[str, Sequence[int]]
    ) -> None:
        self.path = Path(workdir) / "run.json"
        before = read(workdir)
        self.content: dict[str, Any] = {
            "status": "running",
            "started": before.get("started", _now()),
            "resumed": [*before.get("resumed", []), _now()] if before else [],
            "ended": None,
            "command": list(command),
            "versions": versions(),
            "git": git_revision(),
            "device": device_name(device),
            "seeds": {variant: list(own) for variant, own in seeds.items()},
        }
        self._write()

    def update(self, **content: Any) -> None:
        """Replace or add entries, such as `executors`."""
        self.content.update(content)
        self._write()

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """Note how the run within ended: finished, interrupted (a signal) or failed (and of what)."""
        try:
            yield
        except LockLostError:  # the file is another process's
            raise
        except BaseException as error:
            stopped = isinstance(error, StoppedError | KeyboardInterrupt | SystemExit)
            told = (
                {"status": "interrupted"}
                if stopped
                else {"status": "failed", "error": f"{type(error).__name__}: {error}"}
            )
            with suppress(UserError):  # what is told is the first failure
                self.update(**told, ended=_now())
            raise
        self.update(status="finished", ended=_now())

    def _write(self) -> None:
        files.write_atomically(self.path, json.dumps(self.content, indent=2) + "\n")


#: of the entries that are read again, what they must be
KINDS = {"started": str, "resumed": list, "frozen_replicas": dict, "versions": dict, "status": str}


def read(workdir: str | Path) -> dict[str, Any]:
    """A run's run.json, without entries that aren't what they must be; empty if there is none that can be read."""
    try:
        content = json.loads((Path(workdir) / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    entries = content.items() if isinstance(content, dict) else ()
    found: dict[str, Any] = {name: value for name, value in entries if isinstance(value, KINDS.get(name, object))}
    if not all(isinstance(step, int) for step in found.get("frozen_replicas", {}).values()):
        del found["frozen_replicas"]
    return found


def versions() -> dict[str, str | None]:
    """The versions of Python, of lopbench and of what it computes with; None for what is not installed."""
    ours = {"python": platform.python_version(), "lopbench": lopbench.__version__}
    return ours | {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def device_name(device: Any) -> str:
    """A `torch.device` and the processor behind it: "cuda:0 (NVIDIA H200)"."""
    if device.type == "cuda":
        import torch

        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({platform.processor() or platform.machine()}, {os.cpu_count()} cores)"


def git_revision() -> dict[str, Any] | None:
    """The revision of the checkout that lopbench runs from, and whether files differ from it; None outside of one."""
    root = Path(lopbench.__file__).parent.parent
    if not (root / ".git").exists():
        return None
    revision, changes = _git(root, "rev-parse", "HEAD"), _git(root, "status", "--porcelain")
    return None if revision is None or changes is None else {"revision": revision, "dirty": bool(changes)}


def _git(root: Path, *arguments: str) -> str | None:
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
