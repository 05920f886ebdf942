"""The stages of a run in order, each doing only what is missing: prepare -> train -> evaluate ->
aggregate.

Opens a run's folder (or refuses: another recipe, another launch alive), runs the stages where the
profile says, and tells what comes out. The disk decides what is missing, never a memory of an
earlier launch.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from qa_dist.attempts import new_attempt
from qa_dist.cluster import show
from qa_dist.cluster.code_change import note_code
from qa_dist.cluster.job import STAGES
from qa_dist.cluster.slurm import Submitted, save_code, submit_stages
from qa_dist.cluster.submit import Outcome, Place, mark_waiting, run_in_process, run_local
from qa_dist.data.prepared import Prepared, read_prepared
from qa_dist.evaluation.elements import elements as evaluate_elements
from qa_dist.evaluation.elements import finished_steps, is_evaluated
from qa_dist.files import read_json, read_json_if_there, read_status, write_json, write_text
from qa_dist.plan import Plan, save_plan
from qa_dist.prepare import elements as prepare_elements
from qa_dist.prepare import summarize
from qa_dist.profile import Profile
from qa_dist.recipe import Recipe
from qa_dist.recipe_loading import load_saved_recipe, recipe_difference, recipe_to_yaml
from qa_dist.records import InputError
from qa_dist.run_dir import RunDir, check_private_folder, make_private_folder

STOPPED = 75
"""Exit status of what was stopped in order and goes on when launched again (EX_TEMPFAIL)."""


class StageFailedError(Exception):
    """A stage's elements failed; the message names them and what to do."""


@dataclass(frozen=True)
class Launch:
    """One launch of a run."""

    run: RunDir
    recipe: Recipe
    profile: Profile
    place: Place
    console: Console


def open_run(
    run: RunDir, recipe: Recipe, plan: Plan, prepared: Prepared, is_fresh: bool
) -> Prepared:
    """Make the run's files, or check that those there are this very run's; return its prepared
    data.

    A new run takes `prepared`, an older one keeps what it was made with.

    Raises InputError if it was made with another recipe or other data.
    """
    saved = read_json_if_there(run.run_json)
    if saved is None and not is_fresh and run.checkpoints.exists():
        raise InputError(
            f"{run.root}: has checkpoints but no run.json; give fresh=true to delete them and "
            "begin anew"
        )
    if saved and not is_fresh:
        saved_recipe = load_saved_recipe(run.recipe)
        differences = recipe_difference(saved_recipe, recipe)
        there = saved["prepared"]["fingerprint"]
        if not differences and there != plan.fingerprint:
            differences = [
                f"prepared data: {there} -> {plan.fingerprint} (the input or the tokenizer was "
                "changed)"
            ]
        if differences:
            lines = "".join(f"\n  {line}" for line in differences)
            raise InputError(
                f"{run.root}: this run was made with other settings; give name=... for another "
                "run beside it, or "
                f"fresh=true to delete it and begin anew:{lines}"
            )
        if saved_recipe.evaluation != recipe.evaluation:
            _forget_evaluation(run)
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
            "attempt": 0,
            "prepared": prepared.to_json(),
        },
    )
    return prepared


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


def run_stages(launch: Launch, plan: Plan, prepared: Prepared, stages: Sequence[str]) -> str:
    """Run the stages asked for; return "done" or "stopped". Raises StageFailedError."""
    save_plan(plan)
    attempt = new_attempt(launch.run)
    find_missing = _missing(launch.run, prepared)
    for stage in STAGES:
        if stage not in stages:
            continue
        missing = list(find_missing[stage]())
        seconds = 0.0
        if missing:
            note_code(launch.run, launch.console)
            outcome, seconds = _run_stage(launch, stage, missing, attempt)
            if outcome.state == "failed":
                raise StageFailedError(_failure(launch.run, stage, outcome))
            if outcome.state == "stopped":
                return "stopped"
        else:
            launch.console.print(f"{stage}: nothing to do, it is all there", highlight=False)
        if stage == "prepare" and missing:
            summaries = {split: summarize(prepared, split) for split in prepared.num_shards}
            rate = sum(int(summary["windows"]) for summary in summaries.values()) / seconds
            show.show_prepared(launch.console, summaries, rate)
    return "done"


def submit_run(
    launch: Launch, plan: Plan, prepared: Prepared, stages: Sequence[str]
) -> list[Submitted]:
    """Submit what is missing of all stages asked for to SLURM, chained by dependency; return the
    jobs."""
    save_plan(plan)
    elements = _missing_at_submit(launch.run, launch.recipe, prepared, stages)
    if not any(elements.values()):
        return []
    note_code(launch.run, launch.console)
    save_code(launch.run, launch.profile)
    for stage, missing in elements.items():
        mark_waiting(launch.run, stage, missing)
    title = f"{launch.recipe.name}.{launch.run.root.name}"
    return submit_stages(launch.run, launch.profile, title, elements, new_attempt(launch.run))


def _missing_at_submit(
    run: RunDir, recipe: Recipe, prepared: Prepared, stages: Sequence[str]
) -> dict[str, list[int]]:
    """Return the elements of each stage that aren't done, where those before it may still be to
    come.

    How many checkpoints there will be is known within a bound; surplus elements end at once.
    """
    find = _missing(run, prepared)
    found = {stage: list(find[stage]()) for stage in ("prepare", "train") if stage in stages}
    if "evaluate" in stages:
        if found.get("train"):
            found["evaluate"] = list(range(most_evaluations(recipe, prepared)))
        else:
            found["evaluate"] = list(find["evaluate"]())
    if "aggregate" in stages:
        is_due = found.get("train") or found.get("evaluate")
        found["aggregate"] = [0] if is_due else list(find["aggregate"]())
    return found


def most_evaluations(recipe: Recipe, prepared: Prepared) -> int:
    """Return the most elements that the evaluate stage may have: the checkpoints that training
    keeps, and the best, each on all shards."""
    train = recipe.train
    checkpoints = train.keep_checkpoints + 1
    if train.max_steps:
        checkpoints = min(checkpoints, -(-train.max_steps // train.checkpoint_every_steps))
    return checkpoints * sum(n for split, n in prepared.num_shards.items() if split != "train")


def _missing(run: RunDir, prepared: Prepared) -> dict[str, Callable[[], Sequence[int]]]:
    """Return, by stage, what finds its elements that aren't done."""
    return {
        "prepare": lambda: _missing_shards(prepared),
        "train": lambda: [] if is_trained(run) else [0],
        "evaluate": lambda: _missing_predictions(run),
        "aggregate": lambda: [] if _is_aggregated(run) else [0],
    }


def _run_stage(
    launch: Launch, stage: str, elements: Sequence[int], attempt: int
) -> tuple[Outcome, float]:
    started = time.monotonic()
    if launch.profile.where == "process":
        launch.console.print(
            f"{stage} ({len(elements)} elements) in this process ...", highlight=False
        )
        outcome = run_in_process(launch.run, stage, elements, lambda statuses: None)
        return outcome, time.monotonic() - started
    progress = show.StageProgress(launch.console, stage, len(elements))
    outcome = Outcome("failed", {})
    try:
        outcome = run_local(launch.run, stage, elements, attempt, launch.place, progress.update)
    finally:
        progress.finish(outcome.state)
    return outcome, time.monotonic() - started


def _failure(run: RunDir, stage: str, outcome: Outcome) -> str:
    lines = [
        f"{stage}, element {element}: {error}"
        for element, error in sorted(outcome.errors.items())[:5]
    ]
    if len(outcome.errors) > 5:
        lines.append(f"... and {len(outcome.errors) - 5} more; see {run.status}")
    return "\n".join(lines)


def _missing_shards(prepared: Prepared) -> list[int]:
    missing = {path for split in prepared.num_shards for path in prepared.missing(split)}
    return [
        element
        for element, (split, index) in enumerate(prepare_elements(prepared))
        if prepared.shards(split)[index] in missing
    ]


def is_trained(run: RunDir) -> bool:
    """Return whether training said that it is done and its last checkpoint is there."""
    status = read_status(run.status_file("train", 0))
    return status.get("state") == "done" and status.get("of") in finished_steps(run)


def _missing_predictions(run: RunDir) -> list[int]:
    elements = evaluate_elements(run)
    if not elements:
        raise InputError(
            f"{run.checkpoints}: no finished checkpoint to evaluate; run the train stage first"
        )
    return [i for i, (step, _, shard) in enumerate(elements) if not is_evaluated(run, step, shard)]


def _is_aggregated(run: RunDir) -> bool:
    steps = {step for step, _, _ in evaluate_elements(run)}
    status = read_status(run.status_file("aggregate", 0))
    return status.get("state") == "done" and all(run.scores_file(step).exists() for step in steps)


def report(run: RunDir, recipe: Recipe, console: Console) -> None:
    """Print the last checkpoint's scores, one line for each other, and where to look next."""
    paths = sorted(run.scores.glob("step-*.json"))
    if not paths:
        return
    *earlier, last = [dict(read_json(path)) for path in paths]
    show.show_scores(console, last, recipe.name)
    for scores in earlier:
        figures = scores["scores"][scores["headline"]]
        console.print(
            f"step {scores['step']}: EM {figures['em']:.1f}, F1 {figures['f1']:.1f}",
            highlight=False,
        )
    folder = os.path.relpath(run.root)
    lines = [
        f"scores:       {folder}/scores/{paths[-1].name}",
        f"predictions:  {folder}/predictions/{paths[-1].stem}/official.json (the official format)",
        f"TensorBoard:  {beside('tensorboard')} --logdir {folder}/tensorboard",
        "again:        the same command; it does only what is missing",
        f"next:         {beside('python')} jobs/launch.py 'recipe=?' lists all recipes; add "
        "dry_run=true to see what one would do",
    ]
    console.print("\n".join(lines), highlight=False, soft_wrap=True, markup=False)


def beside(command: str) -> str:
    """Return how to call a command of this Python's environment: it may not be on PATH."""
    path = Path(sys.executable).parent / command
    near = os.path.relpath(path)
    return command if not path.exists() else min(near, str(path), key=len)


def run_stage_here(stage: str, argv: Sequence[str], usage: str) -> int:
    """Run what is missing of one stage of an existing run in this process; return the exit status.

    argv: run=FOLDER and, for one array element alone, element=N. What jobs/<stage>.py do.
    """
    keys = dict(word.partition("=")[::2] for word in argv)
    if not argv or set(keys) - {"run", "element"} or not keys.get("run"):
        print(f"{usage.strip()}\n\nKeys: run=FOLDER, element=N (one array element alone)")
        return 0 if not argv or argv[0] in ("-h", "--help") else 2
    try:
        run = RunDir(Path(keys["run"]).absolute())
        if not run.run_json.is_file():
            raise InputError(
                f"run={keys['run']}: holds no run.json; give the folder of a launched run"
            )
        check_private_folder(run.root)
        missing = list(_missing(run, read_prepared(run))[stage]())
        if "element" in keys:
            if not (keys["element"].isascii() and keys["element"].isdigit()):
                raise InputError(f"element={keys['element']}: expected a whole number")
            count = _count_elements(run, stage)
            if int(keys["element"]) >= count:
                raise InputError(
                    f"element={keys['element']}: {stage} has elements 0 to {count - 1}"
                )
            missing = [int(keys["element"])]
        outcome = run_in_process(run, stage, missing, lambda statuses: None)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{stage}: {outcome.state}" if missing else f"{stage}: nothing to do, it is all there")
    return 0 if outcome.state == "done" else STOPPED


def _count_elements(run: RunDir, stage: str) -> int:
    counts = {
        "prepare": lambda: len(prepare_elements(read_prepared(run))),
        "evaluate": lambda: len(evaluate_elements(run)),
    }
    return counts.get(stage, lambda: 1)()


def open_root(root: Path, run_name: str, recipe_name: str) -> RunDir:
    """Make runs/<recipe>/<name> private to its owner, and check that each folder on the way is."""
    os.umask(0o077)
    make_private_folder(root)
    for folder in (root / recipe_name, root / recipe_name / run_name):
        make_private_folder(folder)
        check_private_folder(folder)
    return RunDir(root / recipe_name / run_name)
