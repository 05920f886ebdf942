"""The stages of a run in order, each doing only what is missing: prepare -> train -> evaluate ->
aggregate.

Runs the stages of an opened run where the profile says, and tells what comes out. The disk decides
what is missing, never a memory of an earlier launch.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from qa_dist.attempts import new_attempt, update_run
from qa_dist.cluster import show
from qa_dist.cluster.slurm import submit_stages
from qa_dist.cluster.snapshot import note_code, save_code
from qa_dist.cluster.submit import Outcome, Place, mark_waiting, run_in_process, run_local
from qa_dist.cluster.submitted import Submitted, check_not_live, submitting
from qa_dist.data.prepared import Prepared, read_prepared
from qa_dist.evaluation.elements import elements as evaluate_elements
from qa_dist.evaluation.elements import finished_steps, is_evaluated
from qa_dist.files import read_json, read_status
from qa_dist.plan import Plan, save_plan
from qa_dist.profile import STAGES, Profile
from qa_dist.recipe import Recipe, split_part
from qa_dist.records import InputError
from qa_dist.run_dir import RunDir, check_private_folder

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


def run_stages(launch: Launch, plan: Plan, prepared: Prepared, stages: Sequence[str]) -> str:
    """Run the stages asked for; return "done" or "stopped". Raises StageFailedError."""
    save_plan(plan)
    attempt = new_attempt(launch.run)
    find_missing = _missing(launch.run, prepared)
    is_code_noted = False
    for stage in STAGES:
        if stage not in stages:
            continue
        missing = list(find_missing[stage]())
        seconds = 0.0
        if missing:
            if not is_code_noted:
                is_code_noted = True
                note_code(launch.run, launch.console)
                if launch.profile.where == "local":
                    save_code(launch.run, launch.profile)
            outcome, seconds = _run_stage(launch, stage, missing, attempt)
            if outcome.state == "failed":
                raise StageFailedError(_failure(launch.run, stage, outcome))
            if outcome.state == "stopped":
                return "stopped"
        else:
            launch.console.print(f"{stage}: nothing to do, it is all there", highlight=False)
        if stage == "prepare" and missing:
            from qa_dist.prepare import summarize  # a submit hasn't any use for it

            summaries = {split: summarize(prepared, split) for split in prepared.num_shards}
            rate = sum(int(summary["windows"]) for summary in summaries.values()) / seconds
            show.show_prepared(launch.console, summaries, rate)
    return "done"


def submit_run(
    launch: Launch,
    plan: Plan,
    prepared: Prepared,
    stages: Sequence[str],
    shared: Sequence[Submitted] = (),
) -> list[Submitted]:
    """Submit what is missing of all stages asked for to SLURM, chained by dependency; return the
    jobs.

    `shared`: jobs that prepare the same data for other runs; what they make isn't made twice.
    """
    save_plan(plan)
    elements = missing_elements(launch.run, launch.recipe, prepared, stages)
    if not any(elements.values()):
        return []
    wanted = set(elements.get("prepare", ()))
    shared = [job for job in shared if wanted.intersection(job.elements)]
    wanted.difference_update(*(job.elements for job in shared))
    if "prepare" in elements:
        elements["prepare"] = sorted(wanted)
    note_code(launch.run, launch.console)
    save_code(launch.run, launch.profile)
    for stage, missing in elements.items():
        mark_waiting(launch.run, stage, missing)
    update_run(launch.run, stages=list(stages))  # training submits those at each checkpoint
    title = f"{launch.recipe.name}.{launch.run.root.name}"
    with submitting(launch.run):
        attempt = new_attempt(launch.run)
        return submit_stages(launch.run, launch.profile, title, elements, attempt, shared)


def missing_elements(
    run: RunDir, recipe: Recipe, prepared: Prepared, stages: Sequence[str]
) -> dict[str, list[int]]:
    """Return the elements of each stage that aren't done, where those before it may still be to
    come.

    How many checkpoints there will be is known within a bound; surplus elements end at once. With
    evaluation.when=each_checkpoint training submits what comes after it.
    """
    find = _missing(run, prepared)
    found = {stage: list(find[stage]()) for stage in ("prepare", "train") if stage in stages}
    if found.get("train") and recipe.evaluation.when == "each_checkpoint":
        return found
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
    return checkpoints * sum(
        n for split, n in prepared.num_shards.items() if split_part(split) != "train"
    )


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
        for element, (split, index) in enumerate(prepared.elements())
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
    return [
        number
        for number, (step, _, shard) in elements.items()
        if not is_evaluated(run, step, shard)
    ]


def _is_aggregated(run: RunDir) -> bool:
    steps = {step for step, _, _ in evaluate_elements(run).values()}
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
        *(
            f"predictions:  {folder}/predictions/{paths[-1].stem}/{path.name} (the official format)"
            for path in sorted((run.predictions / paths[-1].stem).glob("*official.*"))
        ),
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
        if shutil.which("squeue"):
            check_not_live(run)
        missing = list(_missing(run, read_prepared(run))[stage]())
        if "element" in keys:
            if not (keys["element"].isascii() and keys["element"].isdigit()):
                raise InputError(f"element={keys['element']}: expected a whole number")
            numbers = _element_numbers(run, stage)
            if int(keys["element"]) not in numbers:
                raise InputError(
                    f"element={keys['element']}: {stage} has elements {min(numbers)} to "
                    f"{max(numbers)}"
                )
            missing = [int(keys["element"])]
        outcome = run_in_process(run, stage, missing, lambda statuses: None)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{stage}: {outcome.state}" if missing else f"{stage}: nothing to do, it is all there")
    return 0 if outcome.state == "done" else STOPPED


def _element_numbers(run: RunDir, stage: str) -> Collection[int]:
    if stage == "prepare":
        return range(len(read_prepared(run).elements()))
    return evaluate_elements(run) if stage == "evaluate" else (0,)
