"""Rows as matrices: one row a replica, one column a task or a bin of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from lopbench.analysis.studies import Study


class Tasks(NamedTuple):
    """A tag by task: `tasks` `[T]`, ascending; `means` and `there` `[replicas of the study, T]`.

    `means`: over a task's values, not finite if one of them isn't; NaN where there are none, and `there` is False.
    """

    tasks: np.ndarray
    means: np.ndarray
    there: np.ndarray


def by_task(study: Study, tag: str) -> Tasks:
    """The mean of each replica in each task that the tag has values in; raises `UserError` for a tag without any."""
    rows = study.of(tag)
    tasks, column = np.unique(rows["task"].to_numpy(), return_inverse=True)
    means, there = averaged(
        rows["replica"].to_numpy(), column, rows["value"].to_numpy(), (len(study.replicas), len(tasks))
    )
    return Tasks(tasks, means, there)


def averaged(
    row: np.ndarray, column: np.ndarray, value: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """The mean of the values in each cell of a matrix of `shape`, and which cells have any; all arguments `[values]`.

    A cell without values is NaN; one with a value that isn't finite is not finite.
    """
    cell = row * shape[1] + column
    count = np.bincount(cell, minlength=shape[0] * shape[1])
    with np.errstate(invalid="ignore"):
        means = np.bincount(cell, value, len(count)) / count
    return means.reshape(shape), (count > 0).reshape(shape)
