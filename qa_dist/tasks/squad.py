"""SQuAD 1.1 and 2.0: a paragraph of the JSON file -> Passage, an Example per question.

In: one record, a context with its questions. Out: both as a Passage. A question with the key
"is_impossible" is scored as SQuAD 2.0, one without as 1.1. The target is the first answer that
stands where it should. A wrong `answer_start` is repaired only if the text occurs once; otherwise
nothing is trained on it. Knows no tokens and no files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qa_dist.data.raw_records import count_paragraph_questions
from qa_dist.records import NULL_KIND, SPAN, BadRecordError, Example, Passage, Target
from qa_dist.tasks.fields import (
    EMPTY_TEXT,
    NO_TARGET,
    START_REPAIRED,
    Report,
    place_text,
    read_id,
    read_text,
)

ANSWER_CLASSES: tuple[str, ...] = ()
NULL_CLASS: str | None = None
NULL_TEXT: str = ""
LEVELS: tuple[str, ...] = ("data", "paragraphs")


def count_questions(record: Mapping[str, Any]) -> int:
    """Count the questions of one paragraph, usable or not."""
    return count_paragraph_questions(record)


def read_passage(
    record: Mapping[str, Any], group: str, report: Report, for_training: bool
) -> Passage:
    """Turn a paragraph into a Passage; `report(question id, reason)` names each flaw.

    A reported question is dropped unless the reason is one of KEPT_REASONS. Not for training, every
    question with an id, texts and references is kept, as the official script scores it; where its
    span can't be used its target is null. group: the article's title.
    """
    context, questions = record.get("context"), record.get("qas")
    if not isinstance(questions, list):
        report(group, 'paragraph has no list "qas"')
        return Passage("", ())
    examples: dict[str, Example] = {}
    for ordinal, question in enumerate(questions):
        try:
            example = _read_question(question, ordinal, context, group, report, for_training)
        except BadRecordError as error:
            report(error.record_id, error.reason)
            continue
        if example.id in examples:
            report(example.id, "id occurs twice in the paragraph, the first is kept")
            continue
        examples[example.id] = example
    return Passage(context if isinstance(context, str) else "", tuple(examples.values()))


def target_text(example: Example, context: str) -> str:
    """Return what a model that hits the target exactly would answer."""
    span = example.target.char_span
    return context[span[0] : span[1]] if example.target.kind == SPAN and span else NULL_TEXT


def _read_question(
    question: Any, ordinal: int, context: Any, group: str, report: Report, for_training: bool
) -> Example:
    if not isinstance(question, Mapping):
        raise BadRecordError(group, "question isn't an object")
    question_id = read_id(question, group, report)
    if not isinstance(context, str):
        raise BadRecordError(question_id, 'paragraph has no text "context"')
    text = read_text(question, "question", question_id, "question")
    if not context.strip() or not text.strip():
        if for_training:
            raise BadRecordError(question_id, "context or question is empty")
        report(question_id, EMPTY_TEXT)
    answers = _read_answers(question, question_id)
    is_impossible = question.get("is_impossible")
    if is_impossible not in (None, True, False):
        raise BadRecordError(question_id, '"is_impossible" isn\'t true or false')
    try:
        target, is_repaired = _find_target(context, answers, is_impossible, question_id)
        if is_repaired:
            report(question_id, START_REPAIRED)
    except BadRecordError:
        if for_training:
            raise
        target = Target(NULL_KIND)
        report(question_id, NO_TARGET)
    # Without answers there is nothing that SQuAD 1.1 could score.
    is_v2 = is_impossible is not None or not answers
    return Example(
        id=question_id,
        question=text,
        history=(),
        target=target,
        answers=tuple(answer["text"] for answer in answers),
        rule="squad_v2" if is_v2 else "squad_v1",
        group=group,
        ordinal=ordinal,
        facets={"answer_type": "span" if answers else "no answer"},
    )


def _read_answers(question: Mapping[str, Any], question_id: str) -> list[Mapping[str, Any]]:
    answers = question.get("answers")
    if not isinstance(answers, list):
        raise BadRecordError(question_id, 'has no list "answers"')
    for answer in answers:
        read_text(answer, "text", question_id, "answer")
    return answers


def _find_target(
    context: str, answers: list[Mapping[str, Any]], is_impossible: bool | None, question_id: str
) -> tuple[Target, bool]:
    """Return the target, and whether its start was repaired; BadRecordError if there is none."""
    if not answers:
        if is_impossible is False:
            raise BadRecordError(question_id, "is_impossible is false, but there is no answer")
        return Target(NULL_KIND), False
    if is_impossible:
        raise BadRecordError(question_id, "is_impossible is true, but there are answers")
    reasons = []
    for answer in answers:
        try:
            span, is_repaired = place_text(
                context, answer["text"], answer.get("answer_start"), question_id
            )
        except BadRecordError as error:
            reasons.append(error)
            continue
        return Target(SPAN, span), is_repaired
    raise reasons[0]
