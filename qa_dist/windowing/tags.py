"""Tagged sentences -> windows that label the first token of each word: for the tag head.

A context is a sentence or, with data.document_context, a document, tokenised once. A window is
[CLS] slice [SEP] and says which of its tokens it labels; a sentence's windows label each word once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from qa_dist.data.shard_writer import ShardWriter
from qa_dist.data.shards import KIND_SPAN, NO_LABEL
from qa_dist.data.tokenizer import LoadedTokenizer, load_tokenizer
from qa_dist.recipe import Recipe
from qa_dist.records import Example, Passage
from qa_dist.tasks.fields import NO_SUCH_TYPE, NO_TOKENS
from qa_dist.text.sentences import NO_TOKEN, cut_sentence_windows, first_tokens, sentence_tokens
from qa_dist.text.tags import OUTSIDE, all_types, count_sentence, rates
from qa_dist.text.windows import PairTemplate, TokenizedContext
from qa_dist.text.word_encoder import TextEncoder
from qa_dist.windowing.counts import Counts


class TagMaker:
    """Turns passages into contexts with labels, examples and windows."""

    def __init__(self, recipe: Recipe, counts: Counts, labels: Sequence[str]) -> None:
        """labels: their names by number; "O" is 0."""
        self.data, self.counts, self.classes = recipe.data, counts, list(labels)
        self.tokenizer: LoadedTokenizer = load_tokenizer(recipe.model.name, recipe.model.lower_case)
        self.encoder = TextEncoder(self.tokenizer.backend)
        self.template, self.vocab_size = single_template(self.tokenizer), self.tokenizer.vocab_size
        self._numbers = {name: number for number, name in enumerate(labels)}

    def add(self, writer: ShardWriter, passages: list[Passage]) -> None:
        """Tokenise a batch of passages and write their windows."""
        contexts = self.encoder.encode([p.context for p in passages])
        for passage, context in zip(passages, contexts, strict=True):
            labels = np.full(len(context.token_ids), NO_LABEL, dtype=np.uint8)
            firsts = [first_tokens(context, example.words) for example in passage.examples]
            for example, first in zip(passage.examples, firsts, strict=True):
                self._put_labels(example, first, labels)
            number = writer.add_context(
                passage.context, context.token_ids, context.char_starts, context.char_ends, labels
            )
            for example, first in zip(passage.examples, firsts, strict=True):
                self._add_example(writer, number, context, example, first, labels)

    def _put_labels(
        self, example: Example, first: NDArray[np.int64], labels: NDArray[np.uint8]
    ) -> None:
        """Label a sentence's words, and count what a model can't get right."""
        numbers = [self._numbers.get(tag, NO_LABEL) for tag in example.tags]
        labels[first[first != NO_TOKEN]] = np.array(numbers, np.uint8)[first != NO_TOKEN]
        if NO_LABEL in numbers:
            self.counts.drop(example.id, NO_SUCH_TYPE)
        if (first == NO_TOKEN).any():
            self.counts.drop(example.id, NO_TOKENS)
        best = [
            tag if token != NO_TOKEN and tag in self._numbers else OUTSIDE
            for tag, token in zip(example.tags, first.tolist(), strict=True)
        ]
        entities = all_types(count_sentence(example.tags, best).default)
        self.counts.examples += 1
        self.counts.ceiling[0] += best == list(example.tags)
        self.counts.ceiling[1] += rates(entities).f1 if entities.gold or entities.found else 1.0

    def _add_example(
        self,
        writer: ShardWriter,
        context_number: int,
        context: TokenizedContext,
        example: Example,
        first: NDArray[np.int64],
        labels: NDArray[np.uint8],
    ) -> None:
        facts = {
            "id": example.id,
            "words": example.words,
            "tags": example.tags,
            "rule": example.rule,
            "group": example.group,
            "facets": example.facets,
        }
        number = writer.add_example(context_number, (), facts)
        room = self.data.max_length_tokens - self.template.num_special_tokens
        windows = cut_sentence_windows(
            len(context.token_ids),
            sentence_tokens(context, example.words),
            room,
            self.data.window_overlap_tokens,
        )
        has_words = False
        for window in windows:
            if not ((first >= window.first) & (first <= window.last)).any():
                continue
            has_words = True
            labelled = labels[window.first : window.last + 1]
            writer.add_window(
                number,
                (window.window_from, window.window_to),
                (KIND_SPAN, window.first, window.last),
                self.template.num_special_tokens + window.window_to - window.window_from,
                int(np.count_nonzero(labelled != NO_LABEL)),
            )
        self.counts.without_answer += not has_words


def single_template(tokenizer: LoadedTokenizer) -> PairTemplate:
    """Return the special tokens around a text on its own: those of a pair, nothing in between."""
    template = tokenizer.template
    kind = template.type_ids[1]
    return replace(template, between=(), type_ids=(kind, kind, kind, kind, kind))
