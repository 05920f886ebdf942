"""Decoding equals brute force: the best spans of windows, and the best no-answer threshold."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qa_dist.records import Candidate
from qa_dist.text.decode import best_spans, best_threshold, merge_windows

INF = float("inf")
# Quarters add without rounding: equal sums are ties here and there. Few, so that ties occur.
LOGITS = st.one_of(st.integers(-12, 12).map(lambda n: n / 4), st.just(-INF))


@st.composite
def logits(draw: st.DrawFn) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Start and end logits of some windows: (B, T) each."""
    shape = draw(st.integers(1, 3)), draw(st.integers(1, 9))
    rows = st.lists(LOGITS, min_size=shape[0] * shape[1], max_size=shape[0] * shape[1])
    starts, ends = (np.array(draw(rows), np.float32).reshape(shape) for _ in range(2))
    return starts, ends


def all_spans(
    starts: Sequence[float], ends: Sequence[float], most_tokens: int
) -> dict[tuple[int, int], float]:
    """Score every span that may be an answer."""
    width = len(starts)
    spans = [(i, j) for i in range(width) for j in range(i, min(width, i + most_tokens))]
    scores = {(i, j): float(starts[i] + ends[j]) for i, j in spans}
    return {span: score for span, score in scores.items() if score > -INF}


# ---- Spans ----


@given(logits(), st.integers(1, 10), st.integers(0, 3))
def test_best_spans_equal_brute_force(
    rows: tuple[NDArray[np.float32], NDArray[np.float32]], most_tokens: int, more: int
) -> None:
    starts, ends = rows
    num_windows, width = starts.shape
    n_best = width + more  # all starts and ends are looked at
    scores, firsts, lasts = best_spans(starts, ends, n_best, most_tokens)
    assert scores.shape == firsts.shape == lasts.shape
    for b in range(num_windows):
        wanted = all_spans(starts[b].tolist(), ends[b].tolist(), most_tokens)
        found = [
            ((int(i), int(j)), float(score))
            for i, j, score in zip(firsts[b], lasts[b], scores[b], strict=True)
            if score > -INF
        ]
        best = sorted(wanted.values(), reverse=True)[:n_best]
        assert [score for _, score in found] == best
        assert len({span for span, _ in found}) == len(found)
        assert all(wanted[span] == score for span, score in found)
        assert (scores[b, len(found) :] == -INF).all(), "best first, then no more"


@given(logits(), st.integers(1, 4), st.integers(1, 10))
def test_fewer_are_looked_for_among_the_best_starts_and_ends(
    rows: tuple[NDArray[np.float32], NDArray[np.float32]], n_best: int, most_tokens: int
) -> None:
    starts, ends = rows
    scores, firsts, lasts = best_spans(starts, ends, n_best, most_tokens)
    for b in range(len(starts)):
        top = [np.argsort(-x[b], kind="stable")[:n_best].tolist() for x in (starts, ends)]
        wanted = {
            span: score
            for span, score in all_spans(starts[b].tolist(), ends[b].tolist(), most_tokens).items()
            if span[0] in top[0] and span[1] in top[1]
        }
        found = [float(score) for score in scores[b] if score > -INF]
        assert found == sorted(wanted.values(), reverse=True)[:n_best]
        spans = zip(firsts[b].tolist(), lasts[b].tolist(), strict=True)
        assert set(list(spans)[: len(found)]) <= set(wanted)


def test_the_worked_example() -> None:
    starts = np.array([[0, -INF, -INF, 3, 1, 2, -INF]], np.float32)
    ends = np.array([[0, -INF, -INF, 2, 0, 4, -INF]], np.float32)
    scores, firsts, lasts = best_spans(starts[:, 3:], ends[:, 3:], 3, 30)
    assert scores.tolist() == [[7, 6, 5]]
    assert [*zip(firsts[0].tolist(), lasts[0].tolist(), strict=True)] == [(0, 2), (2, 2), (0, 0)]
    assert (scores.dtype, firsts.dtype, lasts.dtype) == (np.float32, np.int64, np.int64)


def test_an_answer_has_at_most_so_many_tokens() -> None:
    starts = np.array([[9, 0, 0, 0]], np.float32)
    ends = np.array([[0, 0, 0, 9]], np.float32)
    for most_tokens, best in ((4, 18), (3, 9), (1, 9)):
        scores, firsts, lasts = best_spans(starts, ends, 4, most_tokens)
        assert scores[0, 0] == best
        sizes = (lasts - firsts + 1)[scores > -INF]
        assert sizes.max() <= most_tokens and sizes.min() >= 1


def test_a_window_without_candidates_has_none() -> None:
    nothing = np.full((2, 5), -INF, np.float32)
    some = nothing.copy()
    some[1, 2] = 1.0
    scores, firsts, lasts = best_spans(some, some, 3, 30)
    assert (scores[0] == -INF).all()
    assert scores[1].tolist() == [2.0, -INF, -INF]
    assert (firsts[1, 0], lasts[1, 0]) == (2, 2)


# ---- Questions ----


def candidate(text: str, score: float, start: int | None = 0) -> Candidate:
    span = None if start is None else (start, start + len(text))
    return Candidate(text, score, span)


def test_windows_are_merged_best_first_each_answer_once_with_the_lowest_null_score() -> None:
    windows = [
        [candidate("blue", 3.0), candidate("in may", 1.0, 9)],
        [candidate("in may", 2.0, 9), candidate("blue", 2.5), candidate("yes", 2.2, None)],
        [],
    ]
    prediction = merge_windows("q", windows, [0.5, -1.5, 4.0], n_best=20)
    assert prediction.id == "q"
    assert prediction.candidates == (
        candidate("blue", 3.0),
        candidate("yes", 2.2, None),
        candidate("in may", 2.0, 9),
    )
    assert prediction.null_score == -1.5
    assert prediction.text == "blue"
    assert prediction.null_odds == -4.5


def test_the_same_words_elsewhere_are_another_candidate() -> None:
    windows = [[candidate("he", 2.0, 0), candidate("he", 1.0, 30)]]
    assert len(merge_windows("q", windows, [0.0], 20).candidates) == 2


def test_no_more_than_n_best_are_kept_and_the_first_of_equals() -> None:
    windows = [[candidate("a", 1.0, 1), candidate("b", 1.0, 2)], [candidate("c", 1.0, 3)]]
    assert [c.text for c in merge_windows("q", windows, [0.0, 0.0], 2).candidates] == ["a", "b"]
    assert [c.text for c in merge_windows("q", windows[::-1], [0.0], 1).candidates] == ["c"]


def test_a_question_without_candidates_is_unanswered_at_any_finite_threshold() -> None:
    prediction = merge_windows("q", [[], []], [1.0, 2.0], 20)
    assert prediction.text == "" and prediction.null_odds == INF


@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 5)), max_size=5),
        min_size=1,
        max_size=4,
    ),
    st.integers(1, 6),
)
def test_merging_equals_brute_force(windows: list[list[tuple[str, int]]], n_best: int) -> None:
    given_candidates = [[candidate(text, float(score)) for text, score in row] for row in windows]
    nulls = [float(len(row)) for row in windows]
    prediction = merge_windows("q", given_candidates, nulls, n_best)
    best: dict[str, float] = {}
    for text, score in (pair for row in windows for pair in row):
        best[text] = max(score, best.get(text, -INF))
    assert [c.score for c in prediction.candidates] == sorted(best.values(), reverse=True)[:n_best]
    assert all(best[c.text] == c.score for c in prediction.candidates)
    assert len({c.text for c in prediction.candidates}) == len(prediction.candidates)
    assert prediction.null_score == min(nulls)


# ---- Threshold ----


def total(
    threshold: float, odds: Sequence[float], answered: Sequence[float], unanswered: Sequence[float]
) -> float:
    rows = zip(odds, answered, unanswered, strict=True)
    return math.fsum(no if o > threshold else yes for o, yes, no in rows)


def all_thresholds(odds: Sequence[float]) -> list[float]:
    """One threshold of each effect: the odds themselves, and below all of them."""
    return [-INF, *odds, INF]


ODDS = st.one_of(
    st.integers(-3, 3).map(float),
    st.floats(-2, 2),
    st.sampled_from([INF, -INF, 1e308, -1e308, 1.7e308, 5e-324, 0.1 + 0.2, 0.3, -0.0]),
)
SCORE = st.integers(0, 4).map(lambda n: n / 4)  # sums without rounding


@settings(max_examples=300)
@given(st.lists(st.tuples(ODDS, SCORE, SCORE), min_size=1, max_size=12))
@example([(1.0, 1.0, 0.0), (math.nextafter(1.0, 2.0), 0.0, 1.0)])
@example([(math.nextafter(1.0, 0.0), 1.0, 0.0), (1.0, 0.0, 1.0)])
@example([(1.6e308, 1.0, 0.0), (1.7e308, 0.0, 1.0)])
@example([(0.0, 1.0, 0.0), (5e-324, 0.0, 1.0)])
@example([(-INF, 0.0, 1.0), (2.0, 1.0, 0.0)])
@example([(2.0, 1.0, 0.0), (INF, 1.0, 0.0)])
@example([(2.0, 1.0, 0.0), (INF, 0.0, 1.0)])
def test_the_threshold_equals_brute_force(rows: list[tuple[float, float, float]]) -> None:
    odds, answered, unanswered = (list(column) for column in zip(*rows, strict=True))
    found = best_threshold(np.array(odds), np.array(answered), np.array(unanswered))
    totals = {t: total(t, odds, answered, unanswered) for t in all_thresholds(odds)}
    assert total(found, odds, answered, unanswered) == max(totals.values())
    smallest = min(t for t, score in totals.items() if score == max(totals.values()))
    same_effect = [o > found for o in odds] == [o > smallest for o in odds]
    assert same_effect, "the smallest threshold of several: the fewest answers"


def test_the_threshold_lies_between_the_odds_around_it() -> None:
    odds, answered, last = np.array([-4.0, -1.0, 2.0]), np.array([1.0, 1, 0]), np.array([0.0, 0, 1])
    assert best_threshold(odds, answered, last) == 0.5
    assert best_threshold(odds[::-1], answered[::-1], last[::-1]) == 0.5


@pytest.mark.parametrize(
    ("answered", "unanswered", "wanted"), [(0.0, 1.0, -INF), (1.0, 0.0, 2.0), (1.0, 1.0, -INF)]
)
def test_thresholds_at_the_ends(answered: float, unanswered: float, wanted: float) -> None:
    odds = np.array([0.0, 2.0, 1.0])
    assert best_threshold(odds, np.full(3, answered), np.full(3, unanswered)) == wanted


def test_equal_odds_are_answered_together_or_not_at_all() -> None:
    odds = np.array([1.0, 1.0, 1.0])
    found = best_threshold(odds, np.array([1.0, 0, 0]), np.array([0.0, 1, 1]))
    assert found == -INF, "answering only the first isn't possible, so none is answered"
