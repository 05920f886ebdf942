"""Questions -> prompts with the answer behind them: for a language model that writes answers.

A window is one question: its prompt in the model's own chat template as the question's tokens, its
answer with the token that ends the turn as the context's. A context that is too long loses its end.
"""

from __future__ import annotations

from typing import cast

import numpy as np

from qa_dist.data.shard_writer import ShardWriter
from qa_dist.data.shards import KIND_SPAN
from qa_dist.data.tokenizer import load_chat_tokenizer
from qa_dist.recipe import Recipe, Source
from qa_dist.records import Example, InputError, Passage
from qa_dist.tasks.fields import CONTEXT_CUT
from qa_dist.text.metrics import Kind, question_scores
from qa_dist.text.prompts import Ask, Prompter, expected_answer, scored_answer
from qa_dist.text.windows import PairTemplate
from qa_dist.windowing.counts import Counts

TOO_LONG = "question and answer don't fit into data.max_length_tokens"


class TextMaker:
    """Turns passages into prompts and answers."""

    def __init__(self, recipe: Recipe, source: Source, part: str, counts: Counts) -> None:
        self.recipe, self.counts = recipe, counts
        tokenizer = load_chat_tokenizer(recipe.model.name)
        self.prompter = Prompter(tokenizer, recipe.model.name)
        self.vocab_size = max(tokenizer.get_vocab().values()) + 1
        self.classes: tuple[str, ...] = ()
        pad = self.prompter.pad_id
        self.template = PairTemplate((), (), (), (0, 0, 0, 0, 0), 0, sep_id=pad, pad_id=pad)
        # What a question that will be answered sees mustn't depend on its answer's length.
        self.answer_room = None if part == "train" else recipe.evaluation.max_new_tokens

    def add(self, writer: ShardWriter, passages: list[Passage]) -> None:
        """Tokenise the prompts and answers of some passages and write them."""
        for passage in passages:
            for example in passage.examples:
                self._add_example(writer, passage.context, example)

    def _add_example(self, writer: ShardWriter, context: str, example: Example) -> None:
        length, keep = self.recipe.data.max_length_tokens, 2 * self.recipe.data.history_turns
        history = example.history[-keep:] if keep else ()
        ask = Ask(example.rule, context, history, example.question)
        answer = expected_answer(example.answers)
        encoded = self.prompter.encode(ask, answer, length, self.answer_room)
        if encoded is None:
            if self.answer_room is not None:
                raise InputError(
                    f"{example.id}: its question and evaluation.max_new_tokens="
                    f"{self.answer_room} leave no room for any of its context in "
                    f"data.max_length_tokens={length}; raise the length"
                )
            self.counts.drop(example.id, TOO_LONG)
            return
        if encoded.cut_tokens:
            self.counts.drop(example.id, CONTEXT_CUT)
        size = len(encoded.answer)
        nowhere = np.zeros(size, dtype=np.uint32)
        number = writer.add_context("", np.array(encoded.answer), nowhere, nowhere)
        facts = {
            "id": example.id,
            "question": example.question,
            "answers": list(example.answers),
            "rule": example.rule,
            "group": example.group,
            "facets": example.facets,
        }
        row = writer.add_example(number, encoded.prompt, facts)
        target = (KIND_SPAN, 0, size - 1)
        writer.add_window(row, (0, size), target, len(encoded.prompt) + size, num_targets=size)
        rule = cast(Kind, example.rule)
        exact, f1 = question_scores(rule, scored_answer(rule, answer), example.answers)
        self.counts.examples += 1
        self.counts.ceiling[0] += exact
        self.counts.ceiling[1] += f1
