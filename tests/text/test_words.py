"""Text is split as CoNLL-2003 is; nothing but whitespace gets lost."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qa_dist.text.words import split_sentences, split_words


def words(text: str) -> list[str]:
    return [text[start:end] for start, end in split_words(text)]


@pytest.mark.parametrize(
    "split",
    [
        "Mount Everest is 8,848.86 metres ( 29,031.7 ft ) high .",
        "He received the Nobel Prize in Physics in 1921 .",
        "John 's son is n't well-known , O'Neill said .",
        "The U.S. and AT&T Inc. met Mr. Smith at 10:30 on 1996-08-22 .",
        "a U.S.-based state-of-the-art 5.5-inch display , e.g. ours",
        "J. R. Smith , Ph.D. , of St. Louis",
        "It costs $ 5 or 3.5 % !",
        "Wait ... what -- no ?",
        "on Oct. 3 , No. 5 fell",
        "see https://example.org/a-b/c?d=1 or mail me.too@example.org .",
        "L’Aquila ’s mayor can n’t come",
        "हिन्दी में लिखा",
        "名 前 は Tokyo",
        "Zu\u0308rich",
    ],
)
def test_words_of_a_text(split):
    text = split
    for mark in [".", ",", "!", "?", ")", "%", "'s", "’s", "n't", "n’t", "前", "は", " ..."]:
        text = text.replace(f" {mark}", mark) if mark != " ..." else text
    text = text.replace("( ", "(").replace("$ ", "$").replace("-- ", "--")
    assert words(text) == split.split()


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", []),
        (" \n\t", []),
        ("It was 1921.", ["It", "was", "1921", "."]),
        ("No. It was.", ["No", ".", "It", "was", "."]),
        ("from Acme Inc.", ["from", "Acme", "Inc."]),
        ("the end of the U.S.", ["the", "end", "of", "the", "U.S."]),
        ('"Yes," she said', ['"', "Yes", ",", '"', "she", "said"]),
        ("Plan B. then", ["Plan", "B", ".", "then"]),
        ("a\u200bb", ["a", "\u200b", "b"]),
    ],
)
def test_words_by_hand(text, expected):
    assert words(text) == expected


@given(st.text())
def test_nothing_but_whitespace_gets_lost(text):
    spans = split_words(text)
    assert all(start < end for start, end in spans)
    assert all(a[1] <= b[0] for a, b in pairwise(spans))
    assert "".join(words(text)) == "".join(text.split())


@pytest.mark.parametrize(
    "sentences",
    [
        [],
        ["Mr. Smith of the U.S. left.", "Who?", "He did!"],
        ['He said: "It is."', "She left (at last.)", "So?"],
        ["A title\n \n", "Then a\nsentence"],
        ["It rose 8,848.86 metres...", "or so."],
        ["Is it?!", "Yes"],
    ],
)
def test_sentences_of_a_text(sentences):
    text = " ".join(sentences)
    found = [text[s[0][0] : s[-1][1]] for s in split_sentences(text)]
    assert found == [sentence.strip() for sentence in sentences]


@given(st.text(st.sampled_from(".!?\"') \nab")))
def test_sentences_hold_all_words(text):
    sentences = split_sentences(text)
    assert [word for sentence in sentences for word in sentence] == split_words(text)
    assert all(sentences)
