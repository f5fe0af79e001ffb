"""Means over replicas and their 95% intervals: Student's t for logs, the percentile bootstrap for figures and tables.

Values that are not finite (a replica that was frozen) are left out. Fewer than three values have a mean and
no interval: the bounds are then NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

LEVEL = 0.95
FEWEST = 3  # values that an interval needs
RESAMPLES = 4_999

Statistic = Literal["mean", "iqm"]


def student_interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and half the width of its interval, over axis 0 of `values` `[n, ...]`.

    half width = t(0.975, n - 1) * s / sqrt(n), with s the standard deviation with divisor n - 1.
    """
    from scipy.special import stdtrit

    finite = np.isfinite(values)
    count = finite.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(finite, values, 0).sum(axis=0) / count
        deviation = np.sqrt(np.where(finite, np.square(values - mean), 0).sum(axis=0) / (count - 1))
        half = stdtrit(np.maximum(count - 1, 1), (1 + LEVEL) / 2) * deviation / np.sqrt(count)
    return mean, np.where(count >= FEWEST, half, np.nan)


def interquartile_mean(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """The mean of what is left of n values without the floor(n / 4) lowest and as many highest.

    Less is drawn by outliers than the mean, and more certain than the median. Of fewer than four values it is the mean.
    Source: Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice", section 4.3.
    """
    from scipy.stats import trim_mean

    return trim_mean(values, 0.25, axis=axis)


def bootstrap_interval(
    values: np.ndarray, resamples: int = RESAMPLES, seed: int = 0, statistic: Statistic = "mean"
) -> tuple[np.ndarray, ...]:
    """A statistic over replicas with the bounds of its percentile bootstrap interval: `values` `[replicas, points]`.

    `statistic`: "mean", or "iqm" (see `interquartile_mean`). Whole replicas are drawn, with replacement; columns that
    miss the same replicas are resampled together.
    Source: Efron, Tibshirani, "An Introduction to the Bootstrap" (1993), section 13.3.
    """
    from scipy.stats import bootstrap

    of: Callable[..., np.ndarray] = interquartile_mean if statistic == "iqm" else np.mean
    finite = np.isfinite(values)
    center, lower, upper = (np.full(values.shape[1], np.nan) for _ in range(3))
    for present in np.unique(finite.T, axis=0):
        columns = (finite == present[:, None]).all(axis=0)
        sample = values[np.ix_(present, columns)]
        sample = sample[np.lexsort(sample.T[::-1])]  # the order of the replicas then changes no bit
        if len(sample):
            center[columns] = of(sample, axis=0)
        if len(sample) >= FEWEST:
            found = bootstrap(
                (sample,),
                of,
                axis=0,
                n_resamples=resamples,
                batch=500,
                confidence_level=LEVEL,
                method="percentile",
                rng=np.random.default_rng(seed),
            )
            lower[columns], upper[columns] = found.confidence_interval
    return center, lower, upper


def interval(values: np.ndarray, statistic: Statistic = "mean") -> tuple[float, float, float]:
    """The statistic of one number a replica, `[replicas]`, and its bootstrap interval; NaN of none that is finite."""
    center, lower, upper = bootstrap_interval(np.asarray(values, float)[:, None], statistic=statistic)
    return float(center[0]), float(lower[0]), float(upper[0])
