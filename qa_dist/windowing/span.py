"""Questions about contexts -> windows whose target is the answer's place: for extractive heads.

Each context and each distinct question is tokenised once; a window is a slice of the context with
the answer as its first and last token, if all of it is in there.
"""

from __future__ import annotations

from typing import Any

from qa_dist.data.shard_writer import ShardWriter
from qa_dist.data.shards import KIND_CLASS, KIND_NULL, KIND_SPAN
from qa_dist.data.tokenizer import LoadedTokenizer, load_tokenizer
from qa_dist.recipe import Recipe, Source
from qa_dist.records import Example, Passage
from qa_dist.tasks import TASKS, ceiling_score
from qa_dist.text.windows import (
    char_spans_to_tokens,
    cut_windows,
    encode_questions,
    is_in_window,
    join_question,
    question_limit,
)
from qa_dist.text.word_encoder import TextEncoder
from qa_dist.windowing.counts import Counts


class SpanMaker:
    """Turns passages into contexts, questions and windows."""

    def __init__(self, recipe: Recipe, source: Source, part: str, counts: Counts) -> None:
        self.data, self.task, self.counts = recipe.data, TASKS[source.task], counts
        self.part = part
        self.tokenizer: LoadedTokenizer = load_tokenizer(recipe.model.name, recipe.model.lower_case)
        self.encoder = TextEncoder(self.tokenizer.backend)
        self.template, self.vocab_size = self.tokenizer.template, self.tokenizer.vocab_size
        self.classes = self.task.ANSWER_CLASSES
        self.num_special = self.template.num_special_tokens
        self.hard_limit = question_limit(
            self.data.max_length_tokens, self.data.window_overlap_tokens, self.num_special
        )

    def add(self, writer: ShardWriter, passages: list[Passage]) -> None:
        """Tokenise a batch of passages, each context and each distinct question once, and write
        their windows."""
        contexts = self.encoder.encode([p.context for p in passages])
        keep = 2 * self.data.history_turns
        segments = [
            (*(e.history[-keep:] if keep else ()), e.question) for p in passages for e in p.examples
        ]
        token_ids = iter(
            encode_questions(
                self.tokenizer.backend, segments, self.tokenizer.sep_text, self.encoder.token_ids
            )
        )
        for passage, context in zip(passages, contexts, strict=True):
            number = writer.add_context(
                passage.context, context.token_ids, context.char_starts, context.char_ends
            )
            spans = char_spans_to_tokens(context, [e.target.char_span for e in passage.examples])
            for example, span in zip(passage.examples, spans, strict=True):
                *history, question = next(token_ids)
                tokens, num_cut = join_question(
                    history,
                    question,
                    self.template.sep_id,
                    self.data.max_question_tokens,
                    self.hard_limit,
                )
                self.counts.cut_questions += num_cut > 0
                row = writer.add_example(number, tokens, self._facts(example))
                exact, f1 = ceiling_score(self.task, example, passage.context)
                self.counts.examples += 1
                self.counts.ceiling[0] += exact
                self.counts.ceiling[1] += f1
                self._add_windows(writer, row, example, span, len(tokens), len(context.token_ids))

    def _facts(self, example: Example) -> dict[str, Any]:
        """Return what is kept of an example beside its tokens."""
        facts = {
            "id": example.id,
            "answers": list(example.answers),
            "rule": example.rule,
            "group": example.group,
            "facets": example.facets,
        }
        if self.part == "dev" and example.rule == "coqa":
            keep = 2 * self.data.history_turns
            facts["asked"] = {  # to ask again with other answers as history
                "question": example.question,
                "history": list(example.history[-keep:] if keep else ()),
                "at": len(example.history) // 2,
                # an empty turn isn't in the history of later ones (tasks/coqa.py)
                "is_kept": bool(example.question.strip() and example.answers[0].strip()),
            }
        return facts

    def _add_windows(
        self,
        writer: ShardWriter,
        row: int,
        example: Example,
        span: tuple[int, int] | None,
        num_question: int,
        num_context: int,
    ) -> None:
        """Cut a context of so many tokens for a question of so many; `span`: the answer's."""
        num_around = self.num_special + num_question
        room = self.data.max_length_tokens - num_around
        has_answer = False
        for window in cut_windows(num_context, room, self.data.window_overlap_tokens):
            target = self._target(example, span, window)
            has_answer |= target[0] != KIND_NULL
            writer.add_window(row, window, target, num_around + window[1] - window[0])
        self.counts.without_answer += not has_answer

    def _target(
        self, example: Example, span: tuple[int, int] | None, window: tuple[int, int]
    ) -> tuple[int, int, int]:
        """Return (kind, first token, last token): the answer only if all of it is in the window,
        else null."""
        if span is None or example.target.kind == "null" or not is_in_window(span, *window):
            return KIND_NULL, 0, 0
        if example.target.kind == "span":
            return KIND_SPAN, *span
        return KIND_CLASS + self.task.ANSWER_CLASSES.index(example.target.kind), *span
