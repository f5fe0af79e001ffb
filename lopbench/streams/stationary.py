"""The control of all streams: one data set for ever."""

from __future__ import annotations

from dataclasses import dataclass

import lopbench
from lopbench.streams.subsets import SubsetStream


@lopbench.register("streams")
@dataclass(frozen=True, eq=False)
class Stationary(SubsetStream):
    """Stationary: the same images with their true labels for ever; nothing changes from task to task.

    Tasks are stretches of the run, to report on and to tell strategies of. With the same seeds and fields, the
    examples and their order are those of `PermutedInputs` and `PermutedLabels`, so that such a pair differs in the
    change alone. Orders are keyed by the step: tasks of one full epoch or of a hundred show the same batches.

    Fields: those of `SubsetStream`.
    """
