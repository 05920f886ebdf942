"""Questions -> prompts with the answer behind them: for a language model that writes answers.

A window is one question: its prompt in the model's own chat template as the question's tokens, its
answer with the token that ends the turn as the context's. A context that is too long loses its end.
A question that will be scored is never left out: with no room for its context it is asked alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np

from qa_dist.data.shard_writer import ShardWriter
from qa_dist.data.shards import KIND_SPAN
from qa_dist.data.tokenizer import load_chat_tokenizer
from qa_dist.recipe import Recipe, Source
from qa_dist.recipe_checks import show_value
from qa_dist.records import Example, InputError, Passage
from qa_dist.tasks.fields import CONTEXT_CUT, CONTEXT_LEFT_OUT
from qa_dist.text.metrics import Kind, question_scores
from qa_dist.text.prompts import Ask, Prompted, Prompter, expected_answer, scored_answer
from qa_dist.text.windows import PairTemplate
from qa_dist.windowing.counts import Counts

TOO_LONG = "question and answer don't fit into data.max_length_tokens"


def check_prompts(name: str) -> None:
    """Raise InputError if no prompts can be made with the tokenizer of `model.name`: it isn't fast,
    its template refuses what is asked, or no token ends an answer. Loads it: takes seconds."""
    Prompter(load_chat_tokenizer(name), name)


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
        if encoded is None and self.answer_room is None:
            self.counts.drop(example.id, TOO_LONG)
            return
        if encoded is None:
            encoded = self._without_context(example, ask, answer)
            self.counts.drop(example.id, CONTEXT_LEFT_OUT)
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

    def _without_context(self, example: Example, ask: Ask, answer: str) -> Prompted:
        """Return the prompt of a question that must be scored and whose context has no room: with
        its history, else alone. Raises InputError if that doesn't fit, or bad records stop it."""
        length = self.recipe.data.max_length_tokens
        if self.recipe.data.on_bad_record == "skip":
            for fewer in (replace(ask, context=""), replace(ask, context="", history=())):
                encoded = self.prompter.encode(fewer, answer, length, self.answer_room)
                if encoded is not None:
                    return encoded
            what, advice = "don't fit into", "raise the length"
        else:
            what = "leave no room for any of its context in"
            advice = (
                "raise the length, or give data.on_bad_record=skip to ask such questions without it"
            )
        raise InputError(
            f"{show_value(example.id)}: its question and evaluation.max_new_tokens="
            f"{self.answer_room} {what} data.max_length_tokens={length}; {advice}"
        )
