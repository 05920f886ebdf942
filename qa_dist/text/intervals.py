"""Bootstrap intervals of ratios: a mean is one, and so is a micro-averaged F1.

In: numerators and denominators, a row per question or sentence. Out: an interval. The draws are a
function of the arguments alone. Knows no files and no metric.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

_MAX_DRAWS = 1 << 20  # indices that are drawn at once: 8 MB


def ratio_interval(
    numerators: Sequence[float] | NDArray[np.float64],
    denominators: Sequence[float] | NDArray[np.float64],
    groups: Sequence[Hashable] | None = None,
    num_resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the 95 % percentile interval (low, high) of sum over sum, such as of a micro F1.

    Resamples rows, or whole groups where `groups` names each row's. Denominators may be 0; a
    resample of only such rows gives 0. The same arguments in the same order give the same interval.
    """
    sums, sizes = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)  # (N,)
    if groups is not None:
        number = {group: i for i, group in enumerate(dict.fromkeys(groups))}
        index = np.asarray([number[group] for group in groups])  # (N,)
        sums, sizes = (np.bincount(index, row).astype(np.float64) for row in (sums, sizes))  # (G,)
    generator = np.random.default_rng(seed)
    ratios = np.zeros(num_resamples)
    num_rows = max(1, _MAX_DRAWS // len(sums))
    for start in range(0, num_resamples, num_rows):
        rows = slice(start, min(start + num_rows, num_resamples))
        drawn = generator.integers(len(sums), size=(rows.stop - rows.start, len(sums)))  # (rows, G)
        total = sizes[drawn].sum(axis=1)
        np.divide(sums[drawn].sum(axis=1), total, out=ratios[rows], where=total > 0)
    low, high = np.percentile(ratios, (2.5, 97.5))
    return float(low), float(high)
