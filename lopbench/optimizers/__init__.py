"""Optimizers on stacked parameters, and schedules of their hyperparameters."""

from lopbench.optimizers.adam import Adam, AdamW
from lopbench.optimizers.schedules import Constant, MultiStep, OneCycle
from lopbench.optimizers.sgd import SGD, SGDW

__all__ = ["SGD", "SGDW", "Adam", "AdamW", "Constant", "MultiStep", "OneCycle"]
