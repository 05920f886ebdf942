"""Each source's turns: the worked example, exact shares, O(1) seeking."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qa_dist.data.mixture import Mixture, make_cycle
from qa_dist.recipe import MIXINGS

SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=4)


def test_the_worked_example() -> None:
    assert make_cycle("round_robin", 1.0, [2, 4]).tolist() == [0, 1]
    assert make_cycle("proportional", 1.0, [2, 4]).tolist() == [1, 0, 1, 1, 0, 1]
    assert np.bincount(make_cycle("temperature", 2.0, [2, 4])).tolist() == [2, 4]


def test_the_reports_setting_alternates_762_steps() -> None:
    # 2,000 sentences and 2,054 windows in batches of 16, three epochs
    steps = [-(-2000 // 16), -(-2054 // 16)]
    assert steps == [125, 129] and 3 * sum(steps) == 762
    mixture = Mixture(make_cycle("round_robin", 1.0, steps))
    assert [mixture.locate(step) for step in range(4)] == [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert mixture.count(0, 762) == mixture.count(1, 762) == 381
    assert mixture.count(0, 762) > 3 * 125, "the short source begins a fourth time"


@given(SIZES, st.sampled_from(MIXINGS), st.floats(1.0, 50.0))
def test_a_cycle_has_each_source_and_about_its_share(
    sizes: list[int], mixing: str, temperature: float
) -> None:
    cycle = make_cycle(mixing, temperature, sizes)
    counts = np.bincount(cycle, minlength=len(sizes))
    assert (counts >= 1).all()
    if mixing == "proportional":
        assert counts.tolist() == sizes
    if mixing == "temperature":
        powers = np.asarray(sizes) ** (1 / temperature)
        shares = sum(sizes) * powers / powers.sum()
        assert (np.abs(counts - shares) < len(sizes) + 1).all()


@given(SIZES, st.sampled_from(MIXINGS), st.integers(0, 500))
def test_any_step_is_found_at_once_as_if_counted_from_the_start(
    sizes: list[int], mixing: str, step: int
) -> None:
    cycle = make_cycle(mixing, 2.0, sizes)
    mixture = Mixture(cycle)
    turns = np.resize(cycle, step + 1)
    source, number = mixture.locate(step)
    assert source == turns[step] and number == np.count_nonzero(turns[:step] == source)
    assert sum(mixture.count(k, step) for k in range(len(sizes))) == step


@pytest.mark.parametrize("sizes", [[3, 30], [7, 7]])
def test_a_higher_temperature_is_more_even(sizes: list[int]) -> None:
    def least(mixing: str, temperature: float = 1.0) -> float:
        return float(np.bincount(make_cycle(mixing, temperature, sizes)).min())

    shares = [least("proportional"), least("temperature", 2.0), least("temperature", 100.0)]
    assert shares == sorted(shares)
    assert (shares[0] < shares[2]) == (sizes[0] != sizes[1])


def test_turns_are_spread_evenly() -> None:
    cycle = make_cycle("proportional", 1.0, [5, 50])
    places = np.flatnonzero(cycle == 0)
    assert np.diff(places).min() >= 10 and np.diff(places).max() <= 12
