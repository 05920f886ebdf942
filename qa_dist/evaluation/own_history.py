"""CoQA with the model's own answers as history: what a user of the model would get.

Published figures show the model the gold answers of the turns before. Here each conversation goes
on with what the model said itself: all conversations of a shard side by side, turn by turn, since a
turn's question is known only when the answers before it are.

Worked example. Turn 2 asks "what colour ?" after "who sat there ?", gold answer "a cat". The model
said "the dog" in turn 1, so its turn 2 is the question "who sat there ? [SEP] the dog [SEP] what
colour ?", whose windows are cut anew, with the same functions as when the data was prepared. Had it
said "a cat", the question were the same as in the shard, and so is the answer: nothing is computed.

In: a shard, its rows with gold history, and what predicts a shard. Out: the same rows with the
scores of the other history under "own". It must not know of models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from qa_dist.data.prepared import read_template
from qa_dist.data.shards import Shard, Split
from qa_dist.data.tokenizer import LoadedTokenizer, load_tokenizer
from qa_dist.recipe import Data, Recipe, Source, form_of, split_part
from qa_dist.text.windows import cut_windows, encode_questions, join_question, question_limit

OWN = "own"
_KEPT = ("text", "null_odds", "exact", "f1", "null_exact", "null_f1")

Row = dict[str, Any]


class Predictor(Protocol):
    """A model on one shard."""

    def rows(self) -> Iterator[tuple[int, Row | None]]:
        """Yield (windows done, row) for each question of the shard, in the shard's order; a row of
        None tells of progress alone.

        A row has id, group, rule, facets and the question's scores.
        """
        ...


def has_own_history(recipe: Recipe, source: Source, split: str) -> bool:
    """Return whether a source's split is asked a second time."""
    return (
        recipe.evaluation.own_history
        and recipe.data.history_turns > 0
        and source.task == "coqa"
        and form_of(recipe, source) == "span"
        and split_part(split) == "dev"
    )


Load = Callable[[Split], Predictor]
"""Returns what predicts a shard."""


class OwnHistoryPredictor:
    """A model on one shard of CoQA, with either history."""

    def __init__(self, recipe: Recipe, data: Split, null_text: str, load: Load) -> None:
        self.recipe, self.data, self.null_text, self.load = recipe, data, null_text, load

    def rows(self) -> Iterator[tuple[int, Row | None]]:
        """Yield as Predictor does; a row has the other history's scores under "own"."""
        rows: list[Row] = []
        done = 0
        for done, row in self.load(self.data).rows():
            if row is not None:
                rows.append(row)
            yield done, None
        for _ in add_own_history(self.recipe, self.data, rows, self.null_text, self.load):
            yield done, None
        for row in rows:
            yield self.data.num_windows, row


def add_own_history(
    recipe: Recipe, data: Split, rows: Sequence[Row], null_text: str, load: Load
) -> Iterator[None]:
    """Put into each row of a shard, under "own", what comes of the model's own answers as history.

    Yields at each question that was asked again. The answers are those at a null threshold of 0
    ("unknown" where the model gives none). A turn that isn't among the questions (dropped, or not
    drawn) keeps its gold answer.
    """
    shard = data.shards[0]
    asker = _Asker(recipe.data, load_tokenizer(recipe.model.name, recipe.model.lower_case), data)
    facts = [shard.example(example) for example in range(shard.num_examples)]
    said: dict[int, dict[int, str]] = {}  # context -> number of the turn's pair -> our answer
    for examples in _turns(shard):
        answers = [said.setdefault(int(shard["example_context"][e]), {}) for e in examples]
        questions = asker.questions([facts[e]["asked"] for e in examples], answers)
        found = {e: rows[e] for e in examples}
        others = [
            (example, question)
            for example, question in zip(examples, questions, strict=True)
            if not _is_same(question, shard, example)
        ]
        if others:
            waiting = iter(others)
            for _, row in load(asker.split(data, others)).rows():
                if row is not None:
                    found[next(waiting)[0]] = row
                yield
        for example, own in zip(examples, answers, strict=True):
            row = found[example]
            rows[example][OWN] = {key: row[key] for key in _KEPT}
            asked = facts[example]["asked"]
            if asked["is_kept"]:
                own[asked["at"]] = _answer(row, null_text)


def _is_same(question: Sequence[int], shard: Shard, example: int) -> bool:
    return bool(np.array_equal(question, shard.ragged("question_tokens", example)))


def _turns(shard: Shard) -> Iterator[list[int]]:
    """Yield the first example of each context, then the second of each that has one, ..."""
    by_context: dict[int, list[int]] = {}
    for example, context in enumerate(shard["example_context"].tolist()):
        by_context.setdefault(context, []).append(example)
    for turn in range(max(map(len, by_context.values()), default=0)):
        yield [examples[turn] for examples in by_context.values() if turn < len(examples)]


def _answer(row: Mapping[str, Any], null_text: str) -> str:
    odds = row["null_odds"]
    return null_text if odds is None or odds > 0 else str(row["text"])


class _Asker:
    """Makes questions with another history, and their windows, as the prepare stage does."""

    def __init__(self, settings: Data, tokenizer: LoadedTokenizer, data: Split) -> None:
        self.settings, self.tokenizer = settings, tokenizer
        self.num_special = read_template(data).num_special_tokens
        self.hard_limit = question_limit(
            settings.max_length_tokens, settings.window_overlap_tokens, self.num_special
        )

    def questions(
        self, asked: Sequence[Mapping[str, Any]], answers: Sequence[Mapping[int, str]]
    ) -> list[list[int]]:
        """Return the tokens of each question, our answers in the gold ones' places of its history.

        `asked`: {"question", "history": questions and answers in turn, oldest first, "at": how many
        such pairs the conversation has had by then, ...}.
        """
        segments = []
        for one, own in zip(asked, answers, strict=True):
            history = list(one["history"])
            first = one["at"] - len(history) // 2
            for place in range(1, len(history), 2):
                history[place] = own.get(first + place // 2, history[place])
            segments.append((*history, one["question"]))
        encoded = encode_questions(self.tokenizer.backend, segments, self.tokenizer.sep_text)
        return [
            join_question(
                history,
                question,
                self.tokenizer.template.sep_id,
                self.settings.max_question_tokens,
                self.hard_limit,
            )[0]
            for *history, question in encoded
        ]

    def split(self, data: Split, asked: Sequence[tuple[int, Sequence[int]]]) -> Split:
        """Return some examples of a shard, (number, tokens of the question), as a shard of its own
        in memory."""
        shard = data.shards[0]
        windows = []
        for row, (example, question) in enumerate(asked):
            context = int(shard["example_context"][example])
            used = self.num_special + len(question)
            num_tokens = len(shard.ragged("context_tokens", context))
            room = self.settings.max_length_tokens - used
            for start, end in cut_windows(num_tokens, room, self.settings.window_overlap_tokens):
                windows.append((row, start, end, used + end - start))
        derived = shard.asked_otherwise(
            [example for example, _ in asked], [q for _, q in asked], windows
        )
        return Split((derived,), np.array([len(windows)], dtype=np.int64))
