"""Texts encoded word by word are what the tokenizer makes of them whole."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Tokenizer,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from qa_dist.text import word_encoder
from qa_dist.text.windows import TokenizedContext, encode_contexts, encode_ids
from qa_dist.text.word_encoder import TextEncoder, encodes_words_apart

CORPUS = [
    "The quick brown fox jumps over the lazy dog, doesn't it? What is blue in May?",
    "東京は日本の首都です。 café, naïve (find) ﬁnd 1,234.5 — “office”",
] * 3
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
BLANKS = [" ", "  ", "\n", " \t", "\u00a0", "\u2028", "\u3000", "\u200b", "\ufeff", "\0", "\x1c"]
PIECES = [
    *("the", "Blue", "it's", "1,234.5", "a" * 101, "[SEP]", "[SE", "[MASK]", "x[SEP]y", "##a"),
    *("e\u0301", "\u0301", " \u0301x", "İx", "Σας", "\u1100\u1161", "東京", "ﬁ", "😀", "ß", "नमस्ते"),
]
TEXTS = st.lists(
    st.sampled_from(BLANKS) | st.sampled_from(PIECES) | st.text(max_size=4), max_size=14
).map("".join)


@cache
def wordpiece(lower_case: bool = True) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower_case)
    trainer = trainers.WordPieceTrainer(vocab_size=230, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def rows(contexts: list[TokenizedContext]) -> list[list[list[int]]]:
    return [[c.token_ids.tolist(), c.char_starts.tolist(), c.char_ends.tolist()] for c in contexts]


def assert_same(encoder: TextEncoder, texts: list[str]) -> None:
    contexts = encoder.encode(texts)
    assert rows(contexts) == rows(encode_contexts(encoder.tokenizer, texts))
    assert encoder.token_ids(texts) == encode_ids(encoder.tokenizer, texts)
    assert {c.char_starts.dtype for c in contexts} <= {np.dtype(np.int32)}
    assert {c.token_ids.dtype for c in contexts} <= {np.dtype(np.uint32)}


@pytest.mark.parametrize("lower_case", [True, False])
@settings(max_examples=400, deadline=None)
@given(batches=st.lists(st.lists(TEXTS, max_size=4), min_size=1, max_size=3))
def test_any_text_is_what_it_is_whole(lower_case: bool, batches: list[list[str]]) -> None:
    encoder = TextEncoder(wordpiece(lower_case))
    assert encoder.is_by_word
    for texts in batches:
        assert_same(encoder, texts)


def test_a_word_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def encode(tokenizer: Tokenizer, texts: list[str]) -> list[TokenizedContext]:
        asked.extend(texts)
        return encode_contexts(tokenizer, texts)

    monkeypatch.setattr(word_encoder, "encode_contexts", encode)
    encoder = TextEncoder(wordpiece())
    encoder.encode(["the sky the sky", "blue sky"])
    encoder.token_ids(["the blue may"])
    assert asked == ["the sky blue", "may"]


def test_the_first_words_stay_when_room_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_encoder, "MAX_WORDS", 8)
    monkeypatch.setattr(word_encoder, "_MAX_TOKENS", 40)
    encoder = TextEncoder(wordpiece())
    for number in range(20):
        assert_same(encoder, [f"the w{number} sky"])
        assert list(encoder._numbers)[:3] == ["the", "w0", "sky"]
        assert f"w{number}" in encoder._numbers and len(encoder._numbers) <= 8


def test_words_beyond_the_room_are_collected_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_encoder, "MAX_WORDS", 8)
    monkeypatch.setattr(word_encoder, "_MAX_TOKENS", 40)
    encoder = TextEncoder(wordpiece())
    texts = [f"the w{i} may be {i}" for i in range(20)]
    for text in texts:
        assert_same(encoder, [text])
        assert len(encoder._numbers) <= 8
    assert_same(encoder, texts)  # more than fit at once
    assert_same(encoder, ["a-b-" * 30])  # more tokens than fit
    assert_same(encoder, texts[:1])


def test_other_tokenizers_are_given_whole_texts() -> None:
    encoder = TextEncoder(byte_level())
    assert not encoder.is_by_word
    assert_same(encoder, ["the  sky \n is", "", " x"])


def test_an_added_token_with_a_blank_needs_whole_texts() -> None:
    tokenizer = Tokenizer.from_str(wordpiece().to_str())
    assert encodes_words_apart(tokenizer)
    tokenizer.add_tokens([AddedToken("New York", normalized=False)])
    assert not encodes_words_apart(tokenizer)
    assert_same(TextEncoder(tokenizer), ["in New York", "New  York"])


def test_another_normaliser_needs_whole_texts() -> None:
    tokenizer = Tokenizer.from_str(wordpiece().to_str())
    tokenizer.normalizer = normalizers.Replace(" ", "")
    assert not encodes_words_apart(tokenizer)
    assert_same(TextEncoder(tokenizer), ["th e sky"])
