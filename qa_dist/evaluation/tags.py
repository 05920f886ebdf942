"""A model with a tag head on one shard: sentences -> a tag for each word, beside the gold ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qa_dist.data.collate import collate
from qa_dist.data.prepared import read_template
from qa_dist.data.shards import Split
from qa_dist.evaluation.forward import Forward, batches_by_length
from qa_dist.recipe import Recipe, Source
from qa_dist.text.sentences import NO_TOKEN, first_tokens
from qa_dist.text.tags import OUTSIDE, all_types, count_sentence
from qa_dist.text.windows import TokenizedContext


class TagPredictor:
    """One model on one shard."""

    def __init__(self, recipe: Recipe, source: Source, forward: Forward, data: Split) -> None:
        self.batch_tokens, self.forward = recipe.evaluation.batch_tokens, forward
        self.data, self.shard = data, data.shards[0]
        self.template, self.labels = read_template(data), data.classes

    def rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield (windows done, row) for each sentence of the shard, in the shard's order."""
        examples = self.shard["window_example"]
        left = np.bincount(examples, minlength=self.shard.num_examples)
        found: dict[int, dict[int, int]] = {}  # of sentences under way: token -> its label
        next_example = num_done = 0
        for windows in batches_by_length(self.shard["window_length"], self.batch_tokens):
            for window, labels in zip(windows, self._predict(windows), strict=True):
                example, first = int(examples[window]), int(self.shard["window_start"][window])
                of_tokens = enumerate(labels.tolist(), first)
                found.setdefault(example, {}).update(of_tokens)
                left[example] -= 1
            num_done += len(windows)
            while next_example < len(left) and left[next_example] == 0:
                yield num_done, self._row(next_example, found.pop(next_example, {}))
                next_example += 1
        while next_example < len(left):  # the last ones may have no windows
            yield num_done, self._row(next_example, {})
            next_example += 1

    def _predict(self, windows: list[int]) -> Iterator[NDArray[np.int64]]:
        """Yield the best labels of the tokens that each window answers for."""
        batch = collate(self.data, windows, self.template, 0, self.forward.pad_multiple)
        moved = batch.to(self.forward.device)
        with torch.inference_mode():
            logits = self.forward.head.logits(self.forward.hidden(moved))  # type: ignore[operator]
            best = logits.argmax(-1).cpu().numpy()  # (B, T)
        for i, window in enumerate(windows):
            shift = int(batch.context_at[i] - batch.context_from[i])
            first = int(self.shard["window_start"][window]) + shift
            last = int(self.shard["window_end"][window]) + shift
            yield best[i, first : last + 1]

    def _row(self, example: int, found: dict[int, int]) -> dict[str, Any]:
        """Return a sentence's prediction; a word without a token is "O"."""
        facts = self.shard.example(example)
        number = int(self.shard["example_context"][example])
        char_starts, char_ends = self.shard.char_spans(number)
        context = TokenizedContext(
            self.shard.ragged("context_tokens", number),
            char_starts.astype(np.int32),
            char_ends.astype(np.int32),
        )
        tokens = first_tokens(context, facts["words"]).tolist()
        tags = [OUTSIDE if t == NO_TOKEN else self.labels[found[t]] for t in tokens]
        text = self.shard.context_text(number)
        return {
            "id": facts["id"],
            "group": facts["group"],
            "rule": facts["rule"],
            "facets": facts["facets"],
            "words": [text[start:end] for start, end in facts["words"]],
            "gold": facts["tags"],
            "tags": tags,
            "exact": int(tags == facts["tags"]),
            "entities": list(all_types(count_sentence(facts["tags"], tags).default)),
        }
