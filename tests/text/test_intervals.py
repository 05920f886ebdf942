"""Intervals of ratios: of sums, over groups, a function of the arguments."""

import numpy as np
import pytest

from qa_dist.text.intervals import ratio_interval
from qa_dist.text.metrics import bootstrap_interval


def test_ratio_of_equal_rows_has_no_width():
    assert ratio_interval([1, 2, 4], [2, 4, 8]) == (0.5, 0.5)
    assert ratio_interval([1, 0, 1, 0], [1, 1, 1, 1], groups=["a", "a", "b", "b"]) == (0.5, 0.5)


def test_rows_without_anything_count_for_nothing():
    assert ratio_interval([0, 0], [0, 0]) == (0.0, 0.0)
    low, high = ratio_interval([1.0] * 50 + [0.0] * 50, [1.0] * 50 + [0.0] * 50)
    assert (low, high) == (1.0, 1.0)


def test_a_mean_is_a_ratio_over_its_number():
    values = np.random.default_rng(1).random(300).tolist()
    groups = [i // 7 for i in range(300)]
    assert ratio_interval(values, [1.0] * 300, groups) == bootstrap_interval(values, groups)
    assert ratio_interval(values, [1.0] * 300, groups, seed=1) != bootstrap_interval(values, groups)


def test_groups_widen_the_interval_of_what_goes_together():
    numerators = [float(i // 50 % 2) for i in range(1000)]
    alone = ratio_interval(numerators, [1.0] * 1000)
    together = ratio_interval(numerators, [1.0] * 1000, groups=[i // 50 for i in range(1000)])
    assert alone[0] == pytest.approx(0.5 - 1.96 * 0.5 / 1000**0.5, abs=0.01)
    assert together[0] < 0.35 < 0.65 < together[1]
