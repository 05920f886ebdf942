"""What jobs/launch.py does once its words are split: check all that was asked for, then run or
submit the stages, or tell what they would be.

In: launch keys and recipe settings as text. Out: an exit status. Nothing is written before all is
known to be right. Loads no torch; what is only needed beyond `--help` is imported where it is used.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from qa_dist.cluster.queue import QueueError, is_answering
from qa_dist.files import write_text
from qa_dist.processes import quick_start
from qa_dist.profile import STAGES, Profile
from qa_dist.recipe import Recipe
from qa_dist.recipe_fields import slots
from qa_dist.recipe_loading import (
    ProblemsError,
    load_profile,
    load_recipe,
    profile_to_yaml,
    recipe_to_yaml,
    with_profile_defaults,
)
from qa_dist.records import InputError
from qa_dist.run_dir import SWEEP_ENDING, RunDir, check_name
from qa_dist.sweep_reading import expand

if TYPE_CHECKING:
    from rich.console import Console

    from qa_dist.cluster.pipeline import Launch
    from qa_dist.cluster.submit import Place
    from qa_dist.cluster.submitted import Submitted
    from qa_dist.data.prepared import Prepared
    from qa_dist.plan import Plan

ROOT = Path(__file__).resolve().parents[2]
RECIPES, PROFILES = ROOT / "configs" / "recipes", ROOT / "slurm" / "profiles"
LAUNCH_KEYS = {
    "recipe": "a name in configs/recipes (recipe=? lists them), or the path of a YAML file",
    "profile": "where to run: auto (default: slurm where it answers, else local), debug, or a "
    "file of slurm/profiles",
    "nodes": "machines to train on (default 1)",
    "gpus_per_node": "GPUs to use on each (default: all; 0: none)",
    "ranks_per_node": "training processes on each (default: one per GPU, or 1)",
    "name": "the run's name (default main); the same name goes on with the same run",
    "seeds": "e.g. 1,2,3: a run for each as train.seed, one sweep; any setting may have several "
    "values, e.g. train.learning_rate=1e-5,3e-5",
    "stages": "only these, e.g. stages=evaluate,aggregate (default: all)",
    "dry_run": "true: print what would be done, and write nothing",
    "wait": "true: on SLURM, show the run until it has ended (else the command returns at once)",
    "fresh": "true: delete what the run of that name has made, and begin anew",
    "runs_dir": "where runs are kept (default runs)",
    "prepared_dir": "where prepared data is kept, shared by runs (default prepared)",
}

PROFILE_KEYS = [
    path
    for path, slot in slots(Profile).items()
    if slot.kind == "value" and path not in ("name", "where", *LAUNCH_KEYS)
]
"""What a launch may say otherwise than its profile, beside the launch keys."""

_In = TypeVar("_In")
_Out = TypeVar("_Out")


@dataclass(frozen=True)
class LaunchOptions:
    """What is asked of a launch, beside what its runs are to do."""

    profile: Profile
    place: Place
    stages: list[str]
    runs_dir: Path
    is_fresh: bool = False
    is_waiting: bool = False


@dataclass(frozen=True)
class Wanted:
    """A run to launch, its inputs checked."""

    name: str
    recipe: Recipe
    plan: Plan

    def folder(self, options: LaunchOptions) -> RunDir:
        """Return where it is kept, whether or not it is there yet."""
        return RunDir(options.runs_dir / self.recipe.name / self.name)


def launch(keys: Mapping[str, str], overrides: Sequence[str]) -> int:
    """Do what launch keys and recipe settings ask for; return the exit status.

    Raises InputError with what is wrong; then nothing was written or started.
    """
    if "recipe" not in keys:
        raise InputError("recipe= is missing: give recipe=NAME; recipe=? lists them")
    with quick_start(is_lasting=True):
        from qa_dist.cluster.place import find_place

        profile = read_profile(keys)
        stages = read_stages(keys)
        is_dry, is_fresh = read_flag(keys, "dry_run"), read_flag(keys, "fresh")
        name = read_name(keys, profile)
        members = expand(name, keys.get("seeds"), overrides)
        asked = {member.name: settings for member, settings in members} or {name: list(overrides)}
        recipes = read_all(
            asked,
            lambda settings: load_recipe(
                keys["recipe"], with_profile_defaults(settings, profile), RECIPES
            ),
        )
        runs_dir = Path(keys.get("runs_dir", "runs")).absolute()
        place = find_place(profile)
        options = LaunchOptions(profile, place, stages, runs_dir, is_fresh, read_flag(keys, "wait"))
        look = Look(options, Path(keys.get("prepared_dir", "prepared")).absolute())
        located = read_all(recipes, look.locate)
        plans = read_all(located, look.plan)
        wanted = [Wanted(one, recipe, plans[one]) for one, recipe in located.items()]
    if members:
        from qa_dist.cluster.sweep import launch_sweep, print_sweep

        start = print_sweep if is_dry else launch_sweep
        return start(options, name, [member for member, _ in members], wanted)
    if is_dry:
        print_forecast(options, wanted[0])
        return 0
    return launch_run(options, wanted[0])


def read_name(keys: Mapping[str, str], profile: Profile) -> str:
    """Return what the run, or the sweep, is to be called."""
    name = check_name(keys.get("name", "debug" if profile.where == "process" else "main"), "name")
    if name.endswith(SWEEP_ENDING):
        raise InputError(f"name={name}: folders of sweeps end in {SWEEP_ENDING}; choose another")
    return name


def read_all(asked: Mapping[str, _In], read: Callable[[_In], _Out]) -> dict[str, _Out]:
    """Return what `read` makes of each run's part. Raises InputError with all that is wrong, of
    several runs each thing once."""
    if len(asked) == 1:
        return {name: read(part) for name, part in asked.items()}
    found: dict[str, _Out] = {}
    problems: list[str] = []
    for name, part in asked.items():
        try:
            found[name] = read(part)
        except ProblemsError as error:
            problems += error.problems
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise ProblemsError(list(dict.fromkeys(problems)))
    return found


class Look:
    """A look at what runs are to be made of; what runs have in common is looked at once."""

    def __init__(self, options: LaunchOptions, prepared_dir: Path) -> None:
        self._options, self._prepared_dir = options, prepared_dir
        self._plans: dict[str, Plan] = {}

    def locate(self, recipe: Recipe) -> Recipe:
        """Return the recipe with its files' whole paths. Raises InputError if the ranks can't share
        its steps."""
        from qa_dist.cluster.place import check_ranks
        from qa_dist.plan import locate_inputs

        check_ranks(recipe, self._options.place.num_ranks)
        return locate_inputs(recipe, ROOT)

    def plan(self, recipe: Recipe) -> Plan:
        """Return the plan of a recipe's data. Raises InputError."""
        from qa_dist.plan import make_plan

        model, room = recipe.model, recipe.evaluation.max_new_tokens
        of_model = (model.name, model.lower_case, model.head)
        key = repr((recipe.sources, recipe.data, of_model, room))
        if key not in self._plans:
            plan = make_plan(recipe, self._prepared_dir)
            if model.head == "causal_lm" and not plan.is_prepared:
                from qa_dist.windowing.text import check_prompts

                check_prompts(model.name)
            self._plans[key] = plan
        return self._plans[key]


@quick_start(is_lasting=True)
def print_forecast(options: LaunchOptions, wanted: Wanted) -> None:
    """Print the recipe and what would be done; on SLURM also the sbatch scripts of the stages."""
    from qa_dist.cluster import forecast

    recipe, plan = wanted.recipe, wanted.plan
    prepared = plan.prepared(recipe.data.num_shards, options.place.max_parallel)
    print(recipe_to_yaml(recipe))
    forecast.print_forecast(recipe, options.place, plan, prepared, options.stages)
    if options.profile.where == "slurm":
        from qa_dist.cluster.slurm import sbatch_scripts

        run, title = wanted.folder(options), f"{recipe.name}.{wanted.name}"
        scripts = sbatch_scripts(run, options.profile, title, options.stages)
        for stage, script in scripts.items():
            print(f"\n# {stage}\n{script}")


def launch_run(options: LaunchOptions, wanted: Wanted) -> int:
    """Run or submit what is missing of a run; return the exit status."""
    with quick_start(is_lasting=True):
        from qa_dist.cluster import pipeline, show

    console = make_console(options)
    try:
        with held(options, wanted) as run:
            if options.profile.where == "slurm":
                submitted = submit(options, wanted, run, console)
                console.print(f"run: {run.root}", highlight=False, soft_wrap=True)
                show.show_submitted(console, submitted, run)
                state = "submitted" if submitted else "done"
                if submitted and options.is_waiting:
                    state = wait_for(run, [job.stage for job in submitted], console)
            else:
                this_launch, prepared = open_files(options, wanted, run, console)
                console.print(f"run: {run.root}", highlight=False, soft_wrap=True)
                state = pipeline.run_stages(this_launch, wanted.plan, prepared, options.stages)
    except pipeline.StageFailedError as error:
        print(f"error: {error}\nThe same command goes on from what is finished.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        state = "stopped"
    if state == "done" and "aggregate" in options.stages:
        pipeline.report(run, wanted.recipe, console)
    return end_status(state, console)


@quick_start(is_lasting=True)
def submit(
    options: LaunchOptions, wanted: Wanted, run: RunDir, console: Console
) -> list[Submitted]:
    """Submit what is missing of a run that is held, or go on with what is in the queue; return the
    jobs. Raises InputError."""
    from qa_dist.cluster.going_on import jobs_to_watch, submit_rest
    from qa_dist.cluster.pipeline import submit_run
    from qa_dist.cluster.preflight import check_cluster
    from qa_dist.cluster.slurm import check_paths
    from qa_dist.cluster.submitted import check_not_live

    check_paths(run)
    if not options.is_fresh:
        if rest := submit_rest(run, wanted.recipe, options.profile):
            console.print("an earlier launch was cut short; the rest is submitted", highlight=False)
            return rest
        if options.is_waiting and (there := jobs_to_watch(run, wanted.recipe)):
            console.print("its jobs are in the queue already; watching them", highlight=False)
            return there
    check_not_live(run)
    check_cluster(options.profile, [wanted.recipe], run.root)
    this_launch, prepared = open_files(options, wanted, run, console)
    return submit_run(this_launch, wanted.plan, prepared, options.stages)


def end_status(state: str, console: Console) -> int:
    """Return the exit status of "done", "submitted" or "stopped"; say what comes after the last."""
    from qa_dist.cluster.pipeline import STOPPED

    if state != "stopped":
        return 0
    console.print("stopped in order; the same command goes on from here", highlight=False)
    return STOPPED


@contextmanager
def held(options: LaunchOptions, wanted: Wanted) -> Iterator[RunDir]:
    """Make a run's folder and hold the launch's lock. Raises InputError if another launch does."""
    from qa_dist.cluster.open_run import open_root
    from qa_dist.lock import locked

    run = open_root(options.runs_dir, wanted.name, wanted.recipe.name)
    with locked(run.root / "launch.lock", "this run is being launched"):
        yield run


def open_files(
    options: LaunchOptions, wanted: Wanted, run: RunDir, console: Console
) -> tuple[Launch, Prepared]:
    """Make the files of a run that is held, or check that those there are this very run's."""
    from qa_dist.cluster import open_run, pipeline
    from qa_dist.cluster.submitted import check_not_live
    from qa_dist.contaminated import describe_contamination
    from qa_dist.lock import locked

    recipe, plan, place = wanted.recipe, wanted.plan, options.place
    if options.profile.where != "slurm" and shutil.which("squeue"):
        check_not_live(run)  # as jobs of a cluster, which the locks don't know before they start
    # A launcher that was killed may have left a training process that is just saving and ending.
    with locked(run.root / "train.lock", "this run is being trained", 120, console.print):
        fresh_data = plan.prepared(recipe.data.num_shards, place.max_parallel)
        prepared = open_run.open_run(run, recipe, plan, fresh_data, options.is_fresh)
    write_text(run.root / "profile.yaml", profile_to_yaml(options.profile))
    if any(prepared.missing(split) for split in prepared.num_shards):
        for line in describe_contamination(recipe, plan):
            console.print(line, highlight=False)
    return pipeline.Launch(run, recipe, options.profile, place, console), prepared


def make_console(options: LaunchOptions) -> Console:
    """Return what is written to; hide the GPUs from a torch that this process may load, unless
    they were asked for."""
    from rich.console import Console

    if options.profile.where == "process" and not options.place.num_gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    return Console(width=None if sys.stdout.isatty() else 120, emoji=False)


def wait_for(run: RunDir, stages: Sequence[str], console: Console) -> str:
    """Follow what was submitted; return "done", "stopped" or "submitted" (we don't look any
    longer)."""
    from qa_dist.cluster.pipeline import StageFailedError
    from qa_dist.cluster.wait import unfinished, wait_for_stages

    try:
        ended = wait_for_stages(run, list(dict.fromkeys(stages)), console)
    except KeyboardInterrupt:
        console.print(
            "its jobs go on; `jobs/status.py` shows them, `jobs/cancel.py` ends them",
            highlight=False,
        )
        return "submitted"
    why = "\n".join(unfinished(ended))
    if any(one.state == "failed" for one in ended):
        raise StageFailedError(why)
    if why:
        console.print(why, highlight=False, markup=False, soft_wrap=True)
    return "stopped" if why else "done"


def read_profile(keys: Mapping[str, str]) -> Profile:
    """Return the profile, with what the command line says otherwise."""
    name = keys.get("profile", "auto")
    has_slurm = shutil.which("sbatch") is not None
    if name == "auto":
        try:
            has_slurm = has_slurm and is_answering()
        except QueueError as error:
            raise InputError(
                f"profile=auto: SLURM is here but doesn't answer ({error}); nothing was submitted. "
                "Try again later, or give profile=local to run on this machine"
            ) from error
        name = "slurm" if has_slurm else "local"
    of_profile = ("nodes", "gpus_per_node", "ranks_per_node", *PROFILE_KEYS)
    overrides = [f"{key}={keys[key]}" for key in of_profile if key in keys]
    profile = load_profile(name, PROFILES, overrides)
    if profile.where == "slurm" and not has_slurm:
        raise InputError(
            f"profile={name}: submits to SLURM, but there is no `sbatch` on this machine's PATH. "
            "Launch on a cluster's login node, or here with profile=local"
        )
    nodes = profile.nodes
    if nodes > 1 and profile.where != "slurm":
        raise InputError(
            f"nodes={nodes}: profile={name} runs on this machine alone, and several nodes need "
            "SLURM"
            + ("" if has_slurm else " (there is no `sbatch` on this machine's PATH)")
            + f". Launch it on a cluster's login node, or here with nodes=1 ranks_per_node={nodes}"
        )
    return profile


def read_stages(keys: Mapping[str, str]) -> list[str]:
    """Return the stages asked for, in their order."""
    asked = keys.get("stages", ",".join(STAGES)).split(",")
    wrong = [stage for stage in asked if stage not in STAGES]
    if wrong:
        raise InputError(f"stages={keys['stages']}: {wrong[0]!r} is none of {', '.join(STAGES)}")
    return [stage for stage in STAGES if stage in asked]


def read_flag(keys: Mapping[str, str], key: str) -> bool:
    """Return a launch key that is true or false (default)."""
    value = keys.get(key, "false").lower()
    if value not in ("true", "false"):
        raise InputError(f"{key}={keys[key]}: expected true or false")
    return value == "true"
