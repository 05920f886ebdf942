"""Checkpoint x shard -> predictions with each question's scores: what one element of the evaluate
array does.

Weights and a prepared shard in; one JSON line per question out (id, n best, null odds, EM and F1 if
answered and if not), then a marker. A question's windows are all in its shard, so elements share
nothing and can be redone alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from qa_dist import faults
from qa_dist.checkpoint import load_model_state, reading
from qa_dist.data.prepared import Prepared, read_prepared
from qa_dist.data.shards import Split, open_split, verify_shards
from qa_dist.evaluation.elements import (
    UNTRAINED,
    elements,
    is_each_checkpoint,
    is_evaluated,
    is_floors,
    marker_file,
    origin,
)
from qa_dist.evaluation.forward import Forward
from qa_dist.evaluation.generate import TextPredictor
from qa_dist.evaluation.own_history import OwnHistoryPredictor, Predictor, has_own_history
from qa_dist.evaluation.spans import SpanPredictor
from qa_dist.evaluation.tags import TagPredictor
from qa_dist.files import (
    BrokenFileError,
    file_sha256,
    own_process,
    read_json,
    replaced_file,
    write_json,
    write_status,
)
from qa_dist.models import build_model
from qa_dist.models.attention import resolve_packing
from qa_dist.recipe import Recipe, Source, form_of, source_splits, trained_sources
from qa_dist.recipe_loading import load_saved_recipe
from qa_dist.records import InputError
from qa_dist.run_dir import RunDir, step_name
from qa_dist.tasks import TASKS


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
        # First, so that who finds the element's own predictions done needn't ask for these.
        if is_floors(run, step) and not is_evaluated(run, UNTRAINED, shard_name):
            _evaluate(run, element, UNTRAINED, split, shard_name)
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
        state = None if step == UNTRAINED else load_model_state(run.checkpoints / step_name(step))
    except BrokenFileError as error:
        raise InputError(f"{error}. Delete it and launch the run again") from error
    of = origin(run, step)
    place = next(s.source for s in source_splits(recipe) if s.name == split)
    model = load_trained(run, recipe, prepared, state)

    def load(data: Split) -> Predictor:
        return make_predictor(run, recipe, model, place, data)

    predictor = load(data)
    if has_own_history(recipe, recipe.sources[place], split):
        null_text = TASKS[recipe.sources[place].task].NULL_TEXT
        predictor = OwnHistoryPredictor(recipe, data, null_text, load)
    rows = predictor.rows()
    path = run.predictions_file(step, shard_name)
    num_rows = 0
    with replaced_file(path) as temporary, temporary.open("w", encoding="utf-8") as lines:
        for turn, (done, row) in enumerate(rows, start=1):
            if row is not None:
                lines.write(json.dumps(row, ensure_ascii=False) + "\n")
                num_rows += 1
            if turn % 64 == 0:
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


def load_trained(
    run: RunDir, recipe: Recipe, prepared: Prepared, state: Mapping[str, Any] | None
) -> nn.Module:
    """Return the recipe's model with a checkpoint's weights (None: as before training), in
    evaluation mode on its device.

    Batches are packed where they can be here, however the run was trained: it changes no more than
    the rounding. A model that writes pads its prompts on the left.
    """
    dev = {split.source: split.name for split in source_splits(recipe) if split.part == "dev"}
    classes = [prepared.classes(dev[place]) for place in trained_sources(recipe)]
    is_writer = recipe.model.head == "causal_lm"
    packing = "off" if is_writer else recipe.train.packing
    is_packed, _ = resolve_packing(packing, recipe.model, run_precision(run), is_training=False)
    model = build_model(recipe, classes, is_packed)
    if state is not None:
        model.load_state_dict(state)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return model.to(device).eval()


def make_predictor(
    run: RunDir, recipe: Recipe, model: nn.Module, place: int, data: Split
) -> Predictor:
    """Return what predicts a shard of the source at `place` in the recipe."""
    source, number = recipe.sources[place], trained_sources(recipe).index(place)
    forward = Forward(model, number, next(model.parameters()).device, run_precision(run))
    predictors: dict[str, Callable[[Recipe, Source, Forward, Split], Predictor]] = {
        "span": SpanPredictor,
        "tags": TagPredictor,
        "text": TextPredictor,
    }
    return predictors[form_of(recipe, source)](recipe, source, forward, data)


def run_precision(run: RunDir) -> str:
    """Return what the run was trained in: "bf16" or "fp32"."""
    return str(read_json(run.run_json).get("precision", "fp32"))


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
