"""What a report shows, section by section: each a heading with figures, tables and the words between them, as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lopbench.analysis import comparison, correlates, page, scores, sensitivity
from lopbench.analysis import results_tables as made
from lopbench.analysis.curve_figures import counted_by, curve, curves_of, labels_of, short
from lopbench.analysis.output import Output
from lopbench.analysis.panels import Panel, panels_figure, predictors_figure, sensitivity_figure
from lopbench.analysis.subject import Asked, Section, Subject
from lopbench.analysis.tables import with_interval
from lopbench.analysis.tags import better, label, measures

if TYPE_CHECKING:
    import pandas as pd

#: of the measures there are, what most papers show
USUAL = (
    "units/dead",
    "units/dormant",
    "units",
    "ranks/effective",
    "ranks/srank",
    "ranks",
    "weights/magnitude",
    "weights",
)
MOST_PANELS = 9
PANEL_POINTS = 40


def learning(subject: Subject, asked: Asked, output: Output) -> Section:
    """The tag to judge by over the tasks, in a sentence, a figure, and the final scores."""
    found = scores.summary(subject.study, asked.tag)
    table = made.scores_table(found, asked.tag)
    note = "Diverged: replicas that turned non-finite, and have no score."
    ranking = scores.ranking(scores.final(subject.study, asked.tag), asked.tag)
    lead = page.paragraph(_answer(found, ranking, asked.tag), "lead")
    figure = curve(subject, asked, output, asked.tag, "curves")
    return Section("learning", "How learning goes", [lead, figure, output.table(table, note)])


def plasticity(subject: Subject, asked: Asked, output: Output) -> Section | None:
    """The first task against the last; None while there is one task."""
    found = scores.plasticity(subject.study, asked.tag)
    if len(set(found.attrs["tasks"])) == 1:
        return None
    worse = "less than 0" if better(asked.tag) == "higher" else "more than 0"
    told = f"A change of {worse} is lost plasticity: the last task is learned worse than the first."
    note = "All three means are of the same replicas: those that are finite in both tasks."
    table = output.table(made.plasticity_table(found, asked.tag), note)
    return Section("plasticity", "Is plasticity lost?", [page.paragraph(told), table])


def compared(subject: Subject, asked: Asked, output: Output) -> Section | None:
    """Every variant against the baseline; None of a study of one variant."""
    found = comparison.compare(subject.study, asked.tag, asked.baseline)
    if found.empty:
        return None
    baseline, lost = found.attrs["baseline"], found.attrs["baseline_diverged"]
    way = f"{'more' if better(asked.tag) == 'higher' else 'less'} than 0 is better"
    told = (
        f"Difference: a variant's final score minus that of {baseline} with the same seed, on average; {way}. "
        f"Probability of improvement: how often a run of the variant is better than one of {baseline}, over all pairs "
        "of runs (Agarwal et al. 2021); 0.5 is no difference, and a run that diverged counts as the worst."
    )
    note = f"Of {baseline}, these seeds diverged: {lost}." if lost else ""
    table = output.table(made.comparison_table(found, asked.tag), note)
    return Section("comparison", "Against the baseline", [page.paragraph(told), table])


def swept(subject: Subject, asked: Asked, output: Output) -> Section | None:
    """The final score against each swept value, and each method at its best; None where nothing was swept."""
    found = sensitivity.sensitivity(subject.study, asked.tag)
    if found.empty:
        return None
    means = scores.summary(subject.study, asked.tag).drop_duplicates("method").set_index("method")["mean"]
    others = {name: float(means[name]) for name in subject.study.methods if name not in set(found["method"])}
    notes = ["Points: mean over seeds, with its 95% bootstrap interval."]
    if (found["points"] > 1).any():
        notes += ["Where several hyperparameters were swept, each value is shown with the best of the others."]
    others = {name: mean for name, mean in others.items() if np.isfinite(mean)}
    drawn = sensitivity_figure(found, short(asked.tag), subject.study.methods, others, notes)
    figure = output.figure("sensitivity", drawn, f"{label(asked.tag)} against each hyperparameter")
    best = sensitivity.best(subject.study, asked.tag)
    told = (
        "A best point that is chosen and judged by the same seeds looks better than it is. Here it is chosen by the "
        "mean over some seeds, and the score is that of the others."
    )
    table = output.table(made.best_table(best, asked.tag), "")
    return Section("sensitivity", "What the hyperparameters change", [figure, page.paragraph(told), table])


def explained(subject: Subject, asked: Asked, output: Output) -> Section | None:
    """What is measured of the networks, beside the tag, and how well it predicts it; None where nothing is."""
    known = measures(subject.study.tags())
    if not known:
        return None
    shown = [asked.tag, *_foremost(known)][:MOST_PANELS]
    drawn = [curves_of(subject, tag, "task", PANEL_POINTS, asked.statistic)[0] for tag in shown]
    panels = [Panel(text, lines) for text, lines in zip(labels_of(shown), drawn, strict=True) if lines]
    notes = counted_by(drawn[0], asked.statistic)
    figure = output.figure(
        "correlates",
        panels_figure(panels, "What goes along with it", "task", subject.numbers, notes),
        f"Small charts over tasks of {', '.join(map(label, shown))}, one line for each variant",
    )
    return Section("correlates", "What goes along with it", [figure, *_prediction(subject, asked, output)])


def _prediction(subject: Subject, asked: Asked, output: Output) -> list[str]:
    found = correlates.predictors(subject.study, asked.tag)
    kinds = ["pooled", "over_time", "across_replicas"]
    found = found[np.isfinite(found[kinds]).any(axis=1)].reset_index(drop=True)
    if found.empty:
        return []
    told = (
        "What is measured before a task against how well that task is then learned, as a rank correlation (Spearman): "
        "of all replicas and tasks together; over the time of one replica; and between replicas, task by task. 1 or -1 "
        "mean that the order of the one tells the order of the other, 0 that it tells nothing."
    )
    drawn = predictors_figure(found, labels_of(list(found["measure"])), short(asked.tag))
    figure = output.figure("predictors", drawn, f"Rank correlations with the next task's {label(asked.tag)}")
    note = "The first task is left out: its networks are as they were drawn. For intervals replicas are resampled."
    return [page.paragraph(told), figure, output.table(made.predictors_table(found, asked.tag), note)]


def further(subject: Subject, asked: Asked, output: Output) -> Section | None:
    """The curves of the tags that were asked for besides; None without."""
    names = {tag: f"curves_{tag.replace('/', '.')}" for tag in asked.tags if tag != asked.tag}
    if not names:
        return None
    return Section("more", "More curves", [curve(subject, asked, output, tag, name) for tag, name in names.items()])


def _answer(found: pd.DataFrame, ranking: dict[str, float], tag: str) -> str:
    """Which variant ends best, and which worst, in a sentence; `ranking`: see `scores.ranking`."""
    finite = found[np.isfinite(found["mean"])]
    if finite.empty:
        return "No variant has a finite score."
    judged = finite.loc[finite["variant"].map(ranking).sort_values(ascending=False, kind="stable").index]
    scored = with_interval(judged, "mean", "mean_low", "mean_high")
    lost = [f" ({count} diverged)" if count else "" for count in judged["diverged"]]
    ranked = [f"{variant} with {text}{of}" for variant, text, of in zip(judged["variant"], scored, lost, strict=True)]
    told = f"Final score: {label(tag)}, {made.tasks_in_words(found)}; {better(tag)} is better. "
    return told + (f"Best is {ranked[0]}; worst is {ranked[-1]}." if len(ranked) > 1 else f"It is that of {ranked[0]}.")


def _foremost(known: Sequence[str]) -> list[str]:
    """Measures in the order in which a reader wants them: of each group the usual one, then the next of each."""
    groups: dict[str, list[str]] = {}
    for tag in sorted(known, key=_usual):
        groups.setdefault(tag.partition("/")[0].partition("_")[0], []).append(tag)
    ranked = [(place, tag) for tags in groups.values() for place, tag in enumerate(tags)]
    return [tag for _, tag in sorted(ranked, key=lambda pair: pair[0])]


def _usual(tag: str) -> tuple[int, str]:
    place = next((place for place, name in enumerate(USUAL) if tag.startswith(name)), len(USUAL))
    return place, tag


#: in the order of the page; each gives None where the study has nothing to show
ALL = (learning, plasticity, compared, swept, explained, further)
