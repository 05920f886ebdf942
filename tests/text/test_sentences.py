"""Each word is labelled in one window, where it has most context; odd words have no token."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from qa_dist.text.sentences import (
    SentenceWindow,
    cut_sentence_windows,
    first_tokens,
    sentence_tokens,
)
from qa_dist.text.windows import TokenizedContext, cut_windows, encode_contexts


@pytest.fixture(scope="module")
def wordpiece():
    pieces = ["[UNK]", "the", "sky", "sk", "##y", "##i", "##s", "blue", "-", "a", "b", "##b"]
    tokenizer = Tokenizer(models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


@pytest.fixture(scope="module")
def byte_level():
    tokenizer = Tokenizer(
        models.BPE({c: i for i, c in enumerate(pre_tokenizers.ByteLevel.alphabet())}, [])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def joined(words):
    ends = np.cumsum([len(word) + 1 for word in words]) - 1
    return " ".join(words), [(int(e) - len(w), int(e)) for w, e in zip(words, ends, strict=True)]


def test_first_tokens(wordpiece):
    text, spans = joined(["the", "skyis", "sky-blue", "\u200b", "ab", "\xad"])
    (context,) = encode_contexts(wordpiece, [text])
    tokens = [wordpiece.id_to_token(i) for i in context.token_ids]
    assert tokens == ["the", "sky", "##i", "##s", "sky", "-", "blue", "a", "##b"]
    assert first_tokens(context, spans).tolist() == [0, 1, 4, -1, 7, -1]
    assert first_tokens(context, spans[2:4]).tolist() == [4, -1]
    assert first_tokens(context, []).tolist() == []
    assert sentence_tokens(context, spans[2:4]) == (4, 7)
    assert sentence_tokens(context, spans[3:4]) == (7, 7)


def test_first_tokens_of_characters_with_several(byte_level):
    text, spans = joined(["é", "ab", "\u200b", "地"])
    (context,) = encode_contexts(byte_level, [text])
    found = first_tokens(context, spans)
    assert found[0] == 0  # é is two tokens
    assert all(
        context.char_starts[token] == start for token, (start, _) in zip(found, spans, strict=True)
    )


def test_a_text_without_tokens(wordpiece):
    (context,) = encode_contexts(wordpiece, ["\u200b \u200b"])
    assert len(context.token_ids) == 0
    assert first_tokens(context, [(0, 1), (2, 3)]).tolist() == [-1, -1]
    assert sentence_tokens(context, [(0, 1), (2, 3)]) == (0, 0)
    assert cut_sentence_windows(0, (0, 0), 6, 2) == []


def test_the_worked_example():
    assert cut_sentence_windows(9, (0, 9), 6, 2) == [
        SentenceWindow(0, 6, 0, 4),
        SentenceWindow(4, 9, 5, 8),
    ]


@pytest.mark.parametrize(
    "sentence, expected",
    [
        ((0, 4), (0, 10, 0, 3)),
        ((8, 12), (5, 15, 8, 11)),
        ((17, 20), (10, 20, 17, 19)),
        ((5, 15), (5, 15, 5, 14)),
    ],
)
def test_a_document_fills_the_window_on_both_sides(sentence, expected):
    assert cut_sentence_windows(20, sentence, 10, 3) == [SentenceWindow(*expected)]


def test_a_document_that_fits_is_the_window():
    assert cut_sentence_windows(9, (3, 5), 10, 3) == [SentenceWindow(0, 9, 3, 4)]


def test_the_last_window_of_a_long_sentence_sees_what_follows():
    assert cut_sentence_windows(30, (2, 17), 10, 4) == [
        SentenceWindow(2, 12, 2, 9),
        SentenceWindow(8, 18, 10, 16),
    ]


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60), st.integers(2, 20), st.data())
def test_each_token_is_labelled_once_and_where_it_has_most_context(before, size, after, room, data):
    overlap = data.draw(st.integers(0, room - 1))
    sentence = (before, before + size)
    total = before + size + after
    windows = cut_sentence_windows(total, sentence, room, overlap)
    labelled = [t for w in windows for t in range(w.first, w.last + 1)]
    assert labelled == list(range(*sentence))
    for window in windows:
        assert 0 <= window.window_from <= window.first
        assert window.last < window.window_to <= min(total, window.window_from + room)
        if size <= room:
            assert window.window_to - window.window_from == min(room, total)
    if size > room:  # on its poorer side, within the slices that overlap
        slices = [(before + a, before + b) for a, b in cut_windows(size, room, overlap)]

        def context(token, number):
            a, b = slices[number]
            left = token - a if number else total
            right = b - 1 - token if number < len(slices) - 1 else total
            return min(left, right) if a <= token < b else -1

        for number, window in enumerate(windows):
            for token in range(window.first, window.last + 1):
                best = max(context(token, i) for i in range(len(slices)))
                assert context(token, number) == best


def test_windows_that_can_not_advance():
    with pytest.raises(ValueError, match="advance"):
        cut_sentence_windows(10, (0, 10), 4, 4)


def test_tokens_of_whitespace_are_no_ones_first():
    context = TokenizedContext(
        np.array([7, 8, 9], np.uint32), np.array([0, 0, 2], np.int32), np.array([0, 1, 3], np.int32)
    )
    assert first_tokens(context, [(0, 1), (2, 3)]).tolist() == [1, 2]
