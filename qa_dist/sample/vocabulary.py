"""The bundled encoder's vocabulary: the micro-world's words, and characters for all others.

Out: a lower-casing WordPiece tokenizer, and the groups of tokens that pre-training hides. It isn't
learned from text: the word tables say it all, so it is the same wherever it is made.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from qa_dist.sample import words

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PAD, UNK, CLS, SEP, MASK = range(5)


@dataclass(frozen=True)
class Vocabulary:
    """The tokenizer and the tokens that masking treats apart."""

    tokenizer: Tokenizer
    names: frozenset[int]
    values: tuple[int, ...]
    """Last token of each name, town, colour, ... in ascending order."""
    answers: frozenset[int]
    """yes, no, unknown."""

    def encode(self, text: str) -> list[int]:
        """Return token ids without special tokens."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def make_tokenizer() -> Tokenizer:
    """Return a lower-casing WordPiece: the world's words, and characters for any other word."""
    normalizer = normalizers.BertNormalizer(lowercase=True)
    splitter = pre_tokenizers.BertPreTokenizer()
    found = {"yes", "no", "unknown", "she", "he", "her", "his"}
    for text in _world_texts():
        bare = normalizer.normalize_str(re.sub(r"\{\w+\}", " ", text))
        found.update(word for word, _ in splitter.pre_tokenize_str(bare))
    characters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    inner = [f"##{character}" for character in characters if character.isalnum()]
    pieces = [*SPECIALS, *characters, *inner, *sorted(word for word in found if len(word) > 1)]
    tokenizer = Tokenizer(
        models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)],
    )
    return tokenizer


def _world_texts() -> Iterator[str]:
    """Yield every word, sentence and question of the world."""
    yield from [*words.WOMEN, *words.MEN, *words.AND_QUESTIONS]
    tables: list[Iterable[Iterable[str]]] = [words.VALUES.values(), words.OPENERS.values()]
    tables += [words.CLOSERS.values(), words.QUESTIONS.values(), words.IT_QUESTIONS.values()]
    tables += [(sentences for _, sentences in words.RELATIONS.values())]
    tables += [(words.YES_NO.values(), words.WHO.values())]
    for table in tables:
        for texts in table:
            yield from texts


def make_vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    """Return the tokenizer with the groups of tokens that masking needs."""

    def last_tokens(texts: Iterable[str]) -> set[int]:
        return {tokenizer.encode(text, add_special_tokens=False).ids[-1] for text in texts}

    names = last_tokens([*words.WOMEN, *words.MEN])
    values = names.union(*(last_tokens(texts) for texts in words.VALUES.values()))
    answers = last_tokens(["yes", "no", "unknown"])
    return Vocabulary(tokenizer, frozenset(names), tuple(sorted(values)), frozenset(answers))
