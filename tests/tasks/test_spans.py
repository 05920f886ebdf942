"""Spans are found as whole words; the closest span is the best of all that could be tried."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qa_dist.tasks.coqa import find_target_span
from qa_dist.tasks.spans import (
    Words,
    find_answer,
    find_closest,
    find_once,
    is_on_words,
    trim_span,
    widen_to_words,
)
from qa_dist.text.metrics import token_f1


def test_find_once():
    assert find_once("a cat", "cat") == (2, 5)
    assert find_once("cat, cat", "cat") is None
    assert find_once("aaa", "aa") is None  # twice, overlapping
    assert find_once("dog", "cat") is None
    assert find_once("dog", "") is None


def test_trim_span():
    assert trim_span("x  cat \n y", 1, 9) == (3, 6)
    assert trim_span("cat", 0, 99) == (0, 3)
    assert trim_span("cat", 0, 3) == (0, 3)


@pytest.mark.parametrize(
    "text, part, is_whole",
    [
        ("in 12 days", "2", False),
        ("in 12 days", "12", True),
        ("2.5 km", "2", False),
        ("2.5 km", "5", False),
        ("1,500 men", "500", False),
        ("in 2, 5", "2", True),
        ("at 2. Then", "2", True),
        ("Cotton's bed", "Cotton", True),
        ("well-known", "known", True),
        ("category", "cat", False),
        ("(cat)", "cat", True),
        ("cat", "cat", True),
    ],
)
def test_is_on_words(text, part, is_whole):
    start = text.index(part)
    assert is_on_words(text, start, start + len(part)) is is_whole


def test_widen_to_words():
    text = "into five periods, Pre-Lateran"
    assert text[slice(*widen_to_words(text, 6, 16))] == "five periods,"
    assert widen_to_words(text, 0, len(text)) == (0, len(text))


def test_find_answer():
    text = "He is 12. The Cat sat at 2, the cat."
    assert find_answer(Words(text), 0, len(text), " the cat ") == (10, 17)
    assert find_answer(Words(text), 11, len(text), "the cat") == (28, 35)
    assert find_answer(Words(text), 0, len(text), "2") == (25, 26)
    assert find_answer(Words(text), 0, 20, "2") is None
    assert find_answer(Words(text), 0, len(text), "") is None
    assert find_answer(Words("\u0130 cat"), 0, 5, "cat") is None  # lower() would shift the places


def closest(text: str, answer: str, near: tuple[int, int] = (0, 0)) -> str | None:
    _, span = find_closest(Words(text), 0, len(text), answer, near)
    return None if span is None else text[slice(*span)]


@pytest.mark.parametrize(
    "text, answer, expected",
    [
        ("the cat sat on the big mat", "cat on a mat", "cat sat on the big mat"),
        ("the cat sat", "a dog", None),
        ("the cat sat", "", None),
        ("the cat sat", "the", None),  # an article is no token
        ("Cotton's mommy", "Cotton", "Cotton"),
        ("a well-known man", "known", "known"),
        ("a well-known man", "well-known", "well-known"),
        ('"Stop," he cried', "stop", "Stop"),
        ("it cost 1.1 million", "11 million", "1.1 million"),  # the metric drops the point
        ("it weighs 2.5 kg", "2 kg", "kg"),
        ("orange and white", "white and orange", "orange and white"),
        ("white orange, orange white", "orange white", "orange white"),  # in this order
        ("costs \u20ac5 now", "\u20ac5", "\u20ac5"),
        ("mother-to-child transmission", "child transmission", "child transmission"),
    ],
)
def test_find_closest(text, answer, expected):
    assert closest(text, answer) == expected


def test_ties_go_to_the_nearest_then_the_shortest_then_the_first():
    text = "a cat and a cat and the  cat"
    assert find_closest(Words(text), 0, len(text), "cat", (0, 1))[1] == (2, 5)
    assert find_closest(Words(text), 0, len(text), "cat", (26, 27))[1] == (25, 28)
    assert find_closest(Words(text), 0, len(text), "cat", (12, 15))[1] == (12, 15)
    assert closest("big  cat, big cat", "big cat", (0, 17)) == "big cat"
    assert find_closest(Words(text), 6, 20, "cat", (0, 1))[1] == (12, 15)


WORD = st.sampled_from(
    ["cat", "dog", "the", "a", "cat's", "big-cat", "dog,", "2.5", "2", "--", "Cat.", "an", "it"]
)


@settings(deadline=None)
@given(st.lists(WORD, max_size=9), st.lists(WORD, min_size=1, max_size=4))
def test_no_span_on_pieces_is_better(words, answer_words):
    text, answer = " ".join(words), " ".join(answer_words)
    f1, span = find_closest(Words(text), 0, len(text), answer, (0, 0))
    edges = [(i, j) for i in range(len(text)) for j in range(i + 1, len(text) + 1)]
    tried = [
        token_f1(text[i:j], answer)
        for i, j in edges
        if is_on_words(text, i, j) and text[i:j].strip(" -.,'") and answer.strip(" -.,'")
    ]
    tokens_shared = [score for score in tried if score > 0]
    if span is None:
        # What is left is nothing on either side, which the metric calls equal.
        assert f1 == 0 and set(tokens_shared) <= {1.0}
        return
    assert f1 == pytest.approx(token_f1(text[slice(*span)], answer))
    assert f1 == pytest.approx(max(tokens_shared))


def test_the_search_is_not_quadratic_in_the_text():
    seconds = []
    for num in (1_000, 10_000):
        words = Words(" ".join(f"word{i} of the land and" for i in range(num)))
        start = time.process_time()
        f1, _ = find_closest(words, 0, len(words.text), f"word{num - 1} of land and sea", (0, 0))
        seconds.append(time.process_time() - start)
        assert f1 > 0.8
    assert seconds[1] < 40 * seconds[0]  # linear is 10 times, quadratic 100


def test_a_text_is_not_split_for_an_answer_that_stands_in_it():
    words = Words("He saw the old cat.")
    assert find_target_span(words, (3, 18), "old cat") == (11, 18)
    assert not {"starts", "words", "places"} & vars(words).keys()
    assert find_target_span(words, (3, 18), "an old cat") == (11, 18)
    assert {"starts", "words", "places"} <= vars(words).keys(), "control"
