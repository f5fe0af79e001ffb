"""How each population of a study stands, or that of a plain run: a line each of the table (overview.py)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lopbench import files, ledger, lock
from lopbench.errors import require
from lopbench.loggers import manifest

from . import populations, slurm_queue
from .overview import Line
from .progress import Newest, Reached

#: what a run's status means where no process holds its folder
WITHOUT_A_PROCESS = {"finished": "finished", "failed": "failed", "interrupted": "stopped", "running": "stopped"}


class Standing:
    """How a workdir stands, looked at again and again. Raises `UserError` if it holds neither a study nor a run."""

    def __init__(self, workdir: str | Path) -> None:
        self.workdir = files.workdir_at(workdir)
        require(self.workdir.is_dir(), f"There is no folder {workdir}: name the --workdir of a study, or of a run.")
        self._is_study = ledger.is_study(self.workdir)
        begun = self._is_study or bool(manifest.read(self.workdir)) or lock.holder(self.workdir) is not None
        require(begun, f"{workdir} holds neither a study (study.json) nor a run (run.json).")
        self._newest: dict[Path, Newest] = {}

    def lines(self) -> list[Line]:
        """A line for each population, in the ledger's order."""
        if not self._is_study:
            return [self._run()]
        jobs = slurm_queue.remembered(self.workdir)
        study = ledger.read(self.workdir)
        return [self._population(planned, jobs.get(planned.folder, [])) for planned in study.populations]

    def _population(self, planned: ledger.Planned, jobs: list[str]) -> Line:
        folder = self.workdir / planned.folder
        said, methods = manifest.read(folder), {member.variant: member.method for member in planned.replicas}
        reached = self._reached(folder, said)
        return Line(
            name=folder.name,
            methods=tuple(methods.values()),
            replicas=len(planned.replicas),
            step=reached.step if reached else 0,
            steps=planned.steps,
            **_standing(folder, said, reached, where=f"job {jobs[-1]}" if jobs else ""),
        )

    def _run(self) -> Line:
        """A plain run: its populations, whose replicas are numbered one after another, are trained in this order."""
        said = manifest.read(self.workdir)
        points, seeds, plans = said.get("points") or {}, said.get("seeds") or {}, said.get("populations") or []
        reached = self._reached(self.workdir, said)
        step, first = reached.step if reached else 0, 0
        for plan in plans:
            first += plan["replicas"]
            if reached is None or reached.replica < first:
                break
            step += plan["steps"]
        return Line(
            name=self.workdir.resolve().name,
            methods=tuple(points[variant]["method"] if variant in points else variant for variant in seeds),
            replicas=sum(map(len, seeds.values())),
            step=step,
            steps=sum(plan["steps"] for plan in plans) or None,
            **_standing(self.workdir, said, reached),
        )

    def _reached(self, folder: Path, said: Mapping[str, Any]) -> Reached | None:
        """How far a run is, where that has to be looked up."""
        if not said or said.get("status") == "finished":
            return None
        return self._newest.setdefault(folder, Newest(folder)).reached()


def _standing(folder: Path, said: Mapping[str, Any], reached: Reached | None, where: str = "") -> dict[str, Any]:
    """What else a line says. said: the run's run.json; where: the job that it is of."""
    owner = lock.holder(folder)
    state = WITHOUT_A_PROCESS.get(str(said.get("status")), "stopped" if (folder / "run.json").exists() else "waiting")
    if state == "finished":
        where = ""
    elif owner is not None:  # though an earlier process may have said otherwise
        state, where = "running", f"{where} on {owner.host}" if where else owner.host
    return {
        "state": state,
        "rate": reached.rate if state == "running" and reached else None,
        "where": where,
        "error": (str(said.get("error", "")).strip().splitlines() or [""])[-1],
        "log": str(folder / populations.LOG),
    }
