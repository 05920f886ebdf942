"""Questions answered in free text, after a prompt: JSON Lines, or PubMedQA's JSON.

In: one record, `{id, question, answer, context?}`, or one of PubMedQA's (QUESTION, CONTEXTS,
LONG_ANSWER, final_decision; its id is its key). Out: a Passage with one Example. There is no span:
what is learnt is the answer's text. Knows no prompt (text/prompts.py) and no tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qa_dist.records import NULL_KIND, BadRecordError, Example, Passage, Target
from qa_dist.tasks.fields import Report, read_id, read_text
from qa_dist.text.prompted_metrics import is_refusal

ANSWER_CLASSES: tuple[str, ...] = ()
NULL_CLASS: str | None = None
NULL_TEXT: str = ""
LEVELS: tuple[str, ...] = ()

RULE = "prompted"


def count_questions(record: Mapping[str, Any]) -> int:
    """Return 1 for a record with a question, usable or not; else 0."""
    return int("question" in record or "QUESTION" in record)


def read_passage(
    record: Mapping[str, Any], group: str, report: Report, for_training: bool
) -> Passage:
    """Turn a record into a Passage with its question; `report(question id, reason)` names flaws.

    A reported question is dropped, unless the reason is one of fields.KEPT_REASONS. group: the id
    of a PubMedQA record, else it stands for an id that is missing in reports.
    """
    try:
        if "QUESTION" in record:
            context, example = _read_pubmed(record, group)
        else:
            context, example = _read_line(record, group, report)
        if not example.question.strip() or not example.answers[0].strip():
            raise BadRecordError(example.id, "question or answer is empty")
    except BadRecordError as error:
        report(error.record_id, error.reason)
        return Passage("", ())
    return Passage(context, (example,))


def target_text(example: Example, context: str) -> str:
    """Return what a model that has learnt the target exactly would answer."""
    return example.answers[0]


def _read_line(record: Mapping[str, Any], group: str, report: Report) -> tuple[str, Example]:
    question_id = read_id(record, group, report)
    question = read_text(record, "question", question_id, "record")
    answer = read_text(record, "answer", question_id, "record")
    context = record.get("context")
    if context is not None and not isinstance(context, str):
        raise BadRecordError(question_id, '"context" isn\'t a text')
    kind = "no answer" if is_refusal(answer) else "text"
    return context or "", _example(question_id, question, answer, {"answer_type": kind})


def _read_pubmed(record: Mapping[str, Any], group: str) -> tuple[str, Example]:
    question = read_text(record, "QUESTION", group, "record")
    answer = read_text(record, "LONG_ANSWER", group, "record")
    contexts = record.get("CONTEXTS")
    if not isinstance(contexts, list) or not all(isinstance(text, str) for text in contexts):
        raise BadRecordError(group, 'record has no list of texts "CONTEXTS"')
    decision = record.get("final_decision")
    facets = {"decision": decision} if isinstance(decision, str) else {}
    return "\n".join(contexts), _example(group, question, answer, facets)


def _example(question_id: str, question: str, answer: str, facets: dict[str, str]) -> Example:
    return Example(
        id=question_id,
        question=question,
        history=(),
        target=Target(NULL_KIND),
        answers=(answer.strip(),),
        rule=RULE,
        group=question_id,
        facets=facets,
    )
