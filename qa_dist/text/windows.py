"""Questions and contexts as token ids, contexts cut into windows, answers as token spans.

In: strings and a fast tokenizer's backend (`tokenizers.Tokenizer`). Out: token ids, slices, spans.
It must not know of models, tensors or files. A context is tokenised once and each question segment
once; a window is a slice of the context, and `[CLS] question [SEP] slice [SEP]` is put together by
data/collate.py only. The result is, token for token, what the fast tokenizer gives for the pair
(question, context) with truncation="only_second".

Worked example. Windows of 11 tokens, 2 of them shared; the question "what is blue" has 3 tokens and
the template 3 (`[CLS]`, `[SEP]`, `[SEP]`), so 5 are left for the context: the room. The context
"the sky is blue in may" has 6 tokens, so there are two windows: (0, 5) "the sky is blue in" and
(3, 6) "blue in may", each starting 5 - 2 = 3 tokens after the one before. The answer "blue" is
chars [11, 15) and tokens [3, 3], whole in both windows: a target in both. The answer "sky is" is
tokens [1, 2], whole in the first only; to the second window the question is unanswerable.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from qa_dist.records import InputError

if TYPE_CHECKING:  # a forecast cuts windows without any
    from tokenizers import Tokenizer

_METASPACE = "\u2581"  # SentencePiece's visible space
_IS_SPACE = np.array([chr(code).isspace() for code in range(0x3002)])  # none is beyond U+3000
_FIRST_MARK = "\u0300"  # of all combining marks
_PROBE_SEGMENTS = ("What is it", " The end. ", "why")

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int32]


@dataclass(frozen=True)
class PairTemplate:
    """What a tokenizer puts around a question and a context; stored beside the windows."""

    before: tuple[int, ...]
    """Token ids before the question."""
    between: tuple[int, ...]
    """Token ids between question and context."""
    after: tuple[int, ...]
    """Token ids after the context."""
    type_ids: tuple[int, int, int, int, int]
    """Token types of before, question, between, context, after."""
    null_position: int
    """Where in a window the CLS token stands; negative: counted from the window's end."""
    sep_id: int
    """Joins history and question."""
    pad_id: int
    """Fills padded rows."""

    @property
    def num_special_tokens(self) -> int:
        """Tokens of a window that are neither question nor context."""
        return len(self.before) + len(self.between) + len(self.after)

    def to_json(self) -> dict[str, Any]:
        """Return a dict that JSON can hold; see `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> PairTemplate:
        """Rebuild what `to_json` gave (JSON turns its tuples into lists)."""
        before, question, between, context, after = fields["type_ids"]
        return cls(
            before=tuple(fields["before"]),
            between=tuple(fields["between"]),
            after=tuple(fields["after"]),
            type_ids=(before, question, between, context, after),
            null_position=fields["null_position"],
            sep_id=fields["sep_id"],
            pad_id=fields["pad_id"],
        )


@dataclass(frozen=True, eq=False)
class TokenizedContext:
    """A context's tokens, and where each of them stands in it."""

    token_ids: npt.NDArray[np.uint32]
    char_starts: Ints
    """First code point of each token; never falls from one token to the next."""
    char_ends: Ints
    """Code point after each token's last; never falls either. Its start: a whitespace token."""


def read_pair_template(tokenizer: Tokenizer, cls_id: int, sep_id: int, pad_id: int) -> PairTemplate:
    """Find the template: the tokens of an encoded pair of probe strings that belong to neither."""
    encoding = tokenizer.encode(*_PROBE_SEGMENTS[:2], add_special_tokens=True)
    owners, ids, types = encoding.sequence_ids, encoding.ids, encoding.type_ids
    questions = [i for i, owner in enumerate(owners) if owner == 0]
    contexts = [i for i, owner in enumerate(owners) if owner == 1]
    if not questions or not contexts or questions[-1] > contexts[0]:
        raise InputError(
            "model.name: its tokenizer doesn't put a pair's first text before its second"
        )
    edges = (0, questions[0], questions[-1] + 1, contexts[0], contexts[-1] + 1, len(ids))
    parts = [range(edges[i], edges[i + 1]) for i in range(5)]
    part_types = [{types[i] for i in part} or {0} for part in parts]
    if any(len(found) > 1 for found in part_types):
        raise InputError("model.name: its tokenizer gives one part of a pair several token types")
    before, _, between, _, after = (tuple(ids[i] for i in part) for part in parts)
    if cls_id in before:
        null_position = before.index(cls_id)
    elif cls_id in after:
        null_position = after.index(cls_id) - len(after)
    else:
        raise InputError("model.name: its tokenizer adds no CLS token (the place of 'no answer')")
    a, b, c, d, e = (found.pop() for found in part_types)
    return PairTemplate(before, between, after, (a, b, c, d, e), null_position, sep_id, pad_id)


def encode_questions(
    tokenizer: Tokenizer,
    questions: Sequence[Sequence[str]],
    sep_text: str,
    encode: Callable[[Sequence[str]], list[list[int]]] | None = None,
) -> list[list[list[int]]]:
    """Return the token ids of each question's segments: history, oldest first, then the question.

    Each distinct segment is encoded once, by `encode` if that is given. Joined by the separator's
    id, a question's segments are what the tokenizer makes of `sep_text.join(segments)`, also where
    it treats the start of a string in its own way (T5, Llama).
    """
    _check_unpadded(tokenizer)
    encode = encode or partial(encode_ids, tokenizer)
    if all(len(segments) == 1 for segments in questions) or _encodes_apart(tokenizer, sep_text):
        distinct = list(dict.fromkeys(chain.from_iterable(questions)))
        ids_of = dict(zip(distinct, encode(distinct), strict=True))
        return [[ids_of[segment] for segment in row] for row in questions]
    texts: dict[str, int] = {}  # what is encoded -> its row
    rows: list[list[tuple[int, bool, bool]]] = []  # per segment: row, sep in front, sep behind
    for segments in questions:
        row: list[tuple[int, bool, bool]] = []
        for i, segment in enumerate(segments):
            front, behind = i > 0, i < len(segments) - 1
            text = sep_text * front + segment + sep_text * behind
            row.append((texts.setdefault(text, len(texts)), front, behind))
        rows.append(row)
    ids = encode(list(texts))
    return [[ids[at][front : len(ids[at]) - behind] for at, front, behind in row] for row in rows]


def encode_ids(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    encodings = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    return [encoding.ids for encoding in encodings]


def encode_segments(
    tokenizer: Tokenizer, segments: Sequence[str], sep_text: str
) -> list[list[int]]:
    """Return the token ids of each segment, wherever in a question it stands.

    Raise ValueError for the few tokenizers to which that makes a difference (not BERT, RoBERTa,
    ALBERT, ELECTRA, DeBERTa): they need `encode_questions`.
    """
    if not _encodes_apart(tokenizer, sep_text):
        raise ValueError("this tokenizer treats the start of a string specially: encode_questions")
    return [ids for (ids,) in encode_questions(tokenizer, [[s] for s in segments], sep_text)]


def _encodes_apart(tokenizer: Tokenizer, sep_text: str) -> bool:
    """Whether segments encoded one by one and joined by sep equal the joined string, encoded."""
    texts = [*_PROBE_SEGMENTS, sep_text, sep_text.join(_PROBE_SEGMENTS)]
    *segments, sep, joined = encode_ids(tokenizer, texts)
    return joined == [token for ids in segments for token in (*ids, *sep)][: -len(sep)]


def _check_unpadded(tokenizer: Tokenizer) -> None:
    if tokenizer.truncation is not None or tokenizer.padding is not None:
        raise ValueError("truncation and padding must be off (data/tokenizer.py turns them off)")


def join_question(
    history: Sequence[Sequence[int]],
    question: Sequence[int],
    sep_id: int,
    max_question_tokens: int,
    hard_limit: int,
) -> tuple[list[int], int]:
    """Join history and question by `sep_id`; return the tokens kept, and how many were cut.

    Cut at the oldest end to `max_question_tokens`. The current question stays whole even beyond
    that, up to `hard_limit` (see `question_limit`), where its own oldest tokens go.
    """
    joined = [token for segment in history for token in (*segment, sep_id)]
    joined.extend(question)
    kept = min(max(max_question_tokens, len(question)), hard_limit)
    tail = joined[max(len(joined) - kept, 0) :]
    if len(tail) < len(joined):
        first = 0
        while len(tail) - first > len(question) and tail[first] == sep_id:
            first += 1  # nothing is left in front of it to keep apart
        tail = tail[first:]
    return tail, len(joined) - len(tail)


def question_limit(max_length: int, overlap: int, num_special: int) -> int:
    """Return the most question tokens that leave windows room to overlap and to advance."""
    return max_length - num_special - overlap - max(1, (max_length - overlap) // 8)


def check_windowing(
    max_length: int, overlap: int, max_question: int, num_special: int = 4
) -> list[str]:
    """Return a sentence for each thing that is wrong; 4 special tokens are RoBERTa's, the most."""
    errors = []
    if overlap < 0:
        errors.append(f"data.window_overlap_tokens is {overlap}; it must be 0 or more")
    if max_question < 1:
        errors.append(f"data.max_question_tokens is {max_question}; it must be 1 or more")
    if overlap >= max_length:
        errors.append(
            f"data.window_overlap_tokens is {overlap} and data.max_length_tokens is {max_length}: "
            "windows would never advance; the overlap must be smaller than the length"
        )
    limit = question_limit(max_length, overlap, num_special)
    if not errors and max_question > limit:
        errors.append(
            f"data.max_question_tokens is {max_question}, but data.max_length_tokens={max_length} "
            f"less data.window_overlap_tokens={overlap}, {num_special} special tokens and "
            f"{max(1, (max_length - overlap) // 8)} for windows to advance leaves {max(limit, 0)}: "
            "lower the question or the overlap, or raise the length"
        )
    return errors


def encode_contexts(tokenizer: Tokenizer, contexts: Sequence[str]) -> list[TokenizedContext]:
    """Tokenise whole contexts, without special tokens.

    A token's characters are without whitespace at either end; they include combining marks that
    follow and that the tokenizer drops (BERT's accents). A token of whitespace has an empty range.
    """
    _check_unpadded(tokenizer)
    metaspace_id = tokenizer.token_to_id(_METASPACE)
    # encode_batch_fast leaves offsets out
    encodings = tokenizer.encode_batch(list(contexts), add_special_tokens=False)
    return [
        _clean_offsets(context, encoding.ids, encoding.offsets, metaspace_id)
        for context, encoding in zip(contexts, encodings, strict=True)
    ]


def _clean_offsets(
    context: str, ids: list[int], offsets: list[tuple[int, int]], metaspace_id: int | None
) -> TokenizedContext:
    token_ids = np.array(ids, np.uint32)
    flat = np.fromiter(chain.from_iterable(offsets), np.int32, 2 * len(offsets))
    starts, ends = flat[::2], flat[1::2]
    if context.isascii():
        codes = np.frombuffer(f"{context}\0".encode(), np.uint8).astype(np.uint32)
    else:
        codes = np.frombuffer(f"{context}\0".encode("utf-32-le"), np.uint32)
    is_space = _IS_SPACE[np.minimum(codes, len(_IS_SPACE) - 1)]
    if metaspace_id is not None:
        # A prepended space claims the first character of its word, which belongs to the next token.
        bare = (token_ids == metaspace_id) & (codes[starts] != ord(_METASPACE))
        ends = np.where(bare, starts, ends)
    if is_space[starts].any() or is_space[ends - 1].any():
        starts, ends = _trim(is_space, starts, ends)
    if marks := [ord(c) for c in set(context) if c >= _FIRST_MARK and _is_mark(c)]:
        ends = _extend_over_marks(np.isin(codes, marks), starts, ends)
    starts = np.maximum.accumulate(starts)
    ends = np.maximum.accumulate(np.maximum(starts, ends))
    return TokenizedContext(token_ids, starts, ends)


def _is_mark(char: str) -> bool:
    return unicodedata.category(char).startswith("M")


def _trim(is_space: Bools, starts: Ints, ends: Ints) -> tuple[Ints, Ints]:
    """Move starts forward to, and ends back to, the nearest character that isn't whitespace."""
    at = np.arange(len(is_space), dtype=np.int32)
    next_char = np.minimum.accumulate(np.where(is_space, at[-1], at)[::-1])[::-1]
    end_of_last_char = np.maximum.accumulate(np.where(np.roll(is_space, 1), 0, at))
    starts = np.minimum(next_char[starts], ends)
    return starts, np.maximum(end_of_last_char[ends], starts)


def _extend_over_marks(is_mark: Bools, starts: Ints, ends: Ints) -> Ints:
    """Move ends forward over marks, up to the next token."""
    at = np.arange(len(is_mark), dtype=np.int32)
    next_other = np.minimum.accumulate(np.where(is_mark, at[-1], at)[::-1])[::-1]
    next_start = np.append(starts[1:], at[-1:])
    return np.maximum(ends, np.minimum(next_other[ends], next_start))


def cut_windows(num_context_tokens: int, room: int, overlap: int) -> list[tuple[int, int]]:
    """Return half-open slices of up to `room` tokens that overlap and cover a context.

    A context that fits (an empty one too) is one slice. Raise ValueError if slices can't advance.
    """
    if num_context_tokens <= room:
        return [(0, num_context_tokens)]
    if not 0 <= overlap < room:
        raise ValueError(f"windows with room for {room} tokens can't share {overlap} and advance")
    step = room - overlap
    num_windows = 1 - (room - num_context_tokens) // step
    return [(i * step, min(i * step + room, num_context_tokens)) for i in range(num_windows)]


def is_in_window(token_span: tuple[int, int], window_from: int, window_to: int) -> bool:
    """Whether a token span (inclusive) is whole in [window_from, window_to), and so its target."""
    return window_from <= token_span[0] and token_span[1] < window_to


def char_span_to_tokens(
    context: TokenizedContext, char_span: tuple[int, int]
) -> tuple[int, int] | None:
    """Return the tokens (inclusive) of the smallest token-aligned text that holds a char span.

    Characters at the (half-open) span's ends that are in no token, such as whitespace, are left
    out; None if nothing remains. A character of several tokens (byte-level BPE) is taken whole.
    """
    return char_spans_to_tokens(context, [char_span])[0]


def char_spans_to_tokens(
    context: TokenizedContext, char_spans: Sequence[tuple[int, int] | None]
) -> list[tuple[int, int] | None]:
    """Return what `char_span_to_tokens` does for each span of a context; None for None."""
    kept = (context.char_starts < context.char_ends).nonzero()[0]  # not the whitespace
    tokens = kept.tolist()
    starts, ends = context.char_starts[kept].tolist(), context.char_ends[kept].tolist()
    return [
        _smallest(tokens, starts, ends, *char_span) if char_span else None
        for char_span in char_spans
    ]


def _smallest(
    tokens: list[int], starts: list[int], ends: list[int], start: int, end: int
) -> tuple[int, int] | None:
    """`starts` and `ends`: of these tokens, none of them empty, neither ever falling."""
    if start >= end or not tokens:
        return None
    start = max(start, starts[min(bisect_right(ends, start), len(ends) - 1)])
    end = min(end, ends[max(bisect_left(starts, end) - 1, 0)])
    if start >= end:
        return None
    first = bisect_left(starts, starts[bisect_right(starts, start) - 1])
    last = bisect_right(ends, ends[bisect_left(ends, end)]) - 1
    if first > last:  # two tokens share characters and each holds the span: the shorter one
        first = last = min(last, first, key=lambda i: ends[i] - starts[i])
    return tokens[first], tokens[last]


def tokens_to_char_span(context: TokenizedContext, start: int, end: int) -> tuple[int, int]:
    """Return the half-open char span of tokens start..end, inclusive, less outer whitespace."""
    starts, ends = context.char_starts, context.char_ends
    while start < end and starts[start] == ends[start]:
        start += 1
    while start < end and starts[end] == ends[end]:
        end -= 1
    return int(starts[start]), int(ends[end])
