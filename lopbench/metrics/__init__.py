"""What is measured between blocks, on fixed batches, without touching the run."""

from lopbench.metrics.evaluation import AccuracyByClass, Evaluation
from lopbench.metrics.magnitudes import DistanceFromInitial, GradientMagnitude, WeightMagnitude
from lopbench.metrics.ranks import Ranks
from lopbench.metrics.units import DeadUnits, DormantUnits, InactiveUnits

__all__ = [
    "AccuracyByClass",
    "DeadUnits",
    "DistanceFromInitial",
    "DormantUnits",
    "Evaluation",
    "GradientMagnitude",
    "InactiveUnits",
    "Ranks",
    "WeightMagnitude",
]
