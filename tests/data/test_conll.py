"""CoNLL files of two and four columns give sentences or documents; bad lines are named."""

import os
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qa_dist.data.conll import (
    NO_TAG,
    NO_WORD,
    NOT_UTF8,
    STRAY_RETURN,
    WRONG_COLUMNS,
    ConllRecords,
    index_conll,
)
from qa_dist.records import InputError

CONLL_2003 = """-DOCSTART- -X- O O

EU NNP I-NP I-ORG
rejects VBZ I-VP O
. . O O

Peter NNP I-NP I-PER
Blackburn NNP I-NP I-PER

-DOCSTART- -X- O O

BRUSSELS NNP I-NP I-LOC
1996-08-22 CD I-NP O
"""


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "some.conll"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def sentences(path: Path, by_document: bool = False) -> list[list[dict]]:
    records = ConllRecords(path, by_document)
    return [records.read(i)["sentences"] for i in range(len(records.index))]


def pairs(path: Path) -> list[list[tuple[str, str]]]:
    return [
        list(zip(s["words"], s["tags"], strict=True)) for record in sentences(path) for s in record
    ]


# --- Well-formed files ---


def test_sentences_of_four_columns(tmp_path):
    records = ConllRecords(written(tmp_path, CONLL_2003))
    assert records.index.groups.tolist() == [0, 0, 1]
    assert records.index.num_questions.tolist() == [1, 1, 1]
    assert [records.read(i)["sentences"] for i in range(3)] == [
        [
            {
                "id": "sentence-000000",
                "words": ["EU", "rejects", "."],
                "tags": ["I-ORG", "O", "O"],
            }
        ],
        [{"id": "sentence-000001", "words": ["Peter", "Blackburn"], "tags": ["I-PER"] * 2}],
        [{"id": "sentence-000002", "words": ["BRUSSELS", "1996-08-22"], "tags": ["I-LOC", "O"]}],
    ]
    assert [records.group_name(i) for i in range(3)] == [
        "group-00000",
        "group-00000",
        "group-00001",
    ]


def test_documents(tmp_path):
    path = written(tmp_path, CONLL_2003)
    records = ConllRecords(path, by_document=True)
    assert records.index.groups.tolist() == [0, 1]
    assert records.index.num_questions.tolist() == [2, 1]
    of_documents = [s for i in range(2) for s in records.read(i)["sentences"]]
    assert of_documents == [s for record in sentences(path) for s in record]


def test_without_docstart_each_sentence_is_a_group(tmp_path):
    path = written(tmp_path, "a O\n\nb O\n\nc O\n")
    assert index_conll(path).groups.tolist() == [0, 1, 2]
    with pytest.raises(InputError, match=r"some\.conll: data\.document_context=true needs lines"):
        index_conll(path, by_document=True)


def test_sentences_before_the_first_docstart_are_a_document(tmp_path):
    path = written(tmp_path, "a O\n-DOCSTART- O\nb O\nc O\n")
    assert index_conll(path).groups.tolist() == [0, 1]
    assert [s["words"] for record in sentences(path) for s in record] == [["a"], ["b", "c"]]


WANTED = [[("a", "O"), ("b", "I-X")], [("c", "B-X")]]


@pytest.mark.parametrize(
    "text",
    [
        "a O\nb I-X\n\nc B-X\n",
        "a O\nb I-X\n\nc B-X",
        "\n\n \na O\nb I-X\n\n\t\n\nc B-X\n\n\n",
        "a O\r\nb I-X\r\n\r\nc B-X\r\n",
        "\ufeffa O\nb I-X\n\nc B-X\n",
        "a\tO\nb\tI-X\n\nc\tB-X\t\n",
        "  a   O  \nb \t I-X\n\nc B-X \t\n",
        "a POS O\nb POS I-X\n\nc POS B-X\n",
        "-DOCSTART-\n\na O\nb I-X\n\nc B-X",
        "\ufeff-DOCSTART- O\na O\nb I-X\n\nc B-X",
    ],
)
def test_the_same_sentences_in_other_forms(tmp_path, text):
    assert pairs(written(tmp_path, text)) == WANTED


@pytest.mark.parametrize("word", ["\xa0", "\u3000", "\u200b", "a\xa0b", "\u2028", "\x85", "地"])
def test_odd_words_are_words(tmp_path, word):
    assert pairs(written(tmp_path, f"{word} O\nx O\n")) == [[(word, "O"), ("x", "O")]]


def test_a_blank_inside_a_word_where_tabs_part_the_columns(tmp_path):
    assert pairs(written(tmp_path, "New York\tB-LOC\n")) == [[("New York", "B-LOC")]]


words = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters=" "), min_size=1)
tags = st.sampled_from(["O", "B-PER", "I-PER"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.tuples(words, tags), min_size=1, max_size=4), min_size=1, max_size=4))
def test_any_words_come_back(tmp_path_factory, wanted):
    text = "\n\n".join("\n".join(f"{w} {t}" for w, t in sentence) for sentence in wanted)
    path = written(tmp_path_factory.mktemp("any"), text)
    if text.startswith("\ufeff"):
        wanted[0][0] = (wanted[0][0][0][1:], wanted[0][0][1])
    if all(w and not w.startswith("-DOCSTART-") for sentence in wanted for w, _ in sentence):
        assert pairs(path) == wanted


# --- Bad files and lines ---


@pytest.mark.parametrize(
    "line, reason",
    [
        (b"word", WRONG_COLUMNS),
        (b"word\t", WRONG_COLUMNS),
        (b"a b O", WRONG_COLUMNS),
        (b"a\tb\tO", WRONG_COLUMNS),
        (b"\tO", NO_WORD),
        (b" \tO", NO_WORD),
        (b"word X-PER", NO_TAG),
        (b"word PER", NO_TAG),
        (b"word B-", NO_TAG),
        (b"word 0", NO_TAG),
        (b"w\xf6rd O", NOT_UTF8),
        (b"a O\rb O", STRAY_RETURN),
    ],
)
@pytest.mark.parametrize("by_document", [False, True])
def test_a_bad_line_is_named_and_its_sentence_left_out(tmp_path, line, reason, by_document):
    path = written(tmp_path, b"-DOCSTART- O\n\na O\n\nb O\n" + line + b"\n\nc O\n")
    found = [s for record in sentences(path, by_document) for s in record]
    assert found[1] == {"where": "some.conll:6", "reason": reason}
    assert [s.get("id") for s in found] == ["sentence-000000", None, "sentence-000002"]


def test_lines_are_counted_in_any_order(tmp_path):
    path = written(tmp_path, "a O\n\n" + "x y z\n\n" * 3)
    records = ConllRecords(path)
    assert [records.read(i)["sentences"][0]["where"] for i in (3, 1, 2)] == [
        "some.conll:7",
        "some.conll:3",
        "some.conll:5",
    ]


@pytest.mark.parametrize("text", ["", "\n\n", "\ufeff", "-DOCSTART- O\n\n-DOCSTART- O\n"])
def test_a_file_without_sentences(tmp_path, text):
    with pytest.raises(InputError, match=r"some\.conll: holds no sentences; expected a word"):
        index_conll(written(tmp_path, text))


def test_files_that_are_no_conll_files(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"some\.conll:2: is a line of over 1 MB"):
        index_conll(written(tmp_path, b"a O\n" + b"x" * (1 << 20)))
    monkeypatch.setattr("qa_dist.data.conll.MAX_SENTENCE_BYTES", 40)
    with pytest.raises(InputError, match=r"some\.conll:13: no blank line"):
        index_conll(written(tmp_path, "\n\na O\n" + "b O\n" * 20))
    with pytest.raises(InputError, match="expected a CoNLL file"):
        index_conll(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        index_conll(tmp_path / "absent.conll")


# --- Cost ---


def test_index_is_made_with_flat_memory(tmp_path):
    path = tmp_path / "large.conll"
    with path.open("wb") as stream:
        for _ in range(400):
            stream.write(b"word NN I-NP O\n" * 200 + b"\n")
    size = path.stat().st_size
    tracemalloc.start()
    index = index_conll(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(index) == 400
    assert peak < size / 10


def test_records_are_read_elsewhere_with_a_saved_index(tmp_path, monkeypatch):
    path = written(tmp_path, CONLL_2003)
    index = index_conll(path)
    np.savez(tmp_path / "index.npz", **index.arrays())
    monkeypatch.setattr("qa_dist.data.conll.index_conll", None)
    records = ConllRecords(path, index=index)
    assert records.read(1)["sentences"][0]["words"] == ["Peter", "Blackburn"]
    assert pickle.loads(pickle.dumps(records)).read(1) == records.read(1)
    path.unlink()
    with pytest.raises(InputError, match="can't be read any more"):
        ConllRecords(path, index=index).read(0)


# --- Real files ---


@pytest.mark.skipif("QA_DIST_TEST_DATA" not in os.environ, reason="QA_DIST_TEST_DATA isn't set")
@pytest.mark.parametrize(
    "name, num_sentences, num_documents, num_words, num_tagged",
    [
        ("wikigold.conll.txt", 1696, 145, 39007, 6431),
        ("FIN5.txt", 1164, 5, 41010, 1530),
        ("FIN3.txt", 303, 3, 13246, 436),
    ],
)
def test_real_files(name, num_sentences, num_documents, num_words, num_tagged):
    path = Path(os.environ["QA_DIST_TEST_DATA"]) / "data" / "ner" / name
    found = pairs(path)
    assert len(found) == num_sentences
    assert len(index_conll(path, by_document=True)) == num_documents
    assert sum(map(len, found)) == num_words
    assert sum(tag != "O" for sentence in found for _, tag in sentence) == num_tagged
