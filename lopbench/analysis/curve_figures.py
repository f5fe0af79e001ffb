"""The figure of one tag: the curves of the variants that are shown, with published numbers where there are some."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from lopbench.analysis import curves as lines
from lopbench.analysis import page
from lopbench.analysis.intervals import Statistic
from lopbench.analysis.lines import Curve, Mark, Words, counted, line_figure
from lopbench.analysis.output import Output
from lopbench.analysis.subject import Asked, Subject
from lopbench.analysis.tags import label

FROM = {"task": "from task to task", "step": "over updates"}
STATISTICS = {"mean": "mean", "iqm": "interquartile mean"}


def curve(subject: Subject, asked: Asked, output: Output, tag: str, name: str) -> str:
    """The figure of one tag, as HTML."""
    found, width = curves_of(subject, tag, asked.over, asked.bins, asked.statistic)
    if not found:
        return page.paragraph(f"None of the variants that are shown has {tag}.")
    marks, sources = _marks(subject, tag, found) if asked.over == "task" and asked.statistic == "mean" else ([], [])
    small = counted_by(found, asked.statistic)
    of, plural = {"task": ("task", "tasks"), "step": ("updates", "recorded points")}[asked.over]
    along = of if width == 1 else f"{of} (each point is the mean of {width} {plural})"
    notes = [*([subject.selection.note] if subject.selection.note else []), *sources]
    words = Words(f"{short(tag)} {FROM[asked.over]}", along, label(tag), small, notes)
    shows = f"{label(tag)} over {asked.over}s, one line for each of {', '.join(line.label for line in found)}"
    return output.figure(name, line_figure(found, words, marks, subject.numbers), shows)


def counted_by(found: Sequence[Curve], statistic: Statistic) -> list[str]:
    """What a line and its band are, and who is missing."""
    return [line.replace("mean over", f"{STATISTICS[statistic]} over") for line in counted(found)]


def curves_of(
    subject: Subject, tag: str, over: Literal["task", "step"], bins: int, statistic: Statistic
) -> tuple[list[Curve], int]:
    """The lines of the variants that are shown, and how many tasks or steps make a point."""
    found = lines.curves(subject.study, tag, over, bins, statistic)
    drawn = []
    for variant in subject.selection.variants:
        own = found[found["variant"] == variant]
        x, center, lower, upper = (own[name].to_numpy() for name in ("x", "center", "lower", "upper"))
        if len(own):
            replicas = int((own["seeds"] + own["diverged"]).max())
            drawn.append(Curve(variant, x, center, lower, upper, replicas, int(own["diverged"].max())))
    return drawn, found.attrs["width"]


def _marks(subject: Subject, tag: str, found: Sequence[Curve]) -> tuple[list[Mark], list[str]]:
    """The published numbers of the tag that lie within the figure, and what is to be said about them."""
    end = max(line.tasks[-1] for line in found)
    own = [(line.label, n) for line in found for n in subject.published.get(line.label, ()) if n.tag == tag]
    marks = [
        Mark(name, n.first, min(end, n.first + end if n.last is None else n.last), n.value, n.low, n.high)
        for name, n in own
        if n.first <= end
    ]
    notes = []
    if marks:
        notes.append("Published: dotted lines over the tasks that they are means of, diamonds at one task; bands: one ")
        notes[0] += "standard error, or the range stated."
        notes += [f"Source: {source}." for source in dict.fromkeys(n.source for _, n in own if n.first <= end)]
        notes += [subject.changed] if subject.changed else []
    beyond = len(own) - len(marks)
    if beyond:
        notes.append(f"Published numbers of tasks beyond the last one here, and so not shown: {beyond}.")
    return marks, notes


def short(tag: str) -> str:
    """What a tag is called, without what its values are of."""
    return label(tag).partition(",")[0]


def labels_of(tags: Sequence[str]) -> list[str]:
    """What tags are called side by side: those that would be called alike by their own names."""
    labels = [label(tag) for tag in tags]
    return [text if labels.count(text) == 1 else tag for tag, text in zip(tags, labels, strict=True)]
