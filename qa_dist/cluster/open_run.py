"""Open a run's folder: make its files, or check that those there are this very run's.

Refuses what was made with another recipe or other data, and folders that others can write to; with
fresh=true what a run has made is deleted, and nothing that we don't know.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from dataclasses import replace
from pathlib import Path

from qa_dist.data.prepared import Prepared, read_prepared
from qa_dist.files import read_json_if_there, write_json, write_text
from qa_dist.plan import Plan
from qa_dist.recipe import Recipe
from qa_dist.recipe_loading import load_saved_recipe, recipe_difference, recipe_to_yaml
from qa_dist.records import InputError
from qa_dist.run_dir import RunDir, check_private_folder, make_private_folder


def open_root(root: Path, run_name: str, recipe_name: str) -> RunDir:
    """Make runs/<recipe>/<name> private to its owner, and check that each folder on the way is."""
    os.umask(0o077)
    make_private_folder(root)
    for folder in (root / recipe_name, root / recipe_name / run_name):
        make_private_folder(folder)
        check_private_folder(folder)
    return RunDir(root / recipe_name / run_name)


def open_run(
    run: RunDir, recipe: Recipe, plan: Plan, prepared: Prepared, is_fresh: bool
) -> Prepared:
    """Make the run's files, or check that those there are this very run's; return its prepared
    data.

    A new run takes `prepared`, an older one keeps what it was made with.

    Raises InputError if it was made with another recipe or other data.
    """
    saved = read_json_if_there(run.run_json)
    if not is_fresh:
        check_same(run, recipe, plan)
    if saved and not is_fresh:
        saved_recipe, when = load_saved_recipe(run.recipe), recipe.evaluation.when
        if replace(saved_recipe.evaluation, when=when) != recipe.evaluation:
            _forget_evaluation(run)
        if _numbering(saved_recipe) != _numbering(recipe):
            for path in run.status.glob("evaluate-*.json"):  # which other elements now are
                path.unlink()
        # What may change between attempts: see recipe_difference.
        write_text(run.recipe, recipe_to_yaml(recipe))
        if saved["prepared"]["folder"] == str(plan.folder):
            return read_prepared(run)
        write_json(run.run_json, {**saved, "prepared": prepared.to_json()})  # it was moved
        return prepared
    if is_fresh:
        _clear(run)
    write_text(run.recipe, recipe_to_yaml(recipe))
    write_json(
        run.run_json,
        {
            "id": uuid.uuid4().hex,
            "recipe": recipe.name,
            "name": run.root.name,
            "created": time.strftime("%FT%T%z"),
            "attempt": saved["attempt"] if saved else 0,  # what is older stays fenced off
            "prepared": prepared.to_json(),
        },
    )
    return prepared


def check_same(run: RunDir, recipe: Recipe, plan: Plan) -> None:
    """Raise InputError if what is there of a run was made with another recipe or other data."""
    saved = read_json_if_there(run.run_json)
    if saved is None:
        if run.checkpoints.exists():
            raise InputError(
                f"{run.root}: has checkpoints but no run.json; give fresh=true to delete them and "
                "begin anew"
            )
        return
    differences = recipe_difference(load_saved_recipe(run.recipe), recipe)
    there = saved["prepared"]["fingerprint"]
    if not differences and there != plan.fingerprint:
        differences = [
            f"prepared data: {there} -> {plan.fingerprint} (the input or the tokenizer was changed)"
        ]
    if differences:
        lines = "".join(f"\n  {line}" for line in differences)
        raise InputError(
            f"{run.root}: this run was made with other settings; give name=... for another "
            "run beside it, or "
            f"fresh=true to delete it and begin anew:{lines}"
        )


def _clear(run: RunDir) -> None:
    """Delete what a run has made, but nothing that we don't know: run.json first, so that nothing
    half gone counts."""
    run.run_json.unlink(missing_ok=True)
    for path in (run.recipe, run.scalars):
        path.unlink(missing_ok=True)
    for folder in (
        run.status,  # it says whether there was a checkpoint
        run.checkpoints,
        run.predictions,
        run.scores,
        run.report,
        run.tensorboard,
        run.logs,
    ):
        if folder.is_dir() and not folder.is_symlink():
            shutil.rmtree(folder)


def _forget_evaluation(run: RunDir) -> None:
    """Un-mark what was evaluated with other settings, and drop its scores: both are made anew."""
    run.status_file("aggregate", 0).unlink(missing_ok=True)
    for path in (*run.predictions.glob("step-*/*-*-of-*.json"), *run.scores.glob("step-*.json")):
        path.unlink()


def _numbering(recipe: Recipe) -> tuple[str, int]:
    """Return what the numbers of the evaluate stage's elements follow from."""
    is_each = recipe.evaluation.when == "each_checkpoint"
    return recipe.evaluation.when, recipe.train.checkpoint_every_steps if is_each else 0
