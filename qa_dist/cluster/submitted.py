"""jobs.json: what was submitted for a run to SLURM, and what a launch is still to submit.

Written before the first sbatch of a launch and after each, so that a launcher that is killed leaves
behind what it did and what it didn't. A job whose id it had no time to write down is found by its
folder and name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from qa_dist.cluster.queue import QueuedJob, QueueError, queued_jobs, run_slurm
from qa_dist.files import read_json_if_there, write_json
from qa_dist.records import InputError
from qa_dist.run_dir import RunDir, check_name


@dataclass(frozen=True)
class Submitted:
    """One sbatch: an array, or a job of one element."""

    stage: str
    job: int
    """SLURM's id; 0: not submitted yet."""
    elements: list[int]
    """The stage's elements, by array index."""
    after: list[int]
    """Jobs that must have succeeded first."""
    attempt: int
    is_array: bool


def job_name(title: str, stage: str) -> str:
    """Return what squeue calls a stage's jobs."""
    return check_name(f"{title}.{stage}"[:64], "job name")


def save_submitted(run: RunDir, jobs: Sequence[Submitted]) -> None:
    """Write jobs.json."""
    write_json(run.jobs, [asdict(job) for job in jobs])


def read_submitted(run: RunDir) -> list[Submitted]:
    """Return all that was ever submitted for a run, oldest first."""
    return [one for one in read_planned(run) if one.job]


def read_planned(run: RunDir) -> list[Submitted]:
    """Return the same, and what a launch is still to submit or would have if it hadn't been
    killed."""
    return [Submitted(**job) for job in read_json_if_there(run.jobs) or []]


def live_jobs(run: RunDir) -> list[QueuedJob]:
    """Return the run's jobs that are waiting or running. Raises QueueError."""
    return [job for job in queued_jobs(one.job for one in read_submitted(run)) if job.is_alive]


def check_not_live(run: RunDir) -> None:
    """Raise InputError with the ids if jobs of the run are waiting or running, or if SLURM can't
    say."""
    if not read_submitted(run):
        return
    try:
        live = live_jobs(run)
    except QueueError as error:
        raise InputError(
            f"{run.root}: can't tell whether its jobs are still running ({error}); try again when "
            "the cluster answers"
        ) from error
    if live:
        numbers = " ".join(sorted({str(job.job) for job in live}))
        ids = ", ".join(sorted({f"{job.job} ({job.state.lower()})" for job in live}))
        raise InputError(
            f"{run.root}: its jobs are in the queue: {ids}. Wait for them, or cancel them with "
            f"`scancel {numbers}`; for a second run beside it give name=..."
        )


def find_lost(run: RunDir, title: str) -> None:
    """Write down the id of a job that was submitted just before its launcher was killed. Raises
    QueueError."""
    jobs = read_planned(run)
    place = next((place for place, one in enumerate(jobs) if not one.job), None)
    if place is None:
        return
    mine = f"{run.root}|{job_name(title, jobs[place].stage)}"
    known = {one.job for one in jobs}
    lines = run_slurm("squeue", "--me", "-h", "-t", "all", "-o", "%F|%Z|%j").splitlines()
    found = (re.fullmatch(rf"(\d+)\|{re.escape(mine)}", line.strip()) for line in lines)
    ids = {int(match[1]) for match in found if match} - known
    if ids:
        jobs[place] = replace(jobs[place], job=max(ids))
        save_submitted(run, jobs)
