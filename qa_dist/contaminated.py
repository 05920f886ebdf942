"""Training questions that are dev questions too: left out when data is prepared, shown before that.

Only where a question stands for itself (task prompted_qa): CoQA asks many stories the same "Who?".
The very same question (text/contamination.py says what is the same) is never trained on, whatever
its context and answer; what is nearly the same stays, and is shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from qa_dist.data.raw_records import RecordIndex
from qa_dist.data.splits import question_offsets
from qa_dist.plan import Plan
from qa_dist.recipe import Recipe, Source
from qa_dist.records import BadRecordError
from qa_dist.source_files import choose, file_of, open_source, read_index
from qa_dist.tasks import TASKS
from qa_dist.text.contamination import NEAR, Pair, find_near, find_same
from qa_dist.text.metrics import normalize_answer

IN_DEV = "its question is in the dev data too"
_CHECKED = ("prompted_qa",)
_SHOWN = 5


def dev_questions(recipe: Recipe, number: int, part: str, folder: Path) -> frozenset[str]:
    """Return the normalised dev questions that "train" of source `number` mustn't hold; nothing for
    other parts. `folder`: of the prepared data."""
    source = recipe.sources[number]
    if part != "train" or source.task not in _CHECKED:
        return frozenset()
    file = file_of("dev", source)
    index = read_index(folder, recipe, number, file)
    questions = _questions(recipe, source, "dev", {file: index})
    return frozenset(normalize_answer(question) for _, question in questions)


def describe_contamination(recipe: Recipe, plan: Plan) -> Iterator[str]:
    """Yield a line for each thing to know about the plan's training questions: a dev file that is
    the training file, and questions that are in both."""
    for number, (source, files) in enumerate(zip(recipe.sources, plan.indexes, strict=True)):
        inputs = plan.facts["sources"][number]["inputs"]
        if inputs["train"] == inputs.get("dev"):
            yield (
                f"sources.{number}.dev={source.dev}: is the very file that is trained on, so its "
                "scores say nothing of new questions"
            )
        elif source.task in _CHECKED:
            train, dev = (_questions(recipe, source, part, files) for part in ("train", "dev"))
            if same := find_same(train, dev):
                yield (
                    f"train: {len(same):,} of {len(train):,} questions are in the dev data too and "
                    f"will be left out (train = dev: {_some(same, ' = ')})"
                )
            if near := find_near(train, dev):
                num = len({pair.train_number for pair in near})
                yield (
                    f"train: {num:,} are nearly dev questions ({NEAR:.0%} of the words or "
                    f"more) and stay (train ~ dev: {_some(near, ' ~ ')})"
                )


def _questions(
    recipe: Recipe, source: Source, part: str, files: Mapping[str, RecordIndex]
) -> list[tuple[str, str]]:
    """Return (id, question) of each question of a part: ids may occur more than once. What can't be
    read is left to prepare to report."""
    file = file_of(part, source)
    records, mask = choose(files, part, source)
    opened = open_source(recipe, source, file, files[file])
    first = question_offsets(files[file])
    found: list[tuple[str, str]] = []
    for record in records.tolist():
        try:
            raw = opened.read(record)
        except BadRecordError:
            continue
        passage = TASKS[source.task].read_passage(
            raw, opened.group_name(record), lambda *_: None, for_training=part == "train"
        )
        for example in passage.examples:
            if mask is None or mask[first[record] + example.ordinal]:
                found.append((example.id, example.question))
    return found


def _some(pairs: list[Pair], sign: str) -> str:
    texts = [f"{pair.train_id}{sign}{pair.dev_id}" for pair in pairs[:_SHOWN]]
    return ", ".join(texts) + (f" and {len(pairs) - _SHOWN} more" if len(pairs) > _SHOWN else "")
