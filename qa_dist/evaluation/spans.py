"""A model with an extractive head on one shard: questions -> n best answers, null odds, scores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from qa_dist.data.collate import Batch, collate
from qa_dist.data.prepared import read_template
from qa_dist.data.shards import Shard, Split
from qa_dist.evaluation.forward import Forward, batches_by_length
from qa_dist.recipe import Recipe, Source
from qa_dist.records import Candidate, Prediction
from qa_dist.tasks import TASKS, null_class
from qa_dist.text.decode import SpanScores, merge_windows
from qa_dist.text.metrics import question_scores


class SpanPredictor:
    """One model on one shard."""

    def __init__(self, recipe: Recipe, source: Source, forward: Forward, data: Split) -> None:
        self.settings, self.task, self.forward = recipe.evaluation, TASKS[source.task], forward
        self.data, self.shard = data, data.shards[0]
        self.template = read_template(data)
        self.null_class = null_class(recipe, source)

    def rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield (windows done, row) for each question of the shard, in the shard's order."""
        examples = self.shard["window_example"]
        waiting: dict[int, tuple[list[list[Candidate]], list[float]]] = {}
        left = np.bincount(examples, minlength=self.shard.num_examples)
        rows: dict[int, dict[str, Any]] = {}
        next_example = num_done = 0
        for windows in batches_by_length(self.shard["window_length"], self.settings.batch_tokens):
            for row, candidates, null_score in self._predict(windows):
                example = int(examples[row])
                found = waiting.setdefault(example, ([], []))
                found[0].append(candidates)
                found[1].append(null_score)
                left[example] -= 1
                if left[example] == 0:
                    rows[example] = self._row(example, *waiting.pop(example))
            num_done += len(windows)
            while next_example in rows:
                yield num_done, rows.pop(next_example)
                next_example += 1

    def _predict(self, windows: list[int]) -> Iterator[tuple[int, list[Candidate], float]]:
        """Yield (window, candidates, null score) of each window."""
        multiple = self.forward.pad_multiple
        batch = collate(self.data, windows, self.template, self.null_class, multiple)
        scores = self._scores(batch)
        for i, window in enumerate(windows):
            shift = int(batch.context_from[i] - batch.context_at[i])
            candidates = [
                Candidate(name, float(scores.classes[i, k]), None)
                for k, name in enumerate(self.task.ANSWER_CLASSES)
                if k != self.null_class
            ]
            firsts, lasts = scores.firsts[i] + shift, scores.lasts[i] + shift
            candidates += _span_candidates(self.shard, window, scores.scores[i], firsts, lasts)
            yield window, candidates, float(scores.nulls[i])

    def _scores(self, batch: Batch) -> SpanScores:
        moved, settings = batch.to(self.forward.device), self.settings
        with torch.inference_mode():
            hidden = self.forward.hidden(moved)
            scores: SpanScores = self.forward.head.span_scores(  # type: ignore[operator]
                hidden, moved, settings.n_best, settings.max_answer_tokens
            )
        return scores

    def _row(
        self, example: int, candidates: list[list[Candidate]], null_scores: list[float]
    ) -> dict[str, Any]:
        """Return a question's prediction with its scores, had we answered, and had we not."""
        facts = self.shard.example(example)
        prediction: Prediction = merge_windows(
            facts["id"], candidates, null_scores, self.settings.n_best
        )
        exact, f1 = question_scores(facts["rule"], prediction.text, facts["answers"])
        null_exact, null_f1 = question_scores(facts["rule"], self.task.NULL_TEXT, facts["answers"])
        return {
            "id": facts["id"],
            "group": facts["group"],
            "rule": facts["rule"],
            "facets": facts["facets"],
            "text": prediction.text,
            "null_odds": prediction.null_odds if prediction.candidates else None,
            "exact": exact,
            "f1": f1,
            "null_exact": null_exact,
            "null_f1": null_f1,
            "n_best": [[c.text, round(c.score, 4), c.char_span] for c in prediction.candidates],
        }


def _span_candidates(
    shard: Shard, window: int, scores: Any, firsts: Any, lasts: Any
) -> Iterator[Candidate]:
    """Yield the spans with a finite score as text of the context; `firsts` and `lasts` count in the
    context."""
    context = int(shard["example_context"][shard["window_example"][window]])
    char_starts, char_ends = shard.char_spans(context)
    text = shard.context_text(context)
    is_span = scores > float("-inf")
    starts, ends = char_starts[firsts[is_span]].tolist(), char_ends[lasts[is_span]].tolist()
    for score, *place in zip(scores[is_span].tolist(), starts, ends, strict=True):
        span = (place[0], place[1])
        if text[span[0] : span[1]].strip():
            yield Candidate(text[span[0] : span[1]], score, span)
