"""Strategies: what acts on the learner to keep it plastic, one method a file."""

from lopbench.strategies.baseline import Baseline
from lopbench.strategies.continual_backprop import ContinualBackprop
from lopbench.strategies.ewc import EWC
from lopbench.strategies.init_regularization import HuberInit, HybridInit, L1Init, L2Init
from lopbench.strategies.l2 import L2
from lopbench.strategies.redo import ReDo
from lopbench.strategies.reset import Reset
from lopbench.strategies.restore_best import RestoreBest
from lopbench.strategies.selective_weight_reinit import SelectiveWeightReinit
from lopbench.strategies.shrink_and_perturb import ShrinkAndPerturb, ShrinkAndPerturbInit

__all__ = [
    "EWC",
    "L2",
    "Baseline",
    "ContinualBackprop",
    "HuberInit",
    "HybridInit",
    "L1Init",
    "L2Init",
    "ReDo",
    "Reset",
    "RestoreBest",
    "SelectiveWeightReinit",
    "ShrinkAndPerturb",
    "ShrinkAndPerturbInit",
]
