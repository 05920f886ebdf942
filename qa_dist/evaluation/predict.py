"""Checkpoint x shard -> predictions with each question's scores: what one element of the evaluate
array does.

Weights and a prepared shard in; one JSON line per question out (id, n best, null odds, EM and F1 if
answered and if not), then a marker. A question's windows are all in its shard, so elements share
nothing and can be redone alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from qa_dist import faults
from qa_dist.checkpoint import load_model_state, reading
from qa_dist.data.collate import Batch, collate
from qa_dist.data.order import PAD_MULTIPLE
from qa_dist.data.prepared import read_prepared, read_template
from qa_dist.data.shards import Shard, Split, open_split, verify_shards
from qa_dist.evaluation.elements import (
    elements,
    is_each_checkpoint,
    is_evaluated,
    marker_file,
    origin,
)
from qa_dist.files import (
    BrokenFileError,
    file_sha256,
    own_process,
    read_json,
    replaced_file,
    write_json,
    write_status,
)
from qa_dist.models.span import SpanModel, build_model
from qa_dist.recipe import Recipe
from qa_dist.recipe_loading import load_saved_recipe
from qa_dist.records import Candidate, InputError, Prediction
from qa_dist.run_dir import RunDir, step_name
from qa_dist.tasks import TASKS, Task
from qa_dist.text.decode import best_spans, merge_windows
from qa_dist.text.metrics import question_scores


def evaluate_element(run: RunDir, element: int) -> None:
    """Predict and score one shard with one checkpoint; do nothing if it is done. Raises
    InputError."""
    there, num_windows = elements(run), 0
    if element not in there and is_each_checkpoint(run):
        raise InputError(
            f"{run.checkpoints}: element {element} can't be evaluated, as its checkpoint has gone"
        )
    if element not in there:  # submitted before it was known how many checkpoints there will be
        _beat(run, element, "done", 0, 0)
        return
    step, split, shard_name = there[element]
    faults.reach("evaluate.start", step)
    if not is_evaluated(run, step, shard_name):
        try:
            with reading(run.checkpoints / step_name(step)):
                num_windows = _evaluate(run, element, step, split, shard_name)
        except BrokenFileError as error:
            raise InputError(
                f"{error}. So it can't be evaluated any more: delete "
                f"{run.predictions / step_name(step)}, if that is there, to go on without it"
            ) from error
    _beat(run, element, "done", num_windows, num_windows)


def _evaluate(run: RunDir, element: int, step: int, split: str, shard_name: str) -> int:
    """Write an element's predictions and their marker; return how many windows it has."""
    recipe, prepared = load_saved_recipe(run.recipe), read_prepared(run)
    shard_path = prepared.folder / shard_name
    try:
        verify_shards([shard_path])
        data = open_split([shard_path])
        state = load_model_state(run.checkpoints / step_name(step))
    except BrokenFileError as error:
        raise InputError(f"{error}. Delete it and launch the run again") from error
    of = origin(run, step)
    task = TASKS[recipe.sources[0].task]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build_model(recipe.model, len(task.ANSWER_CLASSES), recipe.train.seed)
    model.load_state_dict(state)
    model.to(device).eval()
    predictor = _Predictor(recipe, task, model, data, device)
    precision = read_json(run.run_json).get("precision", "fp32")
    path = run.predictions_file(step, shard_name)
    num_rows = 0
    with replaced_file(path) as temporary, temporary.open("w", encoding="utf-8") as lines:
        for done, row in predictor.rows(precision):
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")
            num_rows += 1
            if num_rows % 64 == 0:
                _beat(run, element, "running", done, data.num_windows)
        faults.reach("evaluate.before_rename", step)
    write_json(
        marker_file(run, step, shard_name),
        {
            "rows": num_rows,
            "bytes": path.stat().st_size,
            "sha256": file_sha256(path),
            "fingerprint": prepared.fingerprint,
            **of,
        },
    )
    return data.num_windows


def _beat(run: RunDir, element: int, state: str, step: int, of: int) -> None:
    write_status(
        run.status_file("evaluate", element),
        {
            "state": state,
            "step": step,
            "of": of,
            "unit": "windows",
            "updated_at": time.time(),
            **own_process(),
        },
    )


class _Predictor:
    """One model on one shard."""

    def __init__(
        self, recipe: Recipe, task: Task, model: SpanModel, data: Split, device: torch.device
    ) -> None:
        self.settings, self.task, self.model, self.device = recipe.evaluation, task, model, device
        self.data, self.shard = data, data.shards[0]
        self.template = read_template(data)
        self.null_class = (
            task.ANSWER_CLASSES.index(task.NULL_CLASS) if task.NULL_CLASS is not None else None
        )

    def rows(self, precision: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield (windows done, row) for each question of the shard, in the shard's order."""
        examples = self.shard["window_example"]
        waiting: dict[int, tuple[list[list[Candidate]], list[float]]] = {}
        left = np.bincount(examples, minlength=self.shard.num_examples)
        rows: dict[int, dict[str, Any]] = {}
        next_example = num_done = 0
        for windows in self._batches():
            batch = collate(self.data, windows, self.template, self.null_class)
            starts, ends = self._logits(batch, precision)
            for row, candidates, null_score in self._decode(windows, batch, starts, ends):
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

    def _batches(self) -> Iterator[list[int]]:
        """Yield window numbers in batches of like length, within some thousands of neighbours:
        little padding."""
        lengths = self.shard["window_length"]
        pool = 4096
        for first in range(0, self.shard.num_windows, pool):
            order = first + np.argsort(
                -lengths[first : first + pool].astype(np.int64), kind="stable"
            )
            at = 0
            while at < len(order):
                width = -(-int(lengths[order[at]]) // PAD_MULTIPLE) * PAD_MULTIPLE
                count = max(1, self.settings.batch_tokens // width)
                yield order[at : at + count].tolist()
                at += count

    @torch.inference_mode()
    def _logits(self, batch: Batch, precision: str) -> tuple[Any, Any]:
        moved = batch.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bf16"):
            start, end = self.model(
                moved.input_ids, moved.token_type_ids, moved.attention_mask, moved.candidate_mask
            )
        return start.float().cpu().numpy(), end.float().cpu().numpy()  # (B, T + C) each

    def _decode(
        self, windows: list[int], batch: Batch, starts: Any, ends: Any
    ) -> Iterator[tuple[int, list[Candidate], float]]:
        """Yield (window, candidates, null score) of each window."""
        width = batch.input_ids.shape[1]
        classes = (starts[:, width:] + ends[:, width:]).astype(float)  # (B, C)
        starts, ends = starts[:, :width].copy(), ends[:, :width].copy()  # (B, T) each
        if self.null_class is None:
            positions = np.array([self.template.null_position] * len(windows))
            positions = np.where(positions < 0, batch.lengths + positions, positions)
            rows = np.arange(len(windows))
            null_scores = (starts[rows, positions] + ends[rows, positions]).astype(float)
            starts[rows, positions] = -np.inf
        else:
            null_scores = classes[:, self.null_class]
        scores, firsts, lasts = best_spans(
            starts, ends, self.settings.n_best, self.settings.max_answer_tokens
        )
        for i, window in enumerate(windows):
            shift = int(batch.context_from[i] - batch.context_at[i])
            candidates = [
                Candidate(name, float(classes[i, k]), None)
                for k, name in enumerate(self.task.ANSWER_CLASSES)
                if k != self.null_class
            ]
            candidates += _span_candidates(
                self.shard, window, scores[i], firsts[i] + shift, lasts[i] + shift
            )
            yield window, candidates, float(null_scores[i])

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
    for score, first, last in zip(scores.tolist(), firsts.tolist(), lasts.tolist(), strict=True):
        if score == float("-inf"):
            return
        span = (int(char_starts[first]), int(char_ends[last]))
        if text[span[0] : span[1]].strip():
            yield Candidate(text[span[0] : span[1]], score, span)
