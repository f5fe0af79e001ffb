"""From the flags to the plan of a study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lopbench.errors import require
from lopbench.flags import BINDINGS, DATA_DIR, FILES, SEARCH_PATHS, WORKDIR

if TYPE_CHECKING:
    import torch

    from lopbench.config import Request
    from lopbench.ledger import Ledger


@dataclass(frozen=True)
class Asked:
    """What the flags ask for: the study, where it lies, where data sets and modules are found."""

    request: Request
    name: str
    workdir: Path
    data_dir: str | None
    search_paths: tuple[str, ...]


def asked(argv: Sequence[str]) -> Asked:
    """What the flags ask for; prints which gin files were taken. Raises `UserError` at the first mistake."""
    from lopbench import config, files, lookup  # not above, so that --help is quick

    require(len(argv) == 1, f"{' '.join(argv[1:])}: not a flag. A gin file is given as --gin_file=NAME.gin.")
    require(bool(FILES.value), f"Which --gin_file? {lookup.shipped_runs()}")
    request = config.read(FILES.value, BINDINGS.value, SEARCH_PATHS.value)
    print(*request.notices, sep="\n")
    name = lookup.run_name(request.files[0])
    beside = [str(Path(file).parent) for file in request.files] if request.imports else []
    paths = tuple(dict.fromkeys([*SEARCH_PATHS.value, *beside]))
    return Asked(request, name, files.workdir_at(WORKDIR.value or f"runs/{name}"), DATA_DIR.value, paths)


def plan(asked: Asked, device: torch.device, threads: int | None, room: float | None) -> Ledger:
    """The study's ledger, which is written, with what is new in it. Loads every data set, so that it is there.

    threads: of each process, if the study is new; None: as many as it likes. room: bytes that a population may take;
    None: any number.
    """
    import torch

    from lopbench import study
    from lopbench.experiment import Loader, build
    from lopbench.variants import Surroundings

    variants, _ = build(asked.request, Surroundings(device, Loader(asked.data_dir, device)))
    ledger = study.plan(study.Points(asked.request, variants), asked.workdir, asked.name, threads, room)
    del variants
    torch.cuda.empty_cache()  # which does nothing without a GPU: its memory is the populations'
    return ledger


def describe(asked: Asked, device: torch.device, room: float | None, processes: int) -> str:
    """What `plan` would add to the study, with memory and an estimate of time, told on generated data."""
    from lopbench import dry_run, study
    from lopbench.experiment import build, imitation
    from lopbench.variants import Surroundings

    variants, _ = build(asked.request, Surroundings(device, imitation(device)))
    points = study.Points(asked.request, variants)
    begun = study.begun_in(asked.workdir, points)
    groups = study.new_groups(points, begun, room)
    count, new = len(points.digests), sum(len(g.replicas) for g in groups)
    head = [f"Study {asked.name} in {asked.workdir}: {count:,} points, {count - new:,} of them planned already."]
    if groups:
        first = len(begun.populations) if begun else 0
        folders = [study.folder_of(first + number) for number in range(len(groups))]
        head.append(dry_run.describe(groups, [g.choice() for g in groups], processes, folders))
    return "\n".join(head)


def counted(ledger: Ledger) -> str:
    """How large a study is."""
    populations = len(ledger.populations)
    return f"{len(ledger.points):,} points in {populations:,} population{'s' if populations != 1 else ''}"
