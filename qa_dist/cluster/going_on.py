"""A launch of a run whose jobs are in the queue: submit what a launcher that was killed didn't, or
look on; whatever else it wants is refused.

In: a run and what is asked of it now. Out: its jobs, if this launch goes on with them.
"""

from __future__ import annotations

from qa_dist.cluster.queue import QueueError
from qa_dist.cluster.slurm import submit_planned
from qa_dist.cluster.submitted import (
    Submitted,
    check_not_live,
    find_lost,
    live_jobs,
    read_planned,
    save_submitted,
)
from qa_dist.profile import Profile
from qa_dist.recipe import Recipe
from qa_dist.recipe_loading import recipe_to_yaml
from qa_dist.run_dir import RunDir


def go_on(run: RunDir, recipe: Recipe, profile: Profile, is_waiting: bool) -> list[Submitted]:
    """Return the jobs of the newest attempt if any is alive, all submitted; none: launch anew.

    Raises InputError if the run is alive and there is nothing to submit and nobody to wait, if it
    was launched with other settings, or if SLURM can't say.
    """
    jobs = read_planned(run)
    if not jobs:
        return []
    try:
        find_lost(run, f"{recipe.name}.{run.root.name}")
        is_alive = bool(live_jobs(run))
    except QueueError:
        check_not_live(run)  # says so
        raise
    jobs = [one for one in read_planned(run) if one.attempt == jobs[-1].attempt]
    is_whole = all(one.job for one in jobs)
    if not is_alive:
        if not is_whole:
            save_submitted(run, [one for one in read_planned(run) if one.job])
        return []
    is_same = run.recipe.is_file() and run.recipe.read_text("utf-8") == recipe_to_yaml(recipe)
    if not is_same or (is_whole and not is_waiting):
        check_not_live(run)
    return submit_planned(run, profile, f"{recipe.name}.{run.root.name}", jobs)
