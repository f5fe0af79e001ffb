"""Means over replicas and their 95% intervals: Student's t for logs, the percentile bootstrap for figures.

Values that are not finite (a replica that was frozen) are left out. Fewer than three values have a mean and
no interval: the bounds are then NaN.
"""

from __future__ import annotations

import numpy as np

LEVEL = 0.95
FEWEST = 3  # values that an interval needs


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


def bootstrap_interval(values: np.ndarray, resamples: int = 4_999, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Mean over replicas with the bounds of its percentile bootstrap interval: `values` `[replicas, points]`.

    Whole replicas are drawn, with replacement; columns that miss the same replicas are resampled together.
    Source: Efron, Tibshirani, "An Introduction to the Bootstrap" (1993), section 13.3.
    """
    from scipy.stats import bootstrap

    finite = np.isfinite(values)
    mean, lower, upper = (np.full(values.shape[1], np.nan) for _ in range(3))
    for present in np.unique(finite.T, axis=0):
        columns = (finite == present[:, None]).all(axis=0)
        sample = values[np.ix_(present, columns)]
        if len(sample):
            mean[columns] = sample.mean(axis=0)
        if len(sample) >= FEWEST:
            found = bootstrap(
                (sample,),
                np.mean,
                axis=0,
                n_resamples=resamples,
                batch=500,
                confidence_level=LEVEL,
                method="percentile",
                rng=np.random.default_rng(seed),
            )
            lower[columns], upper[columns] = found.confidence_interval
    return mean, lower, upper
