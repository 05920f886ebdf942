"""The kinds of data sets, one module each: how a record of its files becomes a Passage of Examples.

`task: coqa` in a recipe is tasks/coqa.py, by way of the literal dict TASKS. To add a data set,
write its module, which mypy checks against Task, and name it here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

from qa_dist.recipe import Recipe, Source, form_of
from qa_dist.records import Example, Passage
from qa_dist.tasks import coqa, ner, prompted_qa, squad
from qa_dist.text.metrics import Kind, question_scores


class Task(Protocol):
    """What a module of this folder has."""

    ANSWER_CLASSES: tuple[str, ...]
    """Answers that aren't spans, in the order of the model's class logits."""
    NULL_CLASS: str | None
    """The class that says "no answer"; None: the CLS token's position does."""
    NULL_TEXT: str
    """What is answered where no answer is given."""
    LEVELS: tuple[str, ...]
    """Keys of the lists that lead to a record in the JSON file; none: data/flat_records.py."""

    def count_questions(self, record: Mapping[str, Any]) -> int:
        """Count the questions of one record, usable or not."""
        ...

    def read_passage(
        self,
        record: Mapping[str, Any],
        group: str,
        report: Callable[[str, str], None],
        for_training: bool,
    ) -> Passage:
        """Turn a record into a Passage; `report(question id, reason)` names each flaw.

        A reported question is dropped unless the reason is one of fields.KEPT_REASONS. Not for
        training, all that can be scored is kept, with a null target where its span can't be used.
        """
        ...

    def target_text(self, example: Example, context: str) -> str:
        """Return what a model that hits the target exactly would answer."""
        ...


TASKS: dict[str, Task] = {"squad": squad, "coqa": coqa, "ner": ner, "prompted_qa": prompted_qa}


def null_class(recipe: Recipe, source: Source) -> int | None:
    """Return which class says "no answer" (0 where nothing is looked for in a context); None: the
    CLS token's position does."""
    if form_of(recipe, source) != "span":
        return 0
    task = TASKS[source.task]
    return None if task.NULL_CLASS is None else task.ANSWER_CLASSES.index(task.NULL_CLASS)


def ceiling_score(task: Task, example: Example, context: str) -> tuple[float, float]:
    """Score the target itself against the references: (exact, F1), the most a model can learn."""
    kind = cast(Kind, example.rule)
    return question_scores(kind, task.target_text(example, context), example.answers)
