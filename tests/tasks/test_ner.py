"""Tagged sentences become examples whose words stand where they are said to, with IOB2 tags."""

import os
from pathlib import Path

import pytest

from qa_dist.data.conll import ConllRecords
from qa_dist.records import InputError
from qa_dist.tasks.ner import count_questions, read_passage, source_labels, target_text
from qa_dist.text.tags import find_strict_entities

GOOD = {
    "id": "sentence-000004",
    "words": ["Peter", "Black", "saw", "EU"],
    "tags": ["I-PER", "I-PER", "O", "I-ORG"],
}
BAD = {"where": "some.conll:3", "reason": "line has no word"}
NEXT = {"id": "sentence-000006", "words": ["Oslo", "."], "tags": ["B-LOC", "O"]}


def read(*sentences, group="group-00001"):
    reports: list[tuple[str, str]] = []
    passage = read_passage(
        {"sentences": list(sentences)}, group, lambda *what: reports.append(what), True
    )
    return passage, reports


def test_a_sentence():
    passage, reports = read(GOOD)
    (example,) = passage.examples
    assert passage.context == "Peter Black saw EU"
    assert example.words == ((0, 5), (6, 11), (12, 15), (16, 18))
    assert example.tags == ("B-PER", "I-PER", "O", "B-ORG")
    assert (example.id, example.group, example.rule) == ("sentence-000004", "group-00001", "ner")
    assert (example.question, example.answers, example.history) == ("", (), ())
    assert target_text(example, passage.context) == ""
    assert reports == []


def test_a_document_keeps_its_sentences_places():
    passage, reports = read(GOOD, BAD, NEXT)
    assert passage.context == "Peter Black saw EU Oslo ."
    assert [e.ordinal for e in passage.examples] == [0, 2]
    texts = [[passage.context[a:b] for a, b in e.words] for e in passage.examples]
    assert texts == [GOOD["words"], NEXT["words"]]
    assert reports == [("some.conll:3", "line has no word")]
    assert count_questions({"sentences": [GOOD, BAD, NEXT]}) == 3
    assert count_questions({}) == 0


def test_a_bad_sentence_alone_leaves_no_example():
    assert read(BAD)[0].examples == ()


def test_labels_of_a_source(tmp_path):
    path = tmp_path / "some.conll"
    path.write_text("a B-z\nb I-z\n\nc I-LOC\n\nd X-bad\ne B-left-out\n\nf B-PER\n")
    labels = source_labels("some", ConllRecords(path))
    assert labels == ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-z", "I-z"]


def test_a_source_without_entities_or_with_too_many_types(tmp_path):
    path = tmp_path / "some.conll"
    path.write_text("a O\n\nb PER\n\nc\n")
    with pytest.raises(
        InputError, match=r"^some: no sentence .*; some\.conll:3: last column isn't"
    ):
        source_labels("some", ConllRecords(path))
    path.write_text("a O\n")
    with pytest.raises(InputError, match="has an entity; expected tags such as"):
        source_labels("some", ConllRecords(path))
    path.write_text("\n".join(f"a B-{i}" for i in range(127)))
    assert len(source_labels("some", ConllRecords(path))) == 255
    path.write_text("\n".join(f"a B-{i}" for i in range(128)))
    with pytest.raises(InputError, match="has 128 types of entities; expected 127 at most"):
        source_labels("some", ConllRecords(path))


@pytest.mark.skipif("QA_DIST_TEST_DATA" not in os.environ, reason="QA_DIST_TEST_DATA isn't set")
@pytest.mark.parametrize(
    "name, num_entities", [("wikigold.conll.txt", 3558), ("FIN5.txt", 1168), ("FIN3.txt", 318)]
)
def test_real_files(name, num_entities):
    path = Path(os.environ["QA_DIST_TEST_DATA"]) / "data" / "ner" / name
    alone, together = ConllRecords(path), ConllRecords(path, by_document=True)
    passages = [read(*alone.read(i)["sentences"])[0] for i in range(len(alone.index))]
    documents = [read(*together.read(i)["sentences"])[0] for i in range(len(together.index))]
    sentences = [p.examples[0] for p in passages]
    assert [e.id for e in sentences] == [e.id for p in documents for e in p.examples]
    for passage, example in zip(passages, sentences, strict=True):
        assert passage.context.split(" ") == [passage.context[a:b] for a, b in example.words]
    found = [entity for e in sentences for entity in find_strict_entities(e.tags)]
    assert len(found) == num_entities
    expected = "O B-PER I-PER B-ORG I-ORG B-LOC I-LOC B-MISC I-MISC"
    assert source_labels(name, alone) == expected.split()
