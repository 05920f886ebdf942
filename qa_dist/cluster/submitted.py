"""jobs.json: what was submitted for a run to SLURM, and what a launch is still to submit.

Written before the first sbatch of a launch and after each, so that a launcher that is killed leaves
behind what it did and what it didn't. A job whose id it had no time to write down is found by its
folder and name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

from qa_dist.cluster.queue import QueuedJob, QueueError, queued_jobs, run_slurm
from qa_dist.files import read_json_if_there, write_json
from qa_dist.lock import locked
from qa_dist.records import InputError
from qa_dist.run_dir import RunDir, check_name

_LOCK_S = 60.0


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
    of: str = ""
    """The run beside this one whose job it is, as both need what it prepares; empty: this run's."""


@contextmanager
def submitting(run: RunDir) -> Iterator[None]:
    """Let nobody else submit jobs of a run, or cancel them: a launch, its training, jobs/cancel.py.

    Raises InputError naming who is at it.
    """
    what = "its jobs are being submitted or cancelled"
    with locked(run.root / "jobs.lock", what, _LOCK_S, lambda text: None):
        yield


def job_name(title: str, stage: str) -> str:
    """Return what squeue calls a stage's jobs."""
    return check_name(f"{title}.{stage}"[:64], "job name")


def save_submitted(run: RunDir, jobs: Sequence[Submitted]) -> None:
    """Write jobs.json."""
    write_json(run.jobs, [asdict(job) for job in jobs])


def read_submitted(run: RunDir) -> list[Submitted]:
    """Return all that was ever submitted for a run, oldest first, with the prepare jobs of other
    runs that it waits for."""
    return [one for one in read_planned(run) if one.job]


def read_planned(run: RunDir) -> list[Submitted]:
    """Return the same, and what a launch is still to submit or would have if it hadn't been
    killed."""
    return [Submitted(**job) for job in read_json_if_there(run.jobs) or []]


def submitted_since_training(run: RunDir) -> list[Submitted]:
    """Return what was submitted since training last was, oldest first."""
    jobs = read_submitted(run)
    launched = max((one.attempt for one in jobs if one.stage == "train"), default=0)
    return [one for one in jobs if one.attempt >= launched]


def is_cut_short(run: RunDir) -> bool:
    """Return whether a launch has something left to submit: it is at it, or was killed."""
    return not all(one.job for one in read_planned(run))


def live_jobs(run: RunDir) -> list[QueuedJob]:
    """Return the run's own jobs that are waiting or running. Raises QueueError."""
    return live_among([run])[run]


def live_among(runs: Sequence[RunDir]) -> dict[RunDir, list[QueuedJob]]:
    """Return the same of several runs, with one question to the queue. Raises QueueError."""
    own = {run: {one.job for one in read_submitted(run) if not one.of} for run in runs}
    live = [job for job in queued_jobs(set().union(*own.values())) if job.is_alive]
    return {run: [job for job in live if job.job in ids] for run, ids in own.items()}


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


def find_lost(run: RunDir) -> None:
    """Write down the id of a job that was submitted just before its launcher was killed. Raises
    QueueError."""
    jobs = read_planned(run)
    place = next((place for place, one in enumerate(jobs) if not one.job), None)
    if place is None:
        return
    name = job_name(f"{run.root.parent.name}.{run.root.name}", jobs[place].stage)
    mine = f"{run.root}|{name}"
    known = {one.job for one in jobs}
    lines = run_slurm("squeue", "--me", "-h", "-t", "all", "-o", "%F|%Z|%j").splitlines()
    found = (re.fullmatch(rf"(\d+)\|{re.escape(mine)}", line.strip()) for line in lines)
    ids = {int(match[1]) for match in found if match} - known
    if ids:
        jobs[place] = replace(jobs[place], job=max(ids))
        save_submitted(run, jobs)
