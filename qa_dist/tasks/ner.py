"""Named entities: a sentence with a tag on each word -> Passage, an Example per sentence.

In: a record of data/conll.py or data/tagged_rows.py, one sentence or all of a document. Out: its
words joined by single blanks as the context, and an Example per sentence with the place of each
word in there and its IOB2 tag. Nothing is asked: `question` is empty, and so are the references,
since the tags themselves are scored. Knows no tokens and no files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qa_dist.data.sources import Records
from qa_dist.records import NULL_KIND, Example, InputError, Passage, Target
from qa_dist.tasks.fields import Report
from qa_dist.text.tags import label_names, to_iob2, type_of

ANSWER_CLASSES: tuple[str, ...] = ()
NULL_CLASS: str | None = None
NULL_TEXT: str = ""
LEVELS: tuple[str, ...] = ()
RULE = "ner"
MAX_TYPES = 127  # two labels each and O: their numbers are kept as a byte


def count_questions(record: Mapping[str, Any]) -> int:
    """Count the sentences of one record, usable or not."""
    sentences = record.get("sentences")
    return len(sentences) if isinstance(sentences, list) else 0


def read_passage(
    record: Mapping[str, Any], group: str, report: Report, for_training: bool
) -> Passage:
    """Turn a record into a Passage; `report(place, reason)` names each sentence that is left out.

    Tags come out in IOB2, whether the file has them so or in IOB1. group: the document's name.
    """
    parts: list[str] = []
    examples: list[Example] = []
    position = 0
    for ordinal, sentence in enumerate(record["sentences"]):
        if "reason" in sentence:
            report(sentence["where"], sentence["reason"])
            continue
        spans = []
        for word in sentence["words"]:
            spans.append((position, position + len(word)))
            position += len(word) + 1
        parts += sentence["words"]
        examples.append(
            Example(
                id=sentence["id"],
                question="",
                history=(),
                target=Target(NULL_KIND),
                answers=(),
                rule=RULE,
                group=group,
                ordinal=ordinal,
                words=tuple(spans),
                tags=to_iob2(sentence["tags"]),
            )
        )
    return Passage(" ".join(parts), tuple(examples))


def target_text(example: Example, context: str) -> str:
    """Return nothing: what is aimed at are tags, not a text."""
    return NULL_TEXT


def source_labels(name: str, records: Records) -> list[str]:
    """Return the labels of a model for the entities that a source's sentences hold; reads all of
    it. Raises InputError if they hold none, or too many types; `name`: the source's."""
    types: set[str] = set()
    problem = ""
    for number in range(len(records.index)):
        for sentence in records.read(number)["sentences"]:
            if "reason" in sentence:
                problem = problem or f"; {sentence['where']}: {sentence['reason']}"
            types.update(type_of(tag) for tag in sentence.get("tags", ()))
    types.discard("")
    if not types:
        raise InputError(
            f"{name}: no sentence that can be used has an entity{problem}; expected tags such as "
            '"B-PER" and "I-PER" in the last column, or in ner_tags'
        )
    if len(types) > MAX_TYPES:
        raise InputError(
            f"{name}: has {len(types)} types of entities; expected {MAX_TYPES} at most"
        )
    return label_names(types)
