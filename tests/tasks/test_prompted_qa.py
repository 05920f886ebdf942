"""Prompted questions: both kinds of files, each flaw named."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from qa_dist.data.sources import open_records
from qa_dist.records import Passage
from qa_dist.tasks import ceiling_score, prompted_qa
from qa_dist.tasks.fields import ID_IS_NUMBER

PUBMED = {
    "QUESTION": "Does it help?",
    "CONTEXTS": ["First part.", "Second part."],
    "LONG_ANSWER": "It helps. ",
    "final_decision": "yes",
}
LINE = {"id": "q1", "question": "What split?", "answer": "The text does not include that detail."}


def read(record: dict, group: str = "g") -> tuple[Passage, list[tuple[str, str]]]:
    reports: list[tuple[str, str]] = []
    passage = prompted_qa.read_passage(
        record, group, lambda *report: reports.append(report), for_training=True
    )
    return passage, reports


def test_pubmedqa():
    passage, reports = read(PUBMED, "12345")
    assert reports == []
    assert passage.context == "First part.\nSecond part."
    (example,) = passage.examples
    assert (example.id, example.group, example.rule) == ("12345", "12345", "prompted")
    assert example.question == "Does it help?"
    assert example.answers == ("It helps.",)
    assert example.facets == {"decision": "yes"}
    assert ceiling_score(prompted_qa, example, passage.context) == (1, 1)


def test_a_line_with_and_without_a_context():
    passage, reports = read({**LINE, "context": "A text."})
    assert reports == []
    assert passage.context == "A text."
    assert passage.examples[0].id == passage.examples[0].group == "q1"
    assert passage.examples[0].facets == {"answer_type": "no answer"}
    passage, _ = read({**LINE, "answer": "80/10/10", "context": None})
    assert passage.context == ""
    assert passage.examples[0].facets == {"answer_type": "text"}


@pytest.mark.parametrize(
    ("record", "record_id", "reason"),
    [
        ({**LINE, "id": None}, "g", 'has no text "id"'),
        ({**LINE, "question": 3}, "q1", 'record has no text "question"'),
        ({"id": "q1", "question": "Why?"}, "q1", 'record has no text "answer"'),
        ({**LINE, "answer": " "}, "q1", "question or answer is empty"),
        ({**LINE, "question": ""}, "q1", "question or answer is empty"),
        ({**LINE, "context": ["a"]}, "q1", '"context" isn\'t a text'),
        ({**PUBMED, "CONTEXTS": "a"}, "g", 'record has no list of texts "CONTEXTS"'),
        ({**PUBMED, "LONG_ANSWER": None}, "g", 'record has no text "LONG_ANSWER"'),
    ],
)
def test_flaws_are_named_and_dropped(record, record_id, reason):
    passage, reports = read(record)
    assert passage.examples == ()
    assert reports == [(record_id, reason)]


def test_a_number_as_id_is_read_as_text():
    passage, reports = read({**LINE, "id": 7})
    assert passage.examples[0].id == "7"
    assert reports == [("7", ID_IS_NUMBER)]


def test_all_of_pubmedqa(test_data: Path):
    path = test_data / "data/academic/pubmedqa-labelled.json"
    records = open_records(str(path), "train", prompted_qa.LEVELS, prompted_qa.count_questions)
    examples = []
    for i in range(len(records.index)):
        passage, reports = read(records.read(i), records.group_name(i))
        assert reports == []
        assert passage.context
        examples += passage.examples
    raw = json.loads(path.read_text())
    assert [e.id for e in examples] == list(raw)
    assert Counter(e.facets["decision"] for e in examples) == {"yes": 552, "no": 338, "maybe": 110}
    assert all(e.answers == (raw[e.id]["LONG_ANSWER"].strip(),) for e in examples)
