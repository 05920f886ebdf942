"""The vocabulary: the shipped tokenizer is the one that is made, and knows the whole world."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

import qa_dist.sample
from qa_dist.sample.make_data import make_files
from qa_dist.sample.vocabulary import (
    CLS,
    MASK,
    PAD,
    SEP,
    SPECIALS,
    UNK,
    Vocabulary,
    make_tokenizer,
    make_vocabulary,
)

ENCODER = Path(qa_dist.sample.__file__).parent / "encoder"


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return make_vocabulary(make_tokenizer())


def test_the_shipped_tokenizer_is_the_one_that_the_script_makes(vocabulary: Vocabulary) -> None:
    tokenizer = AutoTokenizer.from_pretrained(ENCODER)
    text = "José's pet is Momo, a grey cat. Xylophones?"
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == vocabulary.encode(text)
    assert tokenizer.get_vocab() == vocabulary.tokenizer.get_vocab()


def test_special_tokens_come_first(vocabulary: Vocabulary) -> None:
    ids = [vocabulary.tokenizer.token_to_id(special) for special in SPECIALS]
    assert ids == [PAD, UNK, CLS, SEP, MASK] == [0, 1, 2, 3, 4]


def test_all_bundled_texts_are_whole_known_words(vocabulary: Vocabulary) -> None:
    dataset = json.loads(make_files()["coqa-dev.json"])
    for entry in dataset["data"]:
        for text in [entry["story"], *(q["input_text"] for q in entry["questions"])]:
            pieces = vocabulary.tokenizer.encode(text).tokens
            assert "[UNK]" not in pieces
            assert not [piece for piece in pieces if piece.startswith("##")]


def test_other_words_are_spelled_and_accents_and_case_are_dropped(vocabulary: Vocabulary) -> None:
    encoding = vocabulary.tokenizer.encode("ZOË's xy", add_special_tokens=False)
    assert encoding.tokens == ["zoe", "'", "s", "x", "##y"]
    assert encoding.offsets == [(0, 3), (3, 4), (4, 5), (6, 7), (7, 8)]


def test_groups_of_tokens(vocabulary: Vocabulary) -> None:
    def name(token: int) -> str:
        return str(vocabulary.tokenizer.id_to_token(token))

    assert {name(token) for token in vocabulary.answers} == {"yes", "no", "unknown"}
    assert len(vocabulary.names) == 24
    assert vocabulary.names < set(vocabulary.values)
    assert {"rome", "grey", "attic", "zoe"} <= {name(token) for token in vocabulary.values}
    assert not vocabulary.answers & set(vocabulary.values)
