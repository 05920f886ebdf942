"""A model with an extractive head on one shard: questions -> n best answers, null odds, scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qa_dist.data.collate import Batch, collate
from qa_dist.data.prepared import read_template
from qa_dist.data.shards import Split
from qa_dist.evaluation.forward import Forward, batches_by_length
from qa_dist.recipe import Recipe, Source
from qa_dist.records import Prediction
from qa_dist.tasks import TASKS, null_class
from qa_dist.text.decode import CLASS, Ints, SpanScores, WindowMerger, make_prediction
from qa_dist.text.metrics import question_scores

_AT_ONCE = 100
"""Questions whose facts are read at once."""


class SpanPredictor:
    """One model on one shard."""

    def __init__(self, recipe: Recipe, source: Source, forward: Forward, data: Split) -> None:
        self.settings, self.task, self.forward = recipe.evaluation, TASKS[source.task], forward
        self.data, self.shard = data, data.shards[0]
        self.template = read_template(data)
        self.null_class = null_class(recipe, source)

    def rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield (windows done, row) for each question of the shard, in the shard's order."""
        for done, facts, prediction in self.predictions(self._scored()):
            yield done, self._row(facts, prediction)

    def predictions(
        self, scored: Iterable[tuple[list[int], Batch, SpanScores]]
    ) -> Iterator[tuple[int, dict[str, Any], Prediction]]:
        """Yield (windows done, facts, prediction) for each question of the shard, in the shard's
        order; `scored`: its windows' numbers, tensors and spans, batch by batch."""
        settings, shard, names = self.settings, self.shard, self.task.ANSWER_CLASSES
        merger = WindowMerger(shard["window_example"], len(names) + settings.n_best)
        num_done, context, text = 0, -1, ""
        for windows, batch, scores in scored:
            questions = merger.add(windows, *self._places(windows, batch, scores), scores.nulls)
            num_done += len(windows)
            for first in range(questions.start, questions.stop, _AT_ONCE):
                some = range(first, min(first + _AT_ONCE, questions.stop))
                contexts = shard["example_context"][some.start : some.stop].tolist()
                for ranked, facts, its in zip(
                    merger.ranked(some), shard.examples(some), contexts, strict=True
                ):
                    if its != context:
                        context, text = its, shard.context_text(its)
                    found = make_prediction(facts["id"], ranked, text, names, settings.n_best)
                    yield num_done, facts, found

    def _scored(self) -> Iterator[tuple[list[int], Batch, SpanScores]]:
        multiple = self.forward.pad_multiple
        for windows in batches_by_length(self.shard["window_length"], self.settings.batch_tokens):
            batch = collate(self.data, windows, self.template, self.null_class, multiple)
            yield windows, batch, self._scores(batch)

    def _scores(self, batch: Batch) -> SpanScores:
        moved, settings = batch.to(self.forward.device), self.settings
        with torch.inference_mode():
            hidden = self.forward.hidden(moved)
            scores: SpanScores = self.forward.head.span_scores(  # type: ignore[operator]
                hidden, moved, settings.n_best, settings.max_answer_tokens
            )
        return scores

    def _places(
        self, windows: list[int], batch: Batch, found: SpanScores
    ) -> tuple[NDArray[np.floating], Ints, Ints]:
        """Return scores, first characters and those behind the last of each window's answer classes
        and spans, (B, C + N) each, as WindowMerger takes them."""
        shard = self.shard
        contexts = shard["example_context"][shard["window_example"][windows]]
        shift = shard["context_tokens_offsets"][contexts].astype(np.int64)
        shift += batch.context_from - batch.context_at
        is_span = found.scores > -np.inf
        rows, _ = np.nonzero(is_span)
        starts, ends = np.zeros((2, *is_span.shape), np.int64)
        starts[is_span] = shard["char_starts"][found.firsts[is_span] + shift[rows]]
        ends[is_span] = shard["char_ends"][found.lasts[is_span] + shift[rows]]
        scores = np.where(is_span, found.scores, -np.inf)
        classes = [k for k in range(found.classes.shape[1]) if k != self.null_class]
        if not classes:
            return scores, starts, ends
        numbers = np.tile(np.array(classes), (len(windows), 1))
        return (
            np.concatenate((found.classes[:, classes], scores), 1),
            np.concatenate((numbers, starts), 1),
            np.concatenate((np.full_like(numbers, CLASS), ends), 1),
        )

    def _row(self, facts: dict[str, Any], prediction: Prediction) -> dict[str, Any]:
        """Return a question's prediction with its scores, had we answered, and had we not."""
        exact, f1 = question_scores(facts["rule"], prediction.text, facts["answers"])
        null_exact, null_f1 = question_scores(facts["rule"], self.task.NULL_TEXT, facts["answers"])
        return {
            "id": facts["id"],
            "group": facts["group"],
            "rule": facts["rule"],
            "facets": facts["facets"],
            "text": prediction.text,
            "null_odds": prediction.null_odds if prediction.scores else None,
            "exact": exact,
            "f1": f1,
            "null_exact": null_exact,
            "null_f1": null_f1,
            "n_best": [
                [text, round(score, 4), span]
                for text, score, span in zip(
                    prediction.texts, prediction.scores, prediction.char_spans, strict=True
                )
            ],
        }
