"""Prompted-QA figures, on cases worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qa_dist.text.prompted_metrics import (
    STOP_WORDS,
    is_refusal,
    keyword_overlap,
    keywords,
    length_words,
    other_questions,
    outcome,
)


def test_keywords():
    text = "The METHOD lowers the error-rate by 18%, and by 180%; it's Größe_2 x."
    assert keywords(text) == {"method", "lowers", "error", "rate", "180", "größe"}
    assert keywords("The and of it. 5 %") == frozenset()
    assert all(word == word.lower() and len(word) > 2 for word in STOP_WORDS)


@pytest.mark.parametrize(
    ("expected", "response", "overlap"),
    [
        ("The method lowers the error rate by 18%.", "An error rate of 5 %", 0.5),
        ("The method lowers the error rate by 18%.", "", 0.0),
        ("Method method", "the METHOD's", 1.0),
        ("rates", "rate", 0.0),  # words, not their beginnings
        ("Yes.", "Yes, they do", 1.0),
        ("No.", "no", 1.0),  # without keywords: the same answer, or not
        ("No.", "No, they don't", 0.0),
        ("", "", 1.0),
        ("", "anything", 0.0),
    ],
)
def test_keyword_overlap(expected, response, overlap):
    assert keyword_overlap(expected, response) == overlap


def test_keyword_overlap_rewards_what_is_long():
    expected = "Complex games are a benchmark for algorithms."
    short = "Games are a benchmark."
    assert keyword_overlap(expected, short) < keyword_overlap(
        expected, short + " Complex algorithms were made up, at length."
    )


@pytest.mark.parametrize(
    ("base", "tuned", "what"),
    [
        (0.35, 0.30, "tie"),
        (0.30, 0.35, "tie"),
        (0.15, 0.20, "tie"),  # 0.2 - 0.15 > 0.05 in binary
        (0.114, 0.171, "win"),
        (0.667, 0.333, "loss"),
        (0.5, 0.5, "tie"),
    ],
)
def test_outcome(base, tuned, what):
    assert outcome(base, tuned, 0.05) == what
    assert outcome(tuned, base, 0.05) == {"win": "loss", "loss": "win", "tie": "tie"}[what]
    assert outcome(base, tuned, 0.0) == ("tie" if base == tuned else outcome(base, tuned, 1e-6))


@pytest.mark.parametrize(
    "text",
    [
        "The text does not include that detail.",
        "The provided passage doesn't explicitly mention the ratio. However, 80/10/10 is usual.",
        "Based on the given passage, the ratio is not specified.",
        "The split is not mentioned in the text.",
        "It cannot be determined from the abstract.",
        "There is no information about the split in the text.",
        "The text does not say.",
        "The article does not report how many patients died.",
        "The passage can't answer this question.",
        "The abstract doesn't contain any information about the split.",
        "The context did not give that.",
        "This information is not included in the text.",
        "That's not stated in the passage.",
        "From the text, it cannot be determined who won.",
        "From the text the ratio isn't provided.",
        "Not mentioned in the passage.",
        "not mentioned in the passage",
        "The question is unanswerable.",
        "This question cannot be answered from the text.",
        "Unanswerable",
        "I don't know.",
        "unknown",
    ],
)
def test_refusals(text):
    assert is_refusal(text)
    assert not is_refusal(f"The ratio was 80/10/10. {text}")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "DrDiff is not a widely recognized term or concept within natural language processing.",
        "The question is quite broad and can vary depending on the context.",
        "The drug does not provide relief to older patients.",
        "However, a standardized and comprehensive benchmark is still missing.",
        "An unknown protein was found.",
        "The article does not include women, but men.",
        "The article does not include women.",
        "The study did not report deaths in this article.",
        "The authors did not provide placebo to the patients described in the paper.",
        "The document did not give rise to any concern.",
        "In this article, placebo was not given to women.",
        "Patients in the paper could not answer quickly.",
        "The question was not found to be hard.",
        "It is not known how the protein folds.",
        "Women were not included in this article.",
        "The text presents a comparative analysis of two models.",
    ],
)
def test_answers_arent_refusals(text):
    assert not is_refusal(text)


@given(st.sets(st.text(max_size=5), min_size=2, max_size=30))
def test_each_question_has_another_ones_answer_as_its_floor(ids):
    others = other_questions(ids)
    assert others.keys() == ids == set(others.values())
    assert all(question != other for question, other in others.items())
    assert others == other_questions(sorted(ids, reverse=True))


def test_one_question_has_no_floor_and_the_seed_counts():
    assert other_questions(["a"]) == {}
    ids = [str(i) for i in range(20)]
    assert other_questions(ids, seed=1) != other_questions(ids)


def test_length():
    assert length_words(" two  words ") == 2
    assert length_words("") == 0
