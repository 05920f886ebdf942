"""Intervals and paired differences: by hand, and against what statistics expects of them."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from qa_dist.text import bootstrap
from qa_dist.text.bootstrap import (
    Difference,
    bootstrap_interval,
    paired_difference,
    paired_ratio_difference,
    ratio_interval,
)


def test_bootstrap_of_equal_values_has_no_width() -> None:
    assert bootstrap_interval([0.5] * 20) == (0.5, 0.5)
    assert bootstrap_interval([1, 0, 1, 0], groups=["story"] * 4) == (0.5, 0.5)
    assert bootstrap_interval([7.0]) == (7.0, 7.0)


def test_bootstrap_is_near_the_normal_interval() -> None:
    low, high = bootstrap_interval([0.0, 1.0] * 5000)
    assert low == pytest.approx(0.5 - 1.96 * 0.005, abs=0.0012)
    assert high == pytest.approx(0.5 + 1.96 * 0.005, abs=0.0012)


def test_bootstrap_is_a_function_of_its_arguments() -> None:
    values = [i % 7 / 6 for i in range(300)]
    interval = bootstrap_interval(values)
    assert bootstrap_interval(values) == interval
    assert bootstrap_interval(values, seed=1) != interval
    assert bootstrap_interval(values, num_resamples=50) != interval
    assert bootstrap_interval(values, groups=range(300)) == interval


def test_bootstrap_does_not_depend_on_the_size_of_its_pieces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = [i % 7 / 6 for i in range(301)]
    interval = bootstrap_interval(values)
    monkeypatch.setattr(bootstrap, "_MAX_DRAWS", 1000)
    assert bootstrap_interval(values) == interval
    monkeypatch.setattr(bootstrap, "_MAX_DRAWS", 1)
    assert bootstrap_interval(values) == interval


def test_bootstrap_of_groups_resamples_whole_groups_by_their_size() -> None:
    # Ten stories of equal turns: questions look far more certain than stories are.
    values = [float(story % 2) for story in range(10) for _ in range(100)]
    stories = [story for story in range(10) for _ in range(100)]
    low, high = bootstrap_interval(values, groups=stories)
    assert low <= 0.2 and high >= 0.8
    low, high = bootstrap_interval(values)
    assert low > 0.45 and high < 0.55
    # A story's turns and its mean with its size as weight are the same thing.
    sizes = [1, 5, 2, 9, 4, 4]
    means = [0.1, 0.9, 0.4, 0.6, 0.0, 1.0]
    turns = [mean for mean, size in zip(means, sizes, strict=True) for _ in range(size)]
    groups = [story for story, size in enumerate(sizes) for _ in range(size)]
    by_groups = bootstrap_interval(turns, groups=groups)
    assert by_groups == pytest.approx(bootstrap_interval(means, weights=sizes), abs=1e-12)
    assert by_groups != pytest.approx(bootstrap_interval(means), abs=1e-3)


@pytest.mark.parametrize(
    "arguments",
    [
        {"values": []},
        {"values": [1, 2], "weights": [1]},
        {"values": [1, 2], "groups": ["a"]},
        {"values": [1, 2], "weights": [1, 0]},
        {"values": [1, 2], "weights": [1, float("inf")]},
        {"values": [1, float("nan")]},
        {"values": [1, 2], "num_resamples": 0},
    ],
)
def test_bootstrap_refuses_bad_input(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        bootstrap_interval(**arguments)


# ---- two models


def test_a_difference_of_nothing_has_no_width_and_no_evidence() -> None:
    scores = [0.0, 1.0, 0.5]
    assert paired_difference(scores, scores) == Difference(0.0, 0.0, 0.0, 1.0)


def test_a_model_that_is_better_everywhere_is_surely_better() -> None:
    found = paired_difference([0.0] * 5, [1.0] * 5, num_resamples=999)
    assert found == Difference(1.0, 1.0, 1.0, pytest.approx(0.002))
    turned = paired_difference([1.0] * 5, [0.0] * 5, num_resamples=999)
    assert (turned.mean, turned.p_value) == (-1.0, found.p_value), "as sure, the other way round"


def test_the_worked_example() -> None:
    """Two stories whose differences cancel out: means are -1/2, 0, 1/2 at 1 : 2 : 1."""
    found = paired_difference([1, 0, 1, 1], [1, 1, 0, 1], groups=["s", "s", "t", "t"])
    assert (found.mean, found.low, found.high) == (0.0, -0.5, 0.5)
    assert found.p_value == 1.0


def test_pairs_are_tighter_than_two_intervals_side_by_side() -> None:
    """Hard questions are hard for both: only pairs see a small steady gain."""
    generator = random.Random(0)
    hard = [generator.random() for _ in range(200)]
    first = [0.9 * h for h in hard]
    second = [0.9 * h + 0.03 + 0.02 * generator.random() for h in hard]
    low, high = bootstrap_interval(first)
    assert low < bootstrap_interval(second)[0] < high, "the two intervals overlap"
    found = paired_difference(first, second)
    assert 0.03 < found.low < found.mean < found.high < 0.05 and found.p_value < 0.001
    shuffled = generator.sample(second, len(second))
    assert paired_difference(first, shuffled).p_value > 0.05, "control: other pairs"


def test_whole_groups_are_drawn() -> None:
    """A gain in one story of three says little, however many turns it has."""
    groups = [story for story in "abc" for _ in range(40)]
    second = [float(story == "a") for story in groups]
    assert paired_difference([0.0] * 120, second).p_value < 0.001
    assert paired_difference([0.0] * 120, second, groups).p_value > 0.05


def test_of_models_that_are_equally_good_one_in_twenty_seems_better() -> None:
    generator = random.Random(1)
    found = []
    for seed in range(200):
        first, second = ([generator.gauss(0, 1) for _ in range(50)] for _ in range(2))
        found.append(paired_difference(first, second, num_resamples=400, seed=seed).p_value < 0.05)
    assert 2 <= sum(found) <= 24  # 10 expected; the percentile bootstrap errs to more


def test_scores_of_different_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="found 2, 1"):
        paired_difference([1, 2], [1])
    with pytest.raises(ValueError, match=r"found \[1, 2\]"):
        paired_ratio_difference(([1, 2], [1, 1]), ([1], [1]))


def test_a_mean_is_a_ratio_over_ones() -> None:
    first, second = ([float((i * k) % 7) for i in range(60)] for k in (2, 3))
    groups = [i // 4 for i in range(60)]
    ones = [1.0] * 60
    found = paired_ratio_difference((first, ones), (second, ones), groups)
    expected = paired_difference(first, second, groups)
    for name in ("mean", "low", "high", "p_value"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), abs=1e-9)


def test_a_ratio_weighs_rows_by_their_size() -> None:
    """F1 over entities: 2 of 4 against 3 of 4, though the mean over sentences says otherwise."""
    first, second = ([2.0, 0.0], [3.0, 1.0]), ([0.0, 3.0], [1.0, 3.0])
    found = paired_ratio_difference(first, second)
    assert found.mean == pytest.approx(3 / 4 - 2 / 4)
    assert (found.low, found.high) == (pytest.approx(-2 / 3), pytest.approx(1.0))


# ---- ratios


def test_ratio_of_equal_rows_has_no_width() -> None:
    assert ratio_interval([1, 2, 4], [2, 4, 8]) == (0.5, 0.5)
    assert ratio_interval([1, 0, 1, 0], [1, 1, 1, 1], groups=["a", "a", "b", "b"]) == (0.5, 0.5)


def test_rows_without_anything_count_for_nothing() -> None:
    assert ratio_interval([0, 0], [0, 0]) == (0.0, 0.0)
    low, high = ratio_interval([1.0] * 50 + [0.0] * 50, [1.0] * 50 + [0.0] * 50)
    assert (low, high) == (1.0, 1.0)


def test_a_mean_is_a_ratio_over_its_number() -> None:
    values = np.random.default_rng(1).random(300).tolist()
    groups = [i // 7 for i in range(300)]
    assert ratio_interval(values, [1.0] * 300, groups) == bootstrap_interval(values, groups)
    assert ratio_interval(values, [1.0] * 300, groups, seed=1) != bootstrap_interval(values, groups)


def test_groups_widen_the_interval_of_what_goes_together() -> None:
    numerators = [float(i // 50 % 2) for i in range(1000)]
    alone = ratio_interval(numerators, [1.0] * 1000)
    together = ratio_interval(numerators, [1.0] * 1000, groups=[i // 50 for i in range(1000)])
    assert alone[0] == pytest.approx(0.5 - 1.96 * 0.5 / 1000**0.5, abs=0.01)
    assert together[0] < 0.35 < 0.65 < together[1]


# ---- many rows, few of which differ


def test_counts_of_different_rows_are_distributed_as_rows_drawn_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Mean and spread of a ratio agree with those of drawn rows, and pieces don't matter."""
    generator = np.random.default_rng(5)
    sizes = generator.integers(1, 4, 4000).astype(float)
    sums = generator.integers(0, 2, 4000) * sizes
    drawn = bootstrap.ratio_means(sums, sizes, num_resamples=4000)
    monkeypatch.setattr(bootstrap, "_MANY_ROWS", 100)
    counted = bootstrap.ratio_means(sums, sizes, num_resamples=4000)
    assert not np.array_equal(counted, drawn), "control: another way of drawing"
    assert counted.mean() == pytest.approx(drawn.mean(), abs=4 * drawn.std() / 4000**0.5)
    assert counted.std() == pytest.approx(drawn.std(), rel=0.06)
    monkeypatch.setattr(bootstrap, "_MAX_DRAWS", 50)
    assert np.array_equal(bootstrap.ratio_means(sums, sizes, num_resamples=4000), counted)


def test_pairs_of_many_rows_stay_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is better by the same everywhere is so in each resample, or pairs were torn."""
    monkeypatch.setattr(bootstrap, "_MANY_ROWS", 100)
    first = [float(i % 5) for i in range(2000)]
    ones = [1.0] * 2000
    better = [value + 1 for value in first]
    found = paired_ratio_difference((first, ones), (better, ones), num_resamples=500)
    assert (found.low, found.high) == (pytest.approx(1.0), pytest.approx(1.0))


def test_rows_that_all_differ_are_drawn_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [i / 7 for i in range(1000)]
    before = bootstrap_interval(values)
    monkeypatch.setattr(bootstrap, "_MANY_ROWS", 100)
    assert bootstrap_interval(values) == before
