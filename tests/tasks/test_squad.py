"""SQuAD questions: the right span or none, everything counted, no dev question lost."""

import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qa_dist.data.sources import open_records
from qa_dist.records import NULL_KIND, Passage, Target
from qa_dist.tasks import ceiling_score, squad
from qa_dist.tasks.fields import (
    EMPTY_TEXT,
    ID_IS_NUMBER,
    KEPT_REASONS,
    NO_TARGET,
    START_REPAIRED,
)

CONTEXT = "A cat saw two cats and a dog."
DATA = os.environ.get("QA_DIST_TEST_DATA")


def answer(text: object = "cat", start: object = 2) -> dict:
    return {"text": text, "answer_start": start}


def question(question_id: object = "q", answers: object = None, **other: object) -> dict:
    answers = [answer()] if answers is None else answers
    return {"id": question_id, "question": "Who saw?", "answers": answers, **other}


def read(
    *questions: object, context: object = CONTEXT, for_training: bool = True
) -> tuple[Passage, list[tuple[str, str]]]:
    reports: list[tuple[str, str]] = []
    record = {"context": context, "qas": list(questions)}
    passage = squad.read_passage(
        record, "Title", lambda *report: reports.append(report), for_training
    )
    return passage, reports


def test_squad_v1():
    passage, reports = read(question(answers=[answer(), answer("A cat", 0)]))
    assert reports == []
    assert passage.context == CONTEXT
    (example,) = passage.examples
    assert example.id == "q"
    assert example.question == "Who saw?"
    assert example.history == ()
    assert example.target == Target("span", (2, 5))
    assert example.answers == ("cat", "A cat")
    assert (example.rule, example.group) == ("squad_v1", "Title")
    assert example.facets == {"answer_type": "span"}
    assert squad.target_text(example, CONTEXT) == "cat"


def test_squad_v2():
    plausible = {"plausible_answers": [answer()]}
    passage, reports = read(
        question("a", is_impossible=False),
        question("b", answers=[], is_impossible=True, **plausible),
    )
    assert reports == []
    assert [example.rule for example in passage.examples] == ["squad_v2", "squad_v2"]
    unanswerable = passage.examples[1]
    assert unanswerable.target == Target(NULL_KIND)
    assert unanswerable.answers == ()
    assert unanswerable.facets == {"answer_type": "no answer"}
    assert squad.target_text(unanswerable, CONTEXT) == ""
    assert ceiling_score(squad, unanswerable, CONTEXT) == (1, 1)


def test_no_answers_and_no_mark_is_scored_as_unanswerable():
    passage, reports = read(question(answers=[]))
    assert reports == []
    assert passage.examples[0].rule == "squad_v2"
    assert passage.examples[0].target == Target(NULL_KIND)


# --- D3: wrong starts ---


def test_a_wrong_start_is_repaired_where_the_text_stands_once():
    passage, reports = read(question(answers=[answer("dog", 3)]))
    assert reports == [("q", START_REPAIRED)]
    assert START_REPAIRED in KEPT_REASONS
    assert squad.target_text(passage.examples[0], CONTEXT) == "dog"


BAD_SPANS = {
    "start of the answer is wrong and its text occurs several times": [answer("cat", 3)],
    "start of the answer is wrong and its text isn't in the context": [answer("fish", 2)],
    "text of the answer's span is empty": [answer("", 2)],
}


@pytest.mark.parametrize("reason", BAD_SPANS)
def test_a_bad_span_is_not_trained_on_but_scored(reason):
    bad = question(answers=BAD_SPANS[reason])
    passage, reports = read(bad, question("good"))
    assert [example.id for example in passage.examples] == ["good"]
    assert reports == [("q", reason)]
    assert reason not in KEPT_REASONS
    passage, reports = read(bad, question("good"), for_training=False)
    assert [example.id for example in passage.examples] == ["q", "good"]
    assert reports == [("q", NO_TARGET)]
    assert passage.examples[0].target == Target(NULL_KIND)
    assert passage.examples[0].answers == (BAD_SPANS[reason][0]["text"],)


def test_another_answer_is_taken_where_the_first_has_no_place():
    passage, reports = read(question(answers=[answer("fish", 2), answer("dog", 25)]))
    assert reports == []
    assert squad.target_text(passage.examples[0], CONTEXT) == "dog"
    assert passage.examples[0].answers == ("fish", "dog")


@given(
    st.text("ab. ", max_size=30),
    st.text("ab. ", min_size=1, max_size=4),
    st.integers(-3, 40) | st.none(),
)
def test_what_is_trained_on_is_always_the_answer(context, text, start):
    passage, reports = read(question(answers=[answer(text, start)]), context=context)
    for example in passage.examples:
        assert squad.target_text(example, context) == text.strip()
    assert len(passage.examples) + sum(reason not in KEPT_REASONS for _, reason in reports) == 1


# --- D4: empty ---


@pytest.mark.parametrize(
    "bad, context",
    [(question(), " \n"), (question(), ""), (question() | {"question": " "}, "x cat")],
)
def test_empty_texts_are_scored_only(bad, context):
    passage, reports = read(bad, context=context)
    assert passage.examples == ()
    assert reports == [("q", "context or question is empty")]
    passage, reports = read(bad, context=context, for_training=False)
    assert passage.context == context
    assert len(passage.examples) == 1
    assert ("q", EMPTY_TEXT) in reports
    assert ceiling_score(squad, passage.examples[0], context)


def test_contradictory_marks_are_scored_by_their_answers():
    bad = [question("a", is_impossible=True), question("b", answers=[], is_impossible=False)]
    passage, reports = read(*bad)
    assert passage.examples == ()
    assert reports == [
        ("a", "is_impossible is true, but there are answers"),
        ("b", "is_impossible is false, but there is no answer"),
    ]
    passage, _ = read(*bad, for_training=False)
    assert [example.answers for example in passage.examples] == [("cat",), ()]


# --- D2, D7: structure and ids ---

BROKEN = {
    "question isn't an object": "x",
    'has no text "id"': question(None),
    'question has no text "question"': question() | {"question": 3},
    'has no list "answers"': question(answers={"text": ["cat"]}),
    'answer has no text "text"': question(answers=[answer(), answer(7)]),
    '"is_impossible" isn\'t true or false': question(is_impossible="no"),
}


@pytest.mark.parametrize("for_training", [True, False])
@pytest.mark.parametrize("reason", BROKEN)
def test_broken_questions_are_dropped(reason, for_training):
    passage, reports = read(BROKEN[reason], question("good"), for_training=for_training)
    assert [example.id for example in passage.examples] == ["good"]
    assert [found for _, found in reports] == [reason]
    assert reports[0][0] in ("q", "Title")
    assert reason not in KEPT_REASONS


@pytest.mark.parametrize("for_training", [True, False])
def test_broken_context_drops_each_question(for_training):
    passage, reports = read(question("a"), question("b"), context=3, for_training=for_training)
    assert passage == Passage("", ())
    reason = 'paragraph has no text "context"'
    assert reports == [("a", reason), ("b", reason)]


@pytest.mark.parametrize("record", [{}, {"context": CONTEXT}, {"context": CONTEXT, "qas": {}}])
def test_paragraph_without_questions(record):
    reports = []
    passage = squad.read_passage(record, "Title", lambda *report: reports.append(report), True)
    assert passage.examples == ()
    assert reports == [("Title", 'paragraph has no list "qas"')]
    assert squad.count_questions(record) == 0


def test_ids_are_text_and_unique():
    passage, reports = read(question(7), question("7", answers=[answer("dog", 25)]), question(8))
    assert [example.id for example in passage.examples] == ["7", "8"]
    assert passage.examples[0].answers == ("cat",)
    assert reports == [
        ("7", ID_IS_NUMBER),
        ("7", "id occurs twice in the paragraph, the first is kept"),
        ("8", ID_IS_NUMBER),
    ]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["context", "qas", "id", "question", "answers", "text", "answer_start"]
                ),
                inner,
                max_size=5,
            )
        ),
        max_leaves=25,
    ),
    st.booleans(),
)
def test_any_json_is_read_or_reported(record, for_training):
    if isinstance(record, dict):
        squad.read_passage(record, "Title", lambda *_: None, for_training)


# --- Real data ---


@pytest.mark.skipif(not DATA, reason="QA_DIST_TEST_DATA isn't set")
def test_covid_qa_starts_are_repaired_or_dropped():
    records = open_records(str(Path(DATA or "") / "data/covid-qa/covidqa.json"), "train")
    reasons: Counter[str] = Counter()
    num_read = 0
    for i in range(len(records.index)):
        passage = squad.read_passage(
            records.read(i), records.group_name(i), lambda _, reason: reasons.update([reason]), True
        )
        for example in passage.examples:
            num_read += 1
            assert squad.target_text(example, passage.context) == example.answers[0].strip()
    dropped = sum(count for reason, count in reasons.items() if reason not in KEPT_REASONS)
    assert num_read + dropped == 1380
    assert reasons[START_REPAIRED] + dropped == 234
    assert dropped < 12


@pytest.mark.skipif(not DATA, reason="QA_DIST_TEST_DATA isn't set")
@pytest.mark.parametrize("name", ["dev-v1.1", "dev-v2.0"])
@pytest.mark.parametrize("for_training", [True, False])
def test_squad_dev_is_read_whole(name, for_training):
    records = open_records(str(Path(DATA or "") / f"data/squad/{name}.json"), "dev")
    reports: list[tuple[str, str]] = []
    num_read = 0
    for i in range(len(records.index)):
        passage = squad.read_passage(
            records.read(i), "x", lambda *report: reports.append(report), for_training
        )
        num_read += len(passage.examples)
        for example in passage.examples:
            assert ceiling_score(squad, example, passage.context) == (1, 1)
    assert reports == []
    assert num_read == records.index.num_questions.sum()
