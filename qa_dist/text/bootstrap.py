"""How sure a mean over questions is: 95 % intervals, and the difference between two models.

Worked example. Two models answered the same four questions of stories s and t: the first scores 1,
0 | 1, 1, the second 1, 1 | 0, 1. The differences, second less first, are 0, 1 | -1, 0. A resample
draws two stories with replacement: s s gives a mean of 1/2, s t gives 0, t t gives -1/2; the middle
95 % of a thousand such means are the interval, here from -1/2 to 1/2: nobody can say which one is
better. The questions are the same on both sides, so that hard stories are hard for both and cancel
out: that is what makes it tighter than two intervals side by side (Efron & Tibshirani 1993; Koehn
2004 for the paired test).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_MAX_DRAWS = 1 << 20  # numbers that the bootstrap draws at once: 8 MB
_MANY_ROWS = 1 << 16  # of more, it is drawn how often each different row occurs, if few differ


def bootstrap_interval(
    values: Sequence[float] | Floats,
    groups: Sequence[Hashable] | None = None,
    weights: Sequence[float] | None = None,
    num_resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the 95 % percentile interval (low, high) of the values' mean, in their own unit.

    The same arguments in the same order give the same interval; see `bootstrap_means`.
    """
    means = bootstrap_means(values, groups, weights, num_resamples, seed)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def bootstrap_means(
    values: Sequence[float] | Floats,
    groups: Sequence[Hashable] | None = None,
    weights: Sequence[float] | None = None,
    num_resamples: int = 1000,
    seed: int = 0,
) -> Floats:
    """Return the values' mean in each resample, in their own unit: (num_resamples,).

    Resamples questions, or whole groups where `groups` names each value's (CoQA: its story); a
    resample's mean is sum over sum, so that a group counts by its size. weights: each value's, > 0.
    Raises ValueError for input that is empty, of uneven lengths or not finite.
    """
    means = np.asarray(values, dtype=np.float64)  # (N,), as `sizes`
    sizes = np.ones_like(means) if weights is None else np.asarray(weights, np.float64)
    if not len(means) or means.shape != sizes.shape or num_resamples < 1:
        raise ValueError("expected one weight per value, at least one value and one resample")
    if not (np.isfinite(means) & np.isfinite(sizes) & (sizes > 0)).all():
        raise ValueError("expected finite values, and finite weights above 0")
    return ratio_means(means * sizes, sizes, groups, num_resamples, seed)


def ratio_interval(
    numerators: Sequence[float] | Floats,
    denominators: Sequence[float] | Floats,
    groups: Sequence[Hashable] | None = None,
    num_resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the 95 % percentile interval (low, high) of sum over sum, such as of a micro F1; see
    `ratio_means`."""
    ratios = ratio_means(numerators, denominators, groups, num_resamples, seed)
    low, high = np.percentile(ratios, (2.5, 97.5))
    return float(low), float(high)


def ratio_means(
    numerators: Sequence[float] | Floats,
    denominators: Sequence[float] | Floats,
    groups: Sequence[Hashable] | None = None,
    num_resamples: int = 1000,
    seed: int = 0,
) -> Floats:
    """Return sum over sum in each resample of rows, or of whole groups: (num_resamples,).

    Denominators may be 0; a resample of only such rows gives 0.
    """
    columns = np.array([numerators, denominators], np.float64)
    return _ratios(_resampled(_by_group(columns, groups), num_resamples, seed))


def _by_group(columns: Floats, groups: Sequence[Hashable] | None) -> Floats:
    """Return (C, N) columns summed over each group, (C, G), in the order in which groups come."""
    if groups is None:
        return columns
    number = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    index = np.asarray([number[group] for group in groups])  # (N,)
    return np.array([np.bincount(index, row) for row in columns])


def _resampled(columns: Floats, num_resamples: int, seed: int) -> Floats:
    """Return the columns' (C, N) sums in each resample of rows: (C, num_resamples).

    A resample is N rows drawn with replacement. Of many rows few of which differ, how often each
    different one is among them follows a multinomial distribution: that is drawn, at once.
    """
    generator, num_rows = np.random.default_rng(seed), columns.shape[1]
    counts = None
    if num_rows > _MANY_ROWS:
        different, counts = _different(columns)
        if 8 * len(counts) > num_rows:
            counts = None
    sums = np.empty((len(columns), num_resamples))
    at_once = max(1, _MAX_DRAWS // (num_rows if counts is None else len(counts)))
    for start in range(0, num_resamples, at_once):
        rows = slice(start, min(start + at_once, num_resamples))
        if counts is not None:
            shares = counts / num_rows
            sums[:, rows] = different @ generator.multinomial(num_rows, shares, rows.stop - start).T
            continue
        drawn = generator.integers(num_rows, size=(rows.stop - start, num_rows))
        for total, column in zip(sums, columns, strict=True):
            total[rows] = column[drawn].sum(axis=1)
    return sums


def _different(columns: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """Return the different rows of (C, N) columns, (C, K), and how often each is there, (K,)."""
    codes = np.zeros(columns.shape[1], np.int64)
    for column in columns:
        if (column != column[0]).any():
            values, places = np.unique(column, return_inverse=True)
            codes = np.unique(codes * len(values) + places, return_inverse=True)[1]
    _, first, counts = np.unique(codes, return_index=True, return_counts=True)
    return columns[:, first], counts


def _ratios(sums: Floats) -> Floats:
    """Return the first row by the second, 0 where that is 0."""
    ratios = np.zeros(sums.shape[1])
    np.divide(sums[0], sums[1], out=ratios, where=sums[1] > 0)
    return ratios


@dataclass(frozen=True)
class Difference:
    """How much better the second of two models is, over the questions that both answered."""

    mean: float
    """Second less first, in the scores' unit."""
    low: float
    high: float
    """95 % interval of the mean."""
    p_value: float
    """Two-sided, of the paired bootstrap: twice the share of resamples on the other side of 0."""


def paired_difference(
    first: Sequence[float],
    second: Sequence[float],
    groups: Sequence[Hashable] | None = None,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> Difference:
    """Compare two models by their scores on the same questions, in the same order.

    groups: as in `bootstrap_means`. The p-value is never below 1 / (num_resamples + 1), as no
    resample can show less. Raises ValueError as there, and for sequences of different lengths.
    """
    if len(first) != len(second):
        raise ValueError(
            f"expected as many scores on both sides, found {len(first)}, {len(second)}"
        )
    differences = np.asarray(second, np.float64) - np.asarray(first, np.float64)
    means = bootstrap_means(differences.tolist(), groups, None, num_resamples, seed)
    return _difference(float(differences.mean()), means)


Ratios = tuple[Sequence[float], Sequence[float]]
"""Numerators and denominators of the same questions or sentences, in the same order."""


def paired_ratio_difference(
    first: Ratios,
    second: Ratios,
    groups: Sequence[Hashable] | None = None,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> Difference:
    """Compare two models by a figure that is sum over sum, such as a micro F1.

    The same resamples are drawn for both. Raises ValueError for sequences of different lengths.
    """
    lengths = {len(part) for side in (first, second) for part in side}
    if len(lengths) > 1:
        raise ValueError(f"expected as many rows on both sides, found {sorted(lengths)}")
    columns = _by_group(np.array([*second, *first], np.float64), groups)
    sums = _resampled(columns, num_resamples, seed)
    ours, theirs = _ratios(sums[:2]), _ratios(sums[2:])
    whole = [sum(above) / sum(below) if sum(below) else 0.0 for above, below in (second, first)]
    return _difference(whole[0] - whole[1], ours - theirs)


def _difference(mean: float, means: Floats) -> Difference:
    low, high = np.percentile(means, (2.5, 97.5))
    beyond = min(int((means <= 0).sum()), int((means >= 0).sum()))
    p_value = min(1.0, 2 * (beyond + 1) / (len(means) + 1))
    return Difference(mean, float(low), float(high), p_value)
