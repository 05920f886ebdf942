"""A launch of a run whose jobs are in the queue: submit what a launcher that was killed didn't, or
look on; whatever else it wants is refused.

In: a run and what is asked of it now. Out: its jobs, if this launch goes on with them.
"""

from __future__ import annotations

from qa_dist.cluster.queue import QueueError, read_limits
from qa_dist.cluster.slurm import submit_planned
from qa_dist.cluster.submitted import (
    Submitted,
    check_not_live,
    find_lost,
    is_cut_short,
    live_jobs,
    read_planned,
    save_submitted,
    submitting,
)
from qa_dist.profile import Profile
from qa_dist.recipe import Recipe
from qa_dist.recipe_loading import recipe_to_yaml
from qa_dist.records import InputError
from qa_dist.run_dir import RunDir


def submit_rest(run: RunDir, recipe: Recipe, profile: Profile) -> list[Submitted]:
    """Submit what a launcher that was killed had no time to, if what it did submit is still alive;
    return all jobs of that launch, none if there is nothing to go on with.

    Raises InputError if the run was launched with another recipe, or if SLURM can't say.
    """
    if not is_cut_short(run):
        return []
    with submitting(run):
        return _submit_rest(run, recipe, profile)


def _submit_rest(run: RunDir, recipe: Recipe, profile: Profile) -> list[Submitted]:
    try:
        find_lost(run)
        is_alive = bool(live_jobs(run))
    except QueueError:
        check_not_live(run)  # says what it means
        raise
    there = read_planned(run)
    if not is_alive:
        save_submitted(run, [one for one in there if one.job])
        return []
    if not _is_same(run, recipe):
        check_not_live(run)
    try:
        limits = read_limits()
    except QueueError as error:
        raise InputError(f"{error}; nothing more was submitted, launch again") from error
    newest = [one for one in there if one.attempt == there[-1].attempt]
    return submit_planned(run, profile, f"{recipe.name}.{run.root.name}", newest, limits)


def jobs_to_watch(run: RunDir, recipe: Recipe) -> list[Submitted]:
    """Return the jobs of the newest launch of a run if any is alive and it was launched with this
    very recipe; else none."""
    jobs = read_planned(run)
    try:
        if not jobs or not live_jobs(run) or not _is_same(run, recipe):
            return []
    except QueueError:
        return []  # whoever checks next says so
    return [one for one in jobs if one.attempt == jobs[-1].attempt]


def _is_same(run: RunDir, recipe: Recipe) -> bool:
    return run.recipe.is_file() and run.recipe.read_text("utf-8") == recipe_to_yaml(recipe)
