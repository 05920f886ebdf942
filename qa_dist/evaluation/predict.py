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
        if is_floors(run, element) and not is_evaluated(run, UNTRAINED, shard_name):
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
    rows = _predictor(run, recipe, prepared, split, state, data).rows()
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


def _predictor(
    run: RunDir,
    recipe: Recipe,
    prepared: Prepared,
    split_name: str,
    state: Mapping[str, Any] | None,
    data: Split,
) -> Predictor:
    """Return what predicts a shard, with the weights of a checkpoint; None: as before training."""
    places = trained_sources(recipe)
    splits = source_splits(recipe)
    place = next(split.source for split in splits if split.name == split_name)
    dev = {split.source: split.name for split in splits if split.part == "dev"}
    model = build_model(recipe, [prepared.classes(dev[source]) for source in places])
    if state is not None:
        model.load_state_dict(state)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device).eval()
    engine = Forward(model, places.index(place), device, run_precision(run))
    source = recipe.sources[place]
    predictors: dict[str, Callable[[Recipe, Source, Forward, Split], Predictor]] = {
        "span": SpanPredictor,
        "text": TextPredictor,
    }
    predictor = predictors[form_of(recipe, source)]

    def load(split: Split) -> Predictor:
        return predictor(recipe, source, engine, split)

    if has_own_history(recipe, source, split_name):
        return OwnHistoryPredictor(recipe, data, TASKS[source.task].NULL_TEXT, load)
    return load(data)


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
