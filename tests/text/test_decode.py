"""Decoding equals brute force: the best spans of windows, and the best no-answer threshold."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from random import Random

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qa_dist.records import Prediction
from qa_dist.text.decode import (
    CLASS,
    WindowMerger,
    best_spans,
    best_threshold,
    make_prediction,
)

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


@given(logits(), st.integers(1, 12))
def test_of_equal_spans_the_first_comes_first(
    rows: tuple[NDArray[np.float32], NDArray[np.float32]], n_best: int
) -> None:
    """As a stable sort of the starts, of the ends, and of their pairs has it."""
    starts, ends = (np.where(part == -0.25, np.float32(-0.0), part) for part in rows)
    scores, firsts, lasts = best_spans(starts, ends, n_best, 30)
    for b in range(len(starts)):
        top = [np.argsort(-x[b], kind="stable")[:n_best].tolist() for x in (starts, ends)]
        pairs = [(i, j) for i in top[0] for j in top[1] if i <= j]
        pairs = [(i, j) for i, j in pairs if starts[b, i] + ends[b, j] > -INF]
        wanted = sorted(pairs, key=lambda pair: -(starts[b, pair[0]] + ends[b, pair[1]]))[:n_best]
        found = zip(firsts[b].tolist(), lasts[b].tolist(), strict=True)
        assert list(found)[: (scores[b] > -INF).sum()] == wanted


def test_numbers_that_are_none_are_no_candidates() -> None:
    some = np.array([[float("nan"), 2.0, -float("nan"), 1.0]], np.float32)
    scores, firsts, lasts = best_spans(some, some, 2, 30)
    assert scores.tolist() == [[4.0, 3.0]]
    assert (firsts.tolist(), lasts.tolist()) == ([[1, 1]], [[1, 3]])


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


WORDS, CLASSES = "blue, in may, he or he  then", ("yes", "no", "unknown")
Found = tuple[str, float, int]  # text, score, where it begins in WORDS


Candidates = list[tuple[str, float, tuple[int, int] | None]]


def candidates(found: Prediction) -> Candidates:
    return [*zip(found.texts, found.scores, found.char_spans, strict=True)]


def merge(
    windows: Sequence[Sequence[Found]], nulls: Sequence[float], n_best: int, batch: int = 9
) -> Prediction:
    """Return the prediction for a question with these windows, which come in such batches."""
    merger = WindowMerger([0] * len(windows), max(map(len, windows)))
    for first in range(0, len(windows), batch):
        some = range(len(windows))[first : first + batch]
        shape = len(some), max(len(windows[i]) for i in some)
        scores, starts, ends = np.full(shape, -INF), np.zeros(shape, int), np.zeros(shape, int)
        for row, i in enumerate(some):
            for at, (text, score, start) in enumerate(windows[i]):
                is_class = text in CLASSES
                scores[row, at] = score
                starts[row, at] = CLASSES.index(text) if is_class else start
                ends[row, at] = CLASS if is_class else start + len(text)
        done = merger.add(some, scores, starts, ends, np.array(nulls)[some])
        assert len(done) == (some[-1] == len(windows) - 1), "once all windows are there"
    return make_prediction("q", merger.ranked(done)[0], WORDS, CLASSES, n_best)


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_windows_are_merged_best_first_each_answer_once_with_the_lowest_null_score(
    batch: int,
) -> None:
    windows = [
        [("blue", 3.0, 0), ("in may", 1.0, 6)],
        [("in may", 2.0, 6), ("blue", 2.5, 0), ("yes", 2.2, 0)],
        [],
    ]
    prediction = merge(windows, [0.5, -1.5, 4.0], 20, batch)
    assert prediction.id == "q"
    assert candidates(prediction) == [
        ("blue", 3.0, (0, 4)),
        ("yes", 2.2, None),
        ("in may", 2.0, (6, 12)),
    ]
    assert prediction.null_score == -1.5
    assert prediction.text == "blue"
    assert prediction.null_odds == -4.5


def test_the_same_words_elsewhere_are_another_candidate() -> None:
    assert len(merge([[("he", 2.0, 14), ("he", 1.0, 20)]], [0.0], 20).texts) == 2


def test_white_space_and_nothing_are_no_candidates() -> None:
    found = merge([[("  ", 3.0, 22), ("", 2.5, 4), ("he", 2.0, 14), (" or", 1.0, 16)]], [0.0], 2)
    assert found.texts == ["he", " or"]


def test_no_more_than_n_best_are_kept_and_the_first_of_equals() -> None:
    windows = [[("b", 1.0, 0), ("l", 1.0, 1)], [("u", 1.0, 2)]]
    assert merge(windows, [0.0, 0.0], 2).texts == ["b", "l"]
    assert merge(windows[::-1], [0.0, 0.0], 1).texts == ["u"]


def test_a_question_without_candidates_is_unanswered_at_any_finite_threshold() -> None:
    prediction = merge([[], []], [1.0, 2.0], 20)
    assert prediction.text == "" and prediction.null_odds == INF


@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from("blue"), st.integers(0, 5)), max_size=5),
        min_size=1,
        max_size=4,
    ),
    st.integers(1, 6),
    st.integers(1, 4),
)
def test_merging_equals_brute_force(
    windows: list[list[tuple[str, int]]], n_best: int, batch: int
) -> None:
    given_candidates = [
        [(text, float(score), WORDS.index(text)) for text, score in row] for row in windows
    ]
    nulls = [float(len(row)) for row in windows]
    prediction = merge(given_candidates, nulls, n_best, batch)
    found = [(text, score) for row in windows for text, score in row]
    best: dict[str, float] = {}
    for text, score in sorted(found, key=lambda pair: -pair[1]):  # stable: the first of equals
        best.setdefault(text, score)
    assert [*zip(prediction.texts, prediction.scores, strict=True)] == [*best.items()][:n_best]
    assert all(span and WORDS[slice(*span)] == text for text, _, span in candidates(prediction))
    assert prediction.null_score == min(nulls)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.randoms(), st.integers(1, 4))
def test_questions_come_in_order_once_all_windows_up_to_theirs_have(
    numbers: list[int], random: Random, batch: int
) -> None:
    examples = sorted(sorted(set(numbers)).index(n) for n in numbers)  # each has a window
    windows = list(range(len(examples)))
    random.shuffle(windows)
    merger, left, first = WindowMerger(examples, 1), Counter(examples), 0
    for at in range(0, len(windows), batch):
        some = windows[at : at + batch]
        scores = np.array(some, float)[:, None]
        places = np.array(some)[:, None]
        found = merger.add(some, scores, places, places + 1, scores[:, 0])
        left.subtract(examples[w] for w in some)
        end = next((i for i in sorted(left) if left[i]), len(left))
        assert found == range(first, end)
        for number, each in zip(found, merger.ranked(found), strict=True):
            own = [w for w in windows if examples[w] == number]
            assert each.starts == each.scores == sorted(own, reverse=True)
            assert each.null_score == min(own)
        first = end
    assert first == len(left)


@given(st.permutations(range(5)), st.integers(1, 5))
def test_the_order_of_windows_changes_nothing(order: list[int], batch: int) -> None:
    """Equals come as in the document, whichever window was predicted first; NaN is nothing."""
    scores = np.array([[2, 1], [1, -INF], [2, float("nan")], [1, 1], [0, 3]])
    starts = np.arange(10).reshape(5, 2)
    merger = WindowMerger([0, 0, 0, 1, 1], 2)
    found = []
    for at in range(0, 5, batch):
        some = order[at : at + batch]
        done = merger.add(some, scores[some], starts[some], starts[some] + 1, np.zeros(5)[some])
        found += merger.ranked(done)
    assert [each.starts for each in found] == [[0, 4, 1, 2], [9, 6, 7, 8]]
    assert [each.scores for each in found] == [[2, 2, 1, 1], [3, 1, 1, 0]]


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
