"""The report of a study or a run: one HTML file with everything in it, figures and tables for papers beside it.

    from lopbench.analysis.report import write_report

    write_report("runs/permuted")                    # runs/permuted/report/index.html

In its folder lie

    index.html                                       figures inside; no scripts, and nothing is loaded
    figures/NAME.png, NAME.pdf
    tables/NAME.csv, NAME.tex                        LaTeX needs \\usepackage{booktabs}
    tensorboard/                                     the figures, and each variant's mean: tensorboard --logdir=WORKDIR
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from lopbench import files
from lopbench.analysis import board, curve_figures, front, page, provenance, published, scores, sections, studies
from lopbench.analysis.curves import MOST_POINTS, curves
from lopbench.analysis.intervals import Statistic
from lopbench.analysis.output import Output
from lopbench.analysis.provenance import Provenance
from lopbench.analysis.published import Number
from lopbench.analysis.selection import select
from lopbench.analysis.studies import Study
from lopbench.analysis.subject import Asked, Section, Subject
from lopbench.analysis.tags import HEADLINES, headline, measures
from lopbench.errors import require
from lopbench.registry import nearest

FOLDER, INDEX = "report", "index.html"
#: bindings that begin so change how much was run, and not what
AMOUNTS = ("run.seeds", "run.max_tasks", "run.max_steps", "run.window_steps", "run.keep", "run.checkpoint", "sweep.")


def write_report(
    workdirs: Sequence[str | Path] | str | Path,
    out: str | Path | None = None,
    tags: Sequence[str] = (),
    over: Literal["task", "step"] = "task",
    bins: int = MOST_POINTS,
    statistic: Statistic = "mean",
    baseline: str | None = None,
) -> Path:
    """Write the report of studies and runs, however far they are; the path of its index.html.

    `out`: the report's folder; None: "report" in the first workdir. `tags`: those to draw besides the one that the
    study is judged by (`tags.headline`). `over`, `bins`, `statistic`: see `curves.curves`. `baseline`: the variant to
    compare with; None: the first. Files of an earlier report that this one has, too, are replaced. Raises `UserError`,
    before anything is written, for a folder that holds neither a run nor a study, and for a tag or a variant that
    there isn't.
    """
    paths = [Path(workdir) for workdir in ([workdirs] if isinstance(workdirs, str | Path) else workdirs)]
    study, asked = _read(paths, Asked("", tuple(dict.fromkeys(tags)), over, bins, statistic, baseline))
    ran = {workdir: provenance.of(Path(workdir), _folders(study, workdir)) for workdir in map(str, paths)}
    output = Output(Path(out) if out is not None else paths[0] / FOLDER)
    found = _sections(study, asked, ran, output) if asked.tag else []
    title = ", ".join(dict.fromkeys(own.name for own in ran.values()))
    body = [
        f"<h1>{page.escape(title)}</h1>",
        page.paragraph(front.summary(study, asked), "soft"),
        page.contents({section.anchor: section.title for section in found} | {"ran": "What was run"}),
        page.notes(front.notes(study, asked)),
        *(part for section in found for part in (page.heading(section.title, section.anchor), *section.parts)),
        *front.what_was_run(study, ran),
        page.heading("How the numbers are defined", "defined"),
        page.facts(front.DEFINITIONS),
        page.heading("Made by", "made"),
        page.code(_command(paths, out, asked)),
    ]
    index = output.folder / INDEX
    files.write_atomically(index, page.page(f"{title}: report", body))
    board.write_board(output.folder, output.images, asked.tag, curves(study, asked.tag, "step") if asked.tag else None)
    return index


def _read(paths: Sequence[Path], asked: Asked) -> tuple[Study, Asked]:
    """The results of the tags that the report needs, and what was asked for with the tag to judge by; "": none yet."""
    require(asked.over in curve_figures.FROM, f"over={asked.over!r}: a curve goes over 'task' or 'step'.")
    require(asked.bins >= 1, f"bins={asked.bins}: a curve has at least one point.")
    require(asked.statistic in curve_figures.STATISTICS, f"statistic={asked.statistic!r}: it is 'mean' or 'iqm'.")
    known = studies.read(paths, tags=[]).tags()
    tag = headline(known) if set(HEADLINES) & set(known) else ""
    study = studies.read(paths, [tag, *asked.tags, *measures(known)])
    for further in asked.tags:
        study.of(further)
    there = asked.baseline is None or asked.baseline in study.variants
    close = nearest(str(asked.baseline), study.variants)
    require(there, f"There is no variant {asked.baseline!r} to compare with.{close}")
    return study, replace(asked, tag=tag)


def _folders(study: Study, workdir: str) -> list[Path]:
    return [Path(folder) for folder in study.replicas.loc[study.replicas["workdir"] == workdir, "folder"].unique()]


def _sections(study: Study, asked: Asked, ran: Mapping[str, Provenance], output: Output) -> list[Section]:
    chosen = select(study.variants, scores.final(study, asked.tag), asked.tag)
    subject = Subject(study, chosen, _published(study, ran), _changed(ran.values()))
    return [section for part in sections.ALL if (section := part(subject, asked, output))]


def _published(study: Study, ran: Mapping[str, Provenance]) -> dict[str, list[Number]]:
    """What is published of each variant, by the shipped gin file of its workdir."""
    found: dict[str, list[Number]] = {}
    for line in study.replicas.drop_duplicates("variant").to_dict("records"):
        method = re.sub(r" \(.*\)$", "", line["method"])  # of several workdirs: see `studies.read`
        values = {key: line[key] for key in study.keys_of(line["method"])}
        alike = study.replicas[study.replicas["method"] == line["method"]]
        swept = [key for key in values if alike[key].nunique(dropna=False) > 1]
        names = [name for file in ran[line["workdir"]].files if (name := published.shipped_name(file))]
        found[line["variant"]] = [number for name in names for number in published.numbers(name, method, values, swept)]
    return found


def _changed(ran: Iterable[Provenance]) -> str:
    """What command lines changed of what gin files say, but for how much is run, as a sentence; "" if nothing."""
    lines = dict.fromkeys(line for own in ran for line in own.bindings if not line.strip().startswith(AMOUNTS))
    return f"Bindings of this study that may not be those of the published one: {'; '.join(lines)}." if lines else ""


def _command(paths: Sequence[Path], out: str | Path | None, asked: Asked) -> str:
    """The command line that makes this report."""
    flags = [f"--tag={tag}" for tag in asked.tags]
    for name in ("over", "bins", "statistic", "baseline"):
        if getattr(asked, name) != getattr(Asked(""), name):
            flags.append(f"--{name}={getattr(asked, name)}")
    flags += [] if out is None else [f"--out={out}"]
    return shlex.join(["python", "-m", "lopbench.analysis", *map(str, paths), *flags])
