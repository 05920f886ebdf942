"""Launch a run: recipe -> prepare -> train -> evaluate -> aggregate. The one command of the suite.

    python jobs/launch.py recipe=tiny_coqa profile=local

Does only what is missing: the same command goes on after an interruption and says so when all is
done. Bad input ends with status 2 and one message before anything is written or started.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(sys.path.pop(0))  # this folder last: its tensorboard.py is no package
sys.path.insert(0, str(ROOT))

from qa_dist.cluster.job import STAGES  # noqa: E402
from qa_dist.cluster.queue import is_answering  # noqa: E402
from qa_dist.files import write_text  # noqa: E402
from qa_dist.profile import Profile  # noqa: E402
from qa_dist.recipe import Recipe  # noqa: E402
from qa_dist.recipe_loading import (  # noqa: E402
    list_recipes,
    load_profile,
    load_recipe,
    profile_to_yaml,
    recipe_to_yaml,
    split_arguments,
    with_profile_defaults,
)
from qa_dist.records import InputError  # noqa: E402
from qa_dist.run_dir import check_name  # noqa: E402

if TYPE_CHECKING:
    from rich.console import Console

    from qa_dist.cluster.submit import Place
    from qa_dist.plan import Plan
    from qa_dist.run_dir import RunDir

RECIPES, PROFILES = ROOT / "configs" / "recipes", ROOT / "slurm" / "profiles"
LAUNCH_KEYS = {
    "recipe": "a name in configs/recipes (recipe=? lists them), or the path of a YAML file",
    "profile": "where to run: auto (default: slurm where it answers, else local), debug, or a "
    "file of slurm/profiles",
    "nodes": "machines to train on (default 1)",
    "gpus_per_node": "GPUs to use on each (default: all; 0: none)",
    "ranks_per_node": "training processes on each (default: one per GPU, or 1)",
    "name": "the run's name (default main); the same name goes on with the same run",
    "stages": "only these, e.g. stages=evaluate,aggregate (default: all)",
    "dry_run": "true: print what would be done, and write nothing",
    "wait": "true: on SLURM, show the run until it has ended (else the command returns at once)",
    "fresh": "true: delete what the run of that name has made, and begin anew",
    "runs_dir": "where runs are kept (default runs)",
    "prepared_dir": "where prepared data is kept, shared by runs (default prepared)",
}


def main(argv: Sequence[str]) -> int:
    """Return the exit status: 0 done, 1 a stage failed, 2 bad input, 75 stopped in order (launch
    again)."""
    if not argv or any(word in ("-h", "--help", "help") for word in argv):
        print_help()
        return 0
    try:
        keys, overrides = split_arguments(argv, LAUNCH_KEYS)
        if keys.get("recipe") == "?":
            print_recipes()
            return 0
        return launch(keys, overrides)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped before anything was started", file=sys.stderr)
        return 130


def print_help() -> None:
    """Print usage, all launch keys, and all recipe settings with their defaults."""
    from qa_dist.recipe_fields import describe_fields

    print((__doc__ or "").strip() + "\n\nLaunch keys:")
    for key, text in LAUNCH_KEYS.items():
        print(f"  {key + '=':16s} {text}")
    print(
        "\nAny setting of the recipe, e.g. train.learning_rate=1e-5 sources.0.train=data/mine.json:"
    )
    for setting in describe_fields():
        print(f"  {setting.path}={setting.default}\n      {setting.doc}")


def print_recipes() -> None:
    """Print each recipe's name and one-line head."""
    recipes = list_recipes(RECIPES)
    width = max(len(name) for name, _ in recipes)
    for name, head in recipes:
        print(f"{name:{width}s}  {head}")


def launch(keys: dict[str, str], overrides: list[str]) -> int:
    """Run the stages asked for; return the exit status."""
    if "recipe" not in keys:
        raise InputError("recipe= is missing: give recipe=NAME; recipe=? lists them")
    profile = read_profile(keys)
    recipe = load_recipe(keys["recipe"], with_profile_defaults(overrides, profile), RECIPES)
    stages = read_stages(keys)
    is_dry, is_fresh = read_flag(keys, "dry_run"), read_flag(keys, "fresh")
    check_name(keys.get("name", "main"), "name")

    from qa_dist.cluster.place import check_ranks, find_place
    from qa_dist.plan import locate_inputs, make_plan

    place = find_place(profile)
    recipe = locate_inputs(recipe, ROOT)
    check_ranks(recipe, place.num_ranks)
    plan = make_plan(recipe, Path(keys.get("prepared_dir", "prepared")).absolute())
    if is_dry:
        from qa_dist.cluster.forecast import print_forecast

        prepared = plan.prepared(recipe.data.num_shards, place.max_parallel)
        print(recipe_to_yaml(recipe))
        print_forecast(recipe, place, plan, prepared, stages)
        if profile.where == "slurm":
            print_scripts(keys, recipe, profile, stages)
        return 0
    return run_launch(keys, recipe, profile, place, plan, stages, is_fresh)


def print_scripts(
    keys: dict[str, str], recipe: Recipe, profile: Profile, stages: list[str]
) -> None:
    """Print the sbatch scripts of the stages."""
    from qa_dist.cluster.slurm import sbatch_script
    from qa_dist.run_dir import RunDir

    name = keys.get("name", "main")
    run = RunDir(Path(keys.get("runs_dir", "runs")).absolute() / recipe.name / name)
    for stage in stages:
        print(f"\n# {stage}\n{sbatch_script(run, profile, f'{recipe.name}.{name}', stage)}")


def run_launch(
    keys: dict[str, str],
    recipe: Recipe,
    profile: Profile,
    place: Place,
    plan: Plan,
    stages: list[str],
    is_fresh: bool,
) -> int:
    """Open the run and run its stages under the launch's lock; return the exit status."""
    from rich.console import Console

    from qa_dist.cluster import pipeline, show
    from qa_dist.cluster.preflight import check_cluster
    from qa_dist.cluster.slurm import check_not_live, check_paths
    from qa_dist.lock import locked

    if profile.where == "process" and not place.num_gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # torch, which isn't loaded yet, would take one
    console = Console(width=None if sys.stdout.isatty() else 120)
    name = check_name(keys.get("name", "debug" if profile.where == "process" else "main"), "name")
    run = pipeline.open_root(Path(keys.get("runs_dir", "runs")).absolute(), name, recipe.name)
    with locked(run.root / "launch.lock", "this run is being launched"):
        if profile.where == "slurm":
            check_paths(run)
            check_not_live(run)
            check_cluster(profile, recipe, run.root)
        # A launcher that was killed may have left a training process that is just saving and
        # ending.
        with locked(run.root / "train.lock", "this run is being trained", 120, console.print):
            fresh_data = plan.prepared(recipe.data.num_shards, place.max_parallel)
            prepared = pipeline.open_run(run, recipe, plan, fresh_data, is_fresh)
        write_text(run.root / "profile.yaml", profile_to_yaml(profile))
        console.print(f"run: {run.root}", highlight=False, soft_wrap=True)
        this_launch = pipeline.Launch(run, recipe, profile, place, console)
        try:
            if profile.where == "slurm":
                submitted = pipeline.submit_run(this_launch, plan, prepared, stages)
                show.show_submitted(console, submitted, run)
                state = "submitted" if submitted else "done"
                if submitted and read_flag(keys, "wait"):
                    state = wait_for(run, [job.stage for job in submitted], console)
            else:
                state = pipeline.run_stages(this_launch, plan, prepared, stages)
        except pipeline.StageFailedError as error:
            print(
                f"error: {error}\nThe same command goes on from what is finished.", file=sys.stderr
            )
            return 1
        except KeyboardInterrupt:
            state = "stopped"
    if state == "submitted":
        return 0
    if state == "stopped":
        console.print("stopped in order; the same command goes on from here", highlight=False)
        return pipeline.STOPPED
    if "aggregate" in stages:
        pipeline.report(run, recipe, console)
    return 0


def wait_for(run: RunDir, stages: list[str], console: Console) -> str:
    """Follow what was submitted; return "done", "stopped" or "submitted" (we don't look any
    longer)."""
    from qa_dist.cluster.pipeline import StageFailedError
    from qa_dist.cluster.wait import wait_for_stages

    try:
        ended = wait_for_stages(run, list(dict.fromkeys(stages)), console)
    except KeyboardInterrupt:
        console.print(
            "its jobs go on; `jobs/status.py` shows them, `jobs/cancel.py` ends them",
            highlight=False,
        )
        return "submitted"
    failed = [(one.stage, e) for one in ended for e in one.elements if e.state == "failed"]
    if failed:
        raise StageFailedError(
            "\n".join(f"{stage}, element {e.index}: {e.note}" for stage, e in failed[:5])
        )
    return "done" if all(one.state == "done" for one in ended) else "stopped"


def read_profile(keys: dict[str, str]) -> Profile:
    """Return the profile, with what the command line says of ranks and GPUs."""
    name = keys.get("profile", "auto")
    has_slurm = shutil.which("sbatch") is not None
    if name == "auto":
        has_slurm = has_slurm and is_answering()
        name = "slurm" if has_slurm else "local"
    overrides = [
        f"{key}={keys[key]}" for key in ("nodes", "gpus_per_node", "ranks_per_node") if key in keys
    ]
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


def read_stages(keys: dict[str, str]) -> list[str]:
    """Return the stages asked for, in their order."""
    asked = keys.get("stages", ",".join(STAGES)).split(",")
    wrong = [stage for stage in asked if stage not in STAGES]
    if wrong:
        raise InputError(f"stages={keys['stages']}: {wrong[0]!r} is none of {', '.join(STAGES)}")
    return [stage for stage in STAGES if stage in asked]


def read_flag(keys: dict[str, str], key: str) -> bool:
    """Return a launch key that is true or false (default)."""
    value = keys.get(key, "false").lower()
    if value not in ("true", "false"):
        raise InputError(f"{key}={keys[key]}: expected true or false")
    return value == "true"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
