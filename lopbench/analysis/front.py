"""What a report says about the study as a whole: how much of it there is, what was run, what words mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lopbench.analysis import page
from lopbench.analysis.panels import named
from lopbench.analysis.provenance import Provenance
from lopbench.analysis.results_tables import seeds_in_words
from lopbench.analysis.studies import Study
from lopbench.analysis.subject import Asked
from lopbench.analysis.tags import HEADLINES

if TYPE_CHECKING:
    import pandas as pd

MOST_COMMANDS = 3  # of the populations of a study each has its own
DEFINITIONS = {
    "Final score": "the mean of the values over the last tenth of the tasks (at least one), of each replica.",
    "Interval": "95% percentile bootstrap, for which whole replicas (seeds) are drawn; none of fewer than three.",
    "Interquartile mean": "the mean without the lowest and the highest quarter (Agarwal et al. 2021).",
    "First against last task": "the value in the last task minus that in the first, of each replica.",
    "Diverged": "a replica that turned non-finite. It has no score, and no place in a mean; where variants are ranked "
    "it counts as the worst.",
    "Task": "tasks are counted from 0.",
    "Variant": "a method at one point of what was swept; its replicas differ in the seed alone.",
}
STATES = {
    "finished": "finished",
    "running": "in progress",
    "waiting": "not begun",
    "stopped": "stopped",
    "failed": "failed",
    "unknown": "of unknown state",
}


def summary(study: Study, asked: Asked) -> str:
    """The study in a line: how many of what."""
    seeds = study.replicas.groupby("variant", sort=False)["seed"].nunique()
    each = _range(seeds.min(), seeds.max()) if len(seeds) else "0"
    counts = [_plural(len(study.methods), "method"), _plural(len(study.variants), "variant")]
    counts += [f"{_plural(each, 'seed')} each"]
    if asked.tag:
        rows = study.of(asked.tag)
        counts += [_plural(int(rows["task"].max()) + 1, "task"), f"{rows['step'].max():,} updates"]
    return f"{', '.join(counts)}; {_states(study)}."


def _states(study: Study) -> str:
    """How the runs stand: "finished", or "3 runs finished, 1 in progress"."""
    counts = study.replicas.drop_duplicates("folder")["status"].value_counts(sort=False)
    if counts.empty:
        return "nothing is planned"
    if len(counts) == 1:
        return STATES.get(counts.index[0], counts.index[0])
    words = [f"{count} {STATES.get(state, state)}" for state, count in counts.items()]
    return f"of {_plural(int(counts.sum()), 'run')} {', '.join(words)}"


def notes(study: Study, asked: Asked) -> list[str]:
    """What is to be known before anything else."""
    unfinished = (study.replicas["status"] != "finished").any()
    first = [f"Not all of it has finished ({_states(study)}): this is what there is so far."] if unfinished else []
    first += [] if asked.tag else [f"No task has ended yet: there is nothing to draw ({', '.join(HEADLINES)})."]
    return first + study.notes


def what_was_run(study: Study, ran: Mapping[str, Provenance]) -> list[str]:
    """What was run, of each workdir."""
    parts = [page.heading("What was run", "ran")]
    for workdir, own in ran.items():
        replicas = study.replicas[study.replicas["workdir"] == workdir]
        versions = ", ".join(f"{package} {version}" for package, version in own.versions.items())
        parts.append(
            page.facts(
                {
                    "Name": own.name,
                    "Folder": own.workdir,
                    "Methods": ", ".join(dict.fromkeys(replicas["method"])),
                    **_swept(study, replicas),
                    "Seeds": seeds_in_words(sorted(replicas["seed"].unique().tolist())),
                    "Gin files": ", ".join(own.files),
                    "Bindings": "; ".join(own.bindings),
                    "Began, ended": " – ".join(time for time in (own.started, own.ended) if time),
                    "Device": ", ".join(own.devices),
                    "Versions": versions,
                    "Git revision": ", ".join(own.revisions),
                }
            )
        )
        more = [f"# and {len(own.commands) - MOST_COMMANDS} more"] if len(own.commands) > MOST_COMMANDS else []
        parts += [page.code("\n".join([*own.commands[:MOST_COMMANDS], *more]))] if own.commands else []
    return parts


def _swept(study: Study, replicas: pd.DataFrame) -> dict[str, str]:
    """Of each swept key the values there are, as a row of facts."""
    found = {}
    for key in study.keys:
        users = replicas[[key in study.keys_of(method) for method in replicas["method"]]]
        if len(users):
            found[key.rpartition(".")[2]] = ", ".join(map(named, users[key].unique()))
    return found


def _plural(count: int | str, noun: str) -> str:
    return f"{count} {noun}{'' if count in (1, '1') else 's'}"


def _range(least: int, most: int) -> str:
    return str(least) if least == most else f"{least} to {most}"
