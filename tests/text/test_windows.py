"""Windows equal the fast tokenizer's own; answers survive chars -> tokens -> chars.

Small real tokenizers of each family are trained here and wrapped in transformers' own classes (the
peer), with their own post-processors. With QA_DIST_TEST_DATA set, a published WordPiece vocabulary
on SQuAD joins them.
"""

from __future__ import annotations

import json
import os
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Tokenizer,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    AlbertTokenizer,
    AutoTokenizer,
    BertTokenizer,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
)

from qa_dist.records import InputError
from qa_dist.text import windows
from qa_dist.text.windows import PairTemplate, TokenizedContext

CORPUS = [
    "The quick brown fox jumps over the lazy dog, doesn't it? What is blue in May?",
    "the sky is blue in may and 1,234.5 kilometres of café, naïve find ﬁnd office oﬃce.",
    "東京は日本の首都です。 שלום עולם عربي हिन्दी नमस्ते 😀 👩 💻 e\u0301a\u0308",
] * 3
SPACES = [
    " ",
    "  ",
    "\r\n",
    "\t",
    "\u00a0",
    "\u3000",
    "\u2028",
    "\u200b",
    "\u200d",
    "\u00ad",
    "\ufeff",
    "\0",
]
SPECIAL = [
    "[SEP]",
    "</s>",
    "[CLS]",
    "<s>",
    "<mask>",
    "[MASK]",
    "[UNK]",
    "<unk>",
    "[PAD]",
    "[SE",
    "</s",
]
LETTERS = [
    "cafe\u0301",
    "cafés",
    "e\u0323\u0301",
    "\u0301",
    "Åse",
    "İx",
    "ﬁnd",
    "oﬃce",
    "①",
    "㎏",
    "ß",
]
EMOJI = ["👩🏽\u200d💻", "👍🏿", "❤\ufe0f", "1\ufe0f\u20e3", "🇩🇪"]
SCRIPTS = ["𝔘𝔫𝔦", "𠜎", "שָׁלוֹם", "عَرَبِي", "नमस्ते", "東京"]
MARKERS = ["▁", "▁▁a", "Ġ", "##a", "``", "''", "a" * 101, "the", "sky", "Blue", "it's", "x"]
HOSTILE = [*SPACES, *SPECIAL, *LETTERS, *EMOJI, *SCRIPTS, *MARKERS]
TEXTS = st.lists(st.sampled_from(HOSTILE) | st.text(max_size=4), max_size=12).map("".join)


def _trained(model: Any, trainer: Any, pre_tokenizer: Any, normalizer: Any = None) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def _bert(lower_case: bool) -> Any:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=230, special_tokens=special, show_progress=False)
    trained = _trained(
        models.WordPiece(unk_token="[UNK]"),
        trainer,
        pre_tokenizers.BertPreTokenizer(),
        normalizers.BertNormalizer(lowercase=lower_case),
    )
    return BertTokenizer(vocab=trained.get_vocab(), do_lower_case=lower_case)


def _roberta(add_prefix_space: bool) -> Any:
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained = _trained(models.BPE(), trainer, pre_tokenizers.ByteLevel(add_prefix_space=False))
    model = json.loads(trained.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    return RobertaTokenizer(vocab=model["vocab"], merges=merges, add_prefix_space=add_prefix_space)


@cache
def _unigram() -> Tokenizer:
    special = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.UnigramTrainer(
        vocab_size=170, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    return _trained(models.Unigram(), trainer, pre_tokenizer, normalizers.NFKC())


def _albert() -> Any:
    pieces = json.loads(_unigram().to_str())["model"]["vocab"]
    return AlbertTokenizer(vocab=[tuple(piece) for piece in pieces])


def _metaspace_first() -> Any:
    """Like T5's or Llama's: a space is put before a string's first word, not after a separator."""
    backend = Tokenizer.from_str(_unigram().to_str())
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


BUILDERS = {
    "wordpiece": lambda: _bert(lower_case=True),
    "wordpiece cased": lambda: _bert(lower_case=False),
    "byte bpe": lambda: _roberta(add_prefix_space=False),
    "byte bpe, prefix space": lambda: _roberta(add_prefix_space=True),
    "unigram": _albert,
    "unigram, space at start only": _metaspace_first,
}
every_tokenizer = pytest.mark.parametrize("name", BUILDERS)


@cache
def peer(name: str) -> Any:
    return BUILDERS[name]()


@cache
def ours(name: str) -> tuple[Tokenizer, PairTemplate]:
    """A copy of the backend: calling the peer with truncation changes its own."""
    tokenizer = peer(name)
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    ids = (tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id)
    return backend, windows.read_pair_template(backend, *ids)


def context_of(name: str, text: str) -> TokenizedContext:
    return windows.encode_contexts(ours(name)[0], [text])[0]


def our_windows(
    name: str, segments: list[str], context: str, room: int, overlap: int
) -> list[tuple[list[int], list[int]]]:
    """Token ids and types of each window, assembled as the collator does."""
    backend, template = ours(name)
    (encoded,) = windows.encode_questions(backend, [segments], peer(name).sep_token)
    question, _ = windows.join_question(encoded[:-1], encoded[-1], template.sep_id, 9999, 9999)
    token_ids = context_of(name, context).token_ids.tolist()
    found = []
    for start, stop in windows.cut_windows(len(token_ids), room, overlap):
        parts = (template.before, question, template.between, token_ids[start:stop], template.after)
        types = [t for t, part in zip(template.type_ids, parts, strict=True) for _ in part]
        found.append(([token for part in parts for token in part], types))
    return found


def peer_windows(
    name: str, segments: list[str], context: str, room: int, overlap: int
) -> list[tuple[list[int], list[int]]]:
    tokenizer = peer(name)
    question = tokenizer.sep_token.join(segments)
    fixed = len(tokenizer(question, add_special_tokens=False)["input_ids"])
    fixed += tokenizer.num_special_tokens_to_add(pair=True)
    encoded = tokenizer(  # in lists: alone, an empty context is taken for none
        [question],
        [context],
        truncation="only_second",
        max_length=fixed + room,
        stride=overlap,
        return_overflowing_tokens=True,
        return_token_type_ids=True,
    )
    return list(zip(encoded["input_ids"], encoded["token_type_ids"], strict=True))


# Windows


@every_tokenizer
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_windows_equal_the_fast_tokenizers_own(name: str, data: st.DataObject) -> None:
    segments = data.draw(st.lists(TEXTS, min_size=1, max_size=4))
    context = data.draw(TEXTS)
    room = data.draw(st.integers(1, 12))
    overlap = data.draw(st.integers(0, room - 1))
    args = (name, segments, context, room, overlap)
    assert our_windows(*args) == peer_windows(*args)


@every_tokenizer
def test_windows_differ_when_anything_is_off_by_one(name: str) -> None:
    segments, context = ["What is it", "a fox", "why"], " ".join(CORPUS)
    expected = peer_windows(name, segments, context, 20, 7)
    assert our_windows(name, segments, context, 20, 7) == expected
    assert our_windows(name, segments, context, 20, 6) != expected
    assert our_windows(name, segments, context, 19, 7) != expected
    assert our_windows(name, segments[1:], context, 20, 7) != expected
    assert our_windows(name, segments, context + "x", 20, 7) != expected


@pytest.mark.parametrize(
    ("num_tokens", "room", "overlap", "expected"),
    [
        (0, 5, 2, [(0, 0)]),
        (0, 0, 0, [(0, 0)]),
        (5, 5, 4, [(0, 5)]),
        (5, 5, 9, [(0, 5)]),
        (6, 5, 2, [(0, 5), (3, 6)]),
        (8, 5, 2, [(0, 5), (3, 8)]),
        (9, 5, 2, [(0, 5), (3, 8), (6, 9)]),
        (3, 1, 0, [(0, 1), (1, 2), (2, 3)]),
        (4, 2, 1, [(0, 2), (1, 3), (2, 4)]),
    ],
)
def test_cut_windows(num_tokens: int, room: int, overlap: int, expected: list[Any]) -> None:
    assert windows.cut_windows(num_tokens, room, overlap) == expected


@pytest.mark.parametrize(("room", "overlap"), [(5, 5), (5, 6), (0, 0), (-1, 0), (5, -1)])
def test_windows_that_cannot_advance_are_refused(room: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="advance"):
        windows.cut_windows(6, room, overlap)


def test_the_worked_example() -> None:
    words = ["the", "sky", "is", "blue", "in", "may", "what"]
    vocab = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    backend = BertTokenizer(vocab=vocab).backend_tokenizer
    template = windows.read_pair_template(backend, cls_id=2, sep_id=3, pad_id=0)
    (question,) = windows.encode_segments(backend, ["what is blue"], "[SEP]")
    text = "the sky is blue in may"
    (context,) = windows.encode_contexts(backend, [text])
    room = 11 - template.num_special_tokens - len(question)
    assert (len(question), template.num_special_tokens, room) == (3, 3, 5)
    slices = windows.cut_windows(len(context.token_ids), room, 2)
    assert slices == [(0, 5), (3, 6)]
    blue = windows.char_span_to_tokens(context, (11, 15))
    sky_is = windows.char_span_to_tokens(context, (text.index("sky"), text.index(" blue")))
    assert (blue, sky_is) == ((3, 3), (1, 2))
    assert [windows.is_in_window((3, 3), *at) for at in slices] == [True, True]
    assert [windows.is_in_window((1, 2), *at) for at in slices] == [True, False]


def test_an_answer_is_in_a_window_only_if_whole() -> None:
    inside = [(3, 7), (3, 3), (7, 7)]
    outside = [(2, 7), (3, 8), (8, 8), (2, 2), (2, 8)]
    assert all(windows.is_in_window(span, 3, 8) for span in inside)
    assert not any(windows.is_in_window(span, 3, 8) for span in outside)


# The template


def test_templates_of_the_families() -> None:
    bert, roberta, albert = (ours(name)[1] for name in ("wordpiece", "byte bpe", "unigram"))
    assert (bert.before, bert.between, bert.after) == ((2,), (3,), (3,))
    assert bert.type_ids == albert.type_ids == (0, 0, 0, 1, 1)
    assert (roberta.before, roberta.between, roberta.after) == ((0,), (2, 2), (2,))
    assert roberta.type_ids == (0, 0, 0, 0, 0)
    assert [t.num_special_tokens for t in (bert, roberta, albert)] == [3, 4, 3]
    assert {t.null_position for t in (bert, roberta, albert)} == {0}
    assert (roberta.sep_id, roberta.pad_id) == (2, 1)


@every_tokenizer
def test_a_template_survives_json(name: str) -> None:
    template = ours(name)[1]
    assert PairTemplate.from_json(json.loads(json.dumps(template.to_json()))) == template
    assert PairTemplate.from_json(template.to_json()) == template


def _with_pair_template(pair: str) -> Tokenizer:
    backend = Tokenizer.from_str(ours("wordpiece")[0].to_str())
    special = [("[CLS]", 2), ("[SEP]", 3)]
    backend.post_processor = processors.TemplateProcessing("$A", pair, special)
    return backend


def test_a_cls_token_at_the_end_is_counted_from_the_end() -> None:
    backend = _with_pair_template("$A [SEP] $B [SEP] [CLS]")  # as XLNet's
    template = windows.read_pair_template(backend, 2, 3, 0)
    assert (template.before, template.after, template.null_position) == ((), (3, 2), -1)


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        ("$A [SEP] $B", "no CLS token"),
        ("[CLS] $B [SEP] $A", "before its second"),
        ("[CLS] $A [SEP]:0 [SEP]:1 $B", "several token types"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused(pair: str, reason: str) -> None:
    with pytest.raises(InputError, match=f"model.name.*{reason}"):
        windows.read_pair_template(_with_pair_template(pair), 2, 3, 0)


# Questions


def test_each_distinct_segment_is_encoded_once() -> None:
    class Counting:
        truncation = padding = None
        seen: list[str] = []  # noqa: RUF012

        def encode_batch_fast(self, texts: list[str], **options: Any) -> Any:
            self.seen += texts
            return ours("wordpiece")[0].encode_batch_fast(texts, **options)

    counting: Any = Counting()
    windows.encode_questions(counting, [["q1"], ["q1"], ["q2"]], "[SEP]")
    assert counting.seen == ["q1", "q2"]


def test_segments_of_a_tokenizer_that_minds_their_place_need_encode_questions() -> None:
    backend = ours("unigram, space at start only")[0]
    with pytest.raises(ValueError, match="encode_questions"):
        windows.encode_segments(backend, ["why"], "[SEP]")
    alone, later = windows.encode_questions(backend, [["why"], ["it", "why"]], "[SEP]")
    assert alone[0] != later[1]


def test_a_separator_that_eats_spaces() -> None:
    trainer = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.train_from_iterator([], trainer)
    backend.add_special_tokens([AddedToken("</s>", lstrip=True, rstrip=True)])
    segments = [" a ", " b ", " c "]
    (encoded,) = windows.encode_questions(backend, [segments], "</s>")
    joined, _ = windows.join_question(encoded[:-1], encoded[-1], 256, 99, 99)
    assert joined == backend.encode("</s>".join(segments)).ids
    assert joined != backend.encode("</s>".join(s.strip() for s in segments)).ids


@every_tokenizer
@settings(max_examples=30, deadline=None)
@given(questions=st.lists(st.lists(TEXTS, min_size=1, max_size=4), max_size=4))
def test_joined_segments_equal_the_joined_string(name: str, questions: list[list[str]]) -> None:
    backend, template = ours(name)
    encoded = windows.encode_questions(backend, questions, peer(name).sep_token)
    for segments, ids in zip(questions, encoded, strict=True):
        joined, cut = windows.join_question(ids[:-1], ids[-1], template.sep_id, 9999, 9999)
        text = peer(name).sep_token.join(segments)
        assert (joined, cut) == (backend.encode(text, add_special_tokens=False).ids, 0)


SEP = 0


@pytest.mark.parametrize(
    ("history", "question", "max_question", "hard_limit", "expected"),
    [
        ([], [5, 6], 9, 9, ([5, 6], 0)),
        ([], [], 9, 9, ([], 0)),
        ([[1, 2], [3]], [5, 6], 9, 9, ([1, 2, SEP, 3, SEP, 5, 6], 0)),
        ([[1, 2], [3]], [5, 6], 7, 9, ([1, 2, SEP, 3, SEP, 5, 6], 0)),
        ([[1, 2], [3]], [5, 6], 6, 9, ([2, SEP, 3, SEP, 5, 6], 1)),
        ([[1, 2], [3]], [5, 6], 5, 9, ([3, SEP, 5, 6], 3)),  # a leading separator goes too
        ([[1, 2], [3]], [5, 6], 4, 9, ([3, SEP, 5, 6], 3)),
        ([[1, 2], [3]], [5, 6], 3, 9, ([5, 6], 5)),
        ([[1, 2], [3]], [5, 6], 2, 9, ([5, 6], 5)),
        ([[1, 2], [3]], [5, 6], 1, 9, ([5, 6], 5)),  # the question stays whole
        ([[1, 2], [3]], [5, 6, 7], 1, 2, ([6, 7], 6)),  # up to the hard limit
        ([[1, 2], [3]], [5, 6], 99, 4, ([3, SEP, 5, 6], 3)),
        ([[1], [], [3]], [5], 4, 9, ([3, SEP, 5], 3)),  # two separators lead: both go
        ([[], []], [5], 9, 9, ([SEP, SEP, 5], 0)),  # nothing cut, nothing dropped
        ([[1]], [SEP, 5], 2, 9, ([SEP, 5], 2)),  # the question's own separator stays
    ],
)
def test_join_question(
    history: list[list[int]], question: list[int], max_question: int, hard_limit: int, expected: Any
) -> None:
    assert windows.join_question(history, question, SEP, max_question, hard_limit) == expected


@given(length=st.integers(1, 600), overlap=st.integers(0, 600), question=st.integers(1, 600))
def test_settings_that_pass_leave_windows_room_to_advance(
    length: int, overlap: int, question: int
) -> None:
    if windows.check_windowing(length, overlap, question):
        return
    assert question <= windows.question_limit(length, overlap, 4)
    room = length - 4 - question
    slices = windows.cut_windows(5000, room, overlap)
    assert len(slices) <= 1 + 5000 / max(1, (length - overlap) // 8)


@pytest.mark.parametrize(
    ("length", "overlap", "question", "expected"),
    [
        (384, 128, 64, []),
        (384, 128, 220, []),
        (384, 128, 221, [("data.max_question_tokens is 221", "leaves 220")]),
        (384, 384, 64, [("data.window_overlap_tokens is 384", "data.max_length_tokens is 384")]),
        (64, 128, 64, [("data.window_overlap_tokens is 128", "data.max_length_tokens is 64")]),
        (384, -1, 0, [("data.window_overlap_tokens is -1",), ("data.max_question_tokens is 0",)]),
        (10, 5, 3, [("data.max_length_tokens=10", "leaves 0")]),
    ],
)
def test_check_windowing(length: int, overlap: int, question: int, expected: list[Any]) -> None:
    errors = windows.check_windowing(length, overlap, question)
    assert len(errors) == len(expected), errors
    for error, parts in zip(errors, expected, strict=True):
        assert all(part in error for part in parts), error


# Characters and tokens


@every_tokenizer
@settings(max_examples=60, deadline=None)
@given(text=TEXTS, data=st.data())
def test_token_aligned_text_survives_the_round_trip(
    name: str, text: str, data: st.DataObject
) -> None:
    context = context_of(name, text)
    last = len(context.token_ids) - 1
    if last < 0:
        return
    i = data.draw(st.integers(0, last))
    j = data.draw(st.integers(i, last))
    span = windows.tokens_to_char_span(context, i, j)
    if span[0] >= span[1]:
        return
    tokens = windows.char_span_to_tokens(context, span)
    assert tokens is not None
    assert windows.tokens_to_char_span(context, *tokens) == span


def smallest_span(context: TokenizedContext, start: int, end: int) -> tuple[int, int] | None:
    """The same by trying all pairs of tokens."""
    pairs = zip(context.char_starts.tolist(), context.char_ends.tolist(), strict=True)
    ranges = [(a, b) for a, b in pairs if a < b]
    covered = [c for c in range(start, end) if any(a <= c < b for a, b in ranges)]
    if not covered:
        return None
    spans = [(a, d) for i, (a, _) in enumerate(ranges) for _, d in ranges[i:]]
    fitting = [(a, d) for a, d in spans if a <= covered[0] and covered[-1] < d]
    return min(fitting, key=lambda span: span[1] - span[0])


def assert_smallest(context: TokenizedContext, start: int, end: int) -> None:
    tokens = windows.char_span_to_tokens(context, (start, end))
    expected = smallest_span(context, start, end)
    if expected is None or tokens is None:
        assert tokens == expected
        return
    found = windows.tokens_to_char_span(context, *tokens)
    assert found[1] - found[0] == expected[1] - expected[0]
    covered = smallest_span(context, max(start, found[0]), min(end, found[1]))
    assert covered is not None, "what was found holds none of the asked"


@every_tokenizer
@settings(max_examples=40, deadline=None)
@given(text=TEXTS, data=st.data())
def test_any_char_span_gets_the_smallest_tokens_that_hold_it(
    name: str, text: str, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    assert_smallest(context_of(name, text), start, end)


@example(starts=[0, 2], lengths=[3, 2], span=(2, 3))  # both hold it, the second is shorter
@settings(max_examples=300, deadline=None)
@given(
    starts=st.lists(st.integers(0, 9), min_size=1, max_size=6).map(sorted),
    lengths=st.lists(st.integers(0, 3), min_size=6, max_size=6),
    span=st.tuples(st.integers(0, 13), st.integers(0, 13)),
)
def test_tokens_that_share_characters(
    starts: list[int], lengths: list[int], span: tuple[int, int]
) -> None:
    ends = np.maximum.accumulate([a + n for a, n in zip(starts, lengths, strict=False)])
    ids = np.zeros(len(starts), np.uint32)
    context = TokenizedContext(ids, np.array(starts, np.int32), ends.astype(np.int32))
    assert_smallest(context, *span)


@every_tokenizer
@settings(max_examples=60, deadline=None)
@given(texts=st.lists(TEXTS, max_size=3))
def test_offsets_are_clean(name: str, texts: list[str]) -> None:
    for text, context in zip(texts, windows.encode_contexts(ours(name)[0], texts), strict=True):
        starts, ends = context.char_starts, context.char_ends
        assert (context.token_ids.dtype, starts.dtype, ends.dtype) == (
            np.uint32,
            np.int32,
            np.int32,
        )
        assert len(context.token_ids) == len(starts) == len(ends)
        assert (np.diff(starts) >= 0).all() and (np.diff(ends) >= 0).all()
        assert (starts >= 0).all() and (starts <= ends).all() and (ends <= len(text)).all()
        for start, end in zip(starts, ends, strict=True):
            assert text[start:end] == text[start:end].strip()


ANSWERS = [  # (before the answer, answer, after it)
    ("the ", "cafe\u0301", " sky"),
    ("the ", "cafe\u0301", ", sky"),
    ("", "e\u0323\u0301", ""),
    ("a ", "👩🏽\u200d💻", " x"),
    ("a ", "❤\ufe0f", " x"),
    ("the sky\r\n", "is blue", "\r\nin may"),
    ("an ", "oﬃce", " find"),
    ("sky\u00a0", "blue", "\u00a0may"),
    ("in ", "שָׁלוֹם", " may"),
    ("in ", "हिन्दी", " may"),
    ("in ", "東京", "は"),
    ("in ", "東", "京は"),
    ("in 東 ", "京", " は"),
    ("the ", "𝔘𝔫𝔦", " x"),
    ("the ", "a" * 101, " x"),
    ("the ", "qqzzqq", " x"),  # [UNK]
    ("the ", "[SEP]", " x"),
    ("the ", "</s>", " x"),
    ("the ", "what [SEP] is", " x"),
    ("  ", "the", ""),
    ("\u200b ", "the", " \u200b"),
    ("", "1,234.5", " kilometres"),
]


@every_tokenizer
@pytest.mark.parametrize(("before", "answer", "after"), ANSWERS)
def test_answers_at_token_boundaries_come_back_exactly(
    name: str, before: str, answer: str, after: str
) -> None:
    text = before + answer + after
    context = context_of(name, text)
    wide = (len(before) - len(before) + len(before.rstrip()), len(before) + len(answer) + 1)
    for span in [(len(before), len(before) + len(answer)), wide]:
        if text[slice(*span)].strip() != answer:
            continue
        tokens = windows.char_span_to_tokens(context, span)
        assert tokens is not None
        start, end = windows.tokens_to_char_span(context, *tokens)
        assert text[start:end] == answer


def test_marks_that_bert_drops_belong_to_the_letter_before() -> None:
    text = "the cafe\u0301 sky"
    encoding = ours("wordpiece")[0].encode(text, add_special_tokens=False)
    assert text[: encoding.offsets[-2][1]].endswith("cafe"), "what the cleaning is for"
    context = context_of("wordpiece", text)
    assert text[: context.char_ends[-2]].endswith("cafe\u0301")
    kept = context_of("byte bpe", "e\u0301")  # here the mark has tokens of its own
    assert windows.tokens_to_char_span(kept, 0, 0) == (0, 1)


def test_a_prepended_space_has_no_characters() -> None:
    tokens = context_of("unigram", "x 東")
    pieces = [ours("unigram")[0].id_to_token(i) for i in tokens.token_ids.tolist()]
    assert pieces[:2] == ["▁", "x"] or pieces[0] == "▁x"
    bare = [i for i, piece in enumerate(pieces) if piece == "▁"]
    assert bare and (tokens.char_starts[bare] == tokens.char_ends[bare]).all()
    assert windows.char_span_to_tokens(tokens, (2, 3)) == (len(pieces) - 1, len(pieces) - 1)
    literal = context_of("unigram", "▁")
    assert (literal.char_starts[-1], literal.char_ends[-1]) == (0, 1)


def test_all_byte_tokens_of_a_character_are_taken() -> None:
    context = context_of("byte bpe", "a 𠜎 b")
    tokens = windows.char_span_to_tokens(context, (2, 3))
    assert tokens is not None and tokens[1] > tokens[0]
    pieces = context.token_ids[tokens[0] : tokens[1] + 1].tolist()
    texts = [ours("byte bpe")[0].id_to_token(piece) for piece in pieces]
    from_bytes = {ord(char): byte for byte, char in _byte_alphabet().items()}
    decoded = bytes(from_bytes[ord(char)] for char in "".join(texts))
    assert decoded.decode().strip() == "𠜎"


def _byte_alphabet() -> dict[int, str]:
    """GPT-2's: printable bytes stand for themselves, the others for code points from 256 on."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    pairs = zip([*shown, *hidden], [*shown, *range(256, 256 + len(hidden))], strict=True)
    return {byte: chr(code) for byte, code in pairs}


@every_tokenizer
@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("the sky", (3, 4)),
        ("the sky", (2, 2)),
        ("the sky", (3, 2)),
        ("", (0, 0)),
        ("", (0, 3)),
        ("  ", (0, 2)),
    ],
)
def test_no_tokens_for_no_text(name: str, text: str, span: tuple[int, int]) -> None:
    assert windows.char_span_to_tokens(context_of(name, text), span) is None


def assert_windows_cover(name: str, text: str) -> TokenizedContext:
    context = context_of(name, text)
    num_tokens = len(context.token_ids)
    slices = windows.cut_windows(num_tokens, 384, 128)
    assert slices[0][0] == 0 and slices[-1][1] == num_tokens
    assert {stop - start for (_, stop), (start, _) in pairwise(slices)} <= {128}
    start, end = windows.tokens_to_char_span(context, 0, num_tokens - 1) if num_tokens else (0, 0)
    assert text[start:end] == text.strip()
    return context


@pytest.mark.parametrize("name", ["wordpiece", "byte bpe", "unigram"])
def test_a_context_of_a_megabyte(name: str) -> None:
    sentence = "the sky is blue in may, and café x🦊 find. "
    text = sentence * (1_000_000 // len(sentence.encode()) + 1)
    assert len(text.encode()) >= 1_000_000
    context = assert_windows_cover(name, text)
    start = text.rindex("café")
    tokens = windows.char_span_to_tokens(context, (start, start + 4))
    assert tokens is not None
    span = windows.tokens_to_char_span(context, *tokens)
    assert text[slice(*span)] == "café" and span[0] == start


@every_tokenizer
@pytest.mark.parametrize("unit", ["a", " ", "e\u0301", "東", "\u0301", "\n", "🦊"])
def test_a_long_context_of_one_kind(name: str, unit: str) -> None:
    text = unit * 20_000
    context = context_of(name, text)
    tokens = windows.char_span_to_tokens(context, (0, len(text)))
    if not text.strip() or not len(context.token_ids):
        assert tokens is None
    else:
        assert_windows_cover(name, text)


def test_a_tokenizer_that_truncates_or_pads_is_refused() -> None:
    backend = Tokenizer.from_str(ours("wordpiece")[0].to_str())
    backend.enable_truncation(8)
    with pytest.raises(ValueError, match="truncation"):
        windows.encode_contexts(backend, ["the sky"])
    backend.no_truncation()
    backend.enable_padding()
    with pytest.raises(ValueError, match="padding"):
        windows.encode_questions(backend, [["the sky"]], "[SEP]")


# A published vocabulary on real text


def _run_qa_label(offsets: Any, owners: Any, char_span: tuple[int, int]) -> tuple[int, int] | None:
    """As prepare_train_features of transformers' examples/pytorch/question-answering/run_qa.py.

    But for its bound on `start`, len(offsets): past the context come special tokens with offset 0,
    so an answer that begins at a window's last token gets the window's last token of all as start.
    """
    start = owners.index(1)
    end = stop = len(owners) - 1 - owners[::-1].index(1)
    if not (offsets[start][0] <= char_span[0] and offsets[end][1] >= char_span[1]):
        return None
    while start <= stop and offsets[start][0] <= char_span[0]:
        start += 1
    while offsets[end][1] >= char_span[1]:
        end -= 1
    return start - 1, end + 1


@pytest.mark.skipif("QA_DIST_TEST_DATA" not in os.environ, reason="QA_DIST_TEST_DATA isn't set")
def test_squad_windows_and_labels_equal_run_qa() -> None:
    folder = Path(os.environ["QA_DIST_TEST_DATA"])
    tokenizer = AutoTokenizer.from_pretrained(folder / "models/all-MiniLM-L6-v2")
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    ids = (tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id)
    template = windows.read_pair_template(backend, *ids)
    articles = json.loads((folder / "data/squad/dev-v1.1.json").read_text())["data"]
    paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]][::25]
    num_windows = num_targets = 0
    for paragraph in paragraphs:
        text = paragraph["context"]
        (context,) = windows.encode_contexts(backend, [text])
        for question in paragraph["qas"]:
            (asked,) = windows.encode_segments(backend, [question["question"]], "[SEP]")
            answer = question["answers"][0]
            char_span = (answer["answer_start"], answer["answer_start"] + len(answer["text"]))
            span = windows.char_span_to_tokens(context, char_span)
            expected = tokenizer(
                question["question"],
                text,
                truncation="only_second",
                max_length=128,
                stride=48,
                return_overflowing_tokens=True,
                return_offsets_mapping=True,
                padding=False,
            )
            room = 128 - template.num_special_tokens - len(asked)
            slices = windows.cut_windows(len(context.token_ids), room, 48)
            assert len(slices) == len(expected["input_ids"])
            shift = len(template.before) + len(asked) + len(template.between)
            for i, (start, stop) in enumerate(slices):
                middle = [*template.before, *asked, *template.between]
                window = [*middle, *context.token_ids[start:stop].tolist(), *template.after]
                assert window == expected["input_ids"][i]
                owners = expected.sequence_ids(i)
                label = _run_qa_label(expected["offset_mapping"][i], owners, char_span)
                assert span is not None
                ours_here = None
                if windows.is_in_window(span, start, stop):
                    ours_here = (span[0] - start + shift, span[1] - start + shift)
                assert ours_here == label
                num_windows += 1
                num_targets += label is not None
    assert num_windows > 500 and num_targets > 400
