"""Submit again what failed or is missing of a run on SLURM, with the recipe and profile it was
launched with.

    python jobs/retry.py tiny_coqa/main

Launching with the same command does the same. runs_dir=FOLDER says where runs are kept (default
runs).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from qa_dist.cluster.find_runs import find_run, read_words
from qa_dist.cluster.heartbeats import is_on_slurm
from qa_dist.cluster.stop import launch_again
from qa_dist.cluster.submitted import check_not_live, is_cut_short, read_submitted
from qa_dist.files import read_json
from qa_dist.profile import STAGES
from qa_dist.records import InputError
from qa_dist.run_dir import RunDir, check_private_folder


def main(argv: Sequence[str]) -> int:
    """Return the exit status: 0 submitted, or nothing to do; 2 bad input."""
    if not argv or any(word in ("-h", "--help", "help") for word in argv):
        print((__doc__ or "").strip())
        return 0
    try:
        words, _, runs_dir = read_words(argv, 1)
        if not words:
            raise InputError("which run? Give its folder, or recipe/name")
        return retry(find_run(words[0], runs_dir))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def retry(run: RunDir) -> int:
    """Launch a run again as it was launched; return the exit status."""
    if not is_on_slurm(run):
        raise InputError(
            f"{run.root}: wasn't launched on SLURM; launch it again instead, which does only what "
            f"is missing: {launch_again(run)}"
        )
    check_private_folder(run.root)
    if not is_cut_short(run):
        check_not_live(run)  # before all that takes a moment

    from qa_dist.cluster.launch import LaunchOptions, Wanted, launch_run
    from qa_dist.cluster.place import find_place
    from qa_dist.data.prepared import read_prepared
    from qa_dist.plan import make_plan
    from qa_dist.recipe_loading import load_profile, load_saved_recipe

    profile = load_profile(str(run.root / "profile.yaml"), run.root)
    recipe = load_saved_recipe(run.recipe)
    plan = make_plan(recipe, read_prepared(run).folder.parent)
    options = LaunchOptions(profile, find_place(profile), stages_of(run), run.root.parents[1])
    return launch_run(options, Wanted(run.root.name, recipe, plan))


def stages_of(run: RunDir) -> list[str]:
    """Return the stages up to the last one that the run was ever launched with."""
    known = [one.stage for one in read_submitted(run)]
    known += read_json(run.run_json).get("stages", ())  # some may not have been submitted yet
    submitted = [STAGES.index(stage) for stage in known]
    return list(STAGES[: max(submitted, default=len(STAGES) - 1) + 1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
