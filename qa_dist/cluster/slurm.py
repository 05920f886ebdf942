"""Submit the stages of a run to SLURM: all at once, chained by dependency, arrays split at the
cluster's own limit.

In: a run, a profile, and which elements of which stages are missing. Out: jobs.json, which says
what was submitted, and nothing half: if one sbatch is refused, those before it are cancelled; and
what is still to be submitted stands there before the first one is, so that after a kill the next
launch can go on with it (going_on.py). Must not import torch, and not know what the stages do.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from qa_dist import faults
from qa_dist.cluster.queue import Limits, QueueError, cancel, read_limits, run_slurm
from qa_dist.cluster.slurm_job import SlurmJob
from qa_dist.cluster.submitted import (
    Submitted,
    find_lost,
    is_cut_short,
    job_name,
    read_planned,
    read_submitted,
    save_submitted,
)
from qa_dist.files import write_text
from qa_dist.profile import STAGES, Profile, resources_of
from qa_dist.records import InputError
from qa_dist.run_dir import RunDir

_PATH = re.compile(r"/[A-Za-z0-9_./@+=,:-]*")
_EXPORTED = (
    "HOME USER LOGNAME PATH LANG LC_ALL LD_LIBRARY_PATH HF_HOME HF_HUB_CACHE SLURM_CONF "
    f"{faults.VARIABLE} {faults.LOG_VARIABLE}"
).split()
"""All that a job gets of the caller's environment: no secrets."""


def submit_stages(
    run: RunDir,
    profile: Profile,
    title: str,
    elements: Mapping[str, Sequence[int]],
    attempt: int,
    shared: Sequence[Submitted] = (),
) -> list[Submitted]:
    """Submit what is missing of each stage, within `submitting`; return the jobs, in order, those
    of `shared` first: prepare jobs of other runs, which this run's training waits for as well.

    Raises InputError if SLURM refuses one; then none is left in the queue.
    """
    try:
        find_lost(run)
        limits = read_limits()
    except QueueError as error:
        raise InputError(f"{error}; nothing was submitted") from error
    if is_cut_short(run):  # planned anew here, as far as it is missing
        save_submitted(run, read_submitted(run))
    planned, chunk = [replace(one, attempt=attempt) for one in shared], limits.max_array_size
    for stage in STAGES:
        missing = list(elements.get(stage, ()))
        parts = [missing[first : first + chunk] for first in range(0, len(missing), chunk)]
        planned += [Submitted(stage, 0, part, [], attempt, len(part) > 1) for part in parts]
    return submit_planned(run, profile, title, planned, limits)


def submit_planned(
    run: RunDir, profile: Profile, title: str, planned: Sequence[Submitted], limits: Limits
) -> list[Submitted]:
    """Submit those of these jobs that weren't yet, each stage after the one before, within
    `submitting`; return all of them, in order.

    Raises InputError if SLURM refuses one; then none that was submitted here is left in the queue.
    """
    before, jobs = read_planned(run), list(planned)
    earlier = [one for one in before if one not in planned]
    save_submitted(run, [*earlier, *jobs])
    try:
        for place, one in enumerate(planned):
            if one.job:
                continue
            stages = [other.stage for other in jobs[:place] if other.stage != one.stage]
            after = [other.job for other in jobs[:place] if other.stage in stages[-1:]]
            parts = sum(other.stage == one.stage for other in jobs)
            job = _submit(run, profile, title, one, after, parts, limits)
            faults.reach("submit.after_sbatch", place)
            jobs[place] = replace(one, job=job, after=after)
            save_submitted(run, [*earlier, *jobs])
    except BaseException as error:
        try:
            find_lost(run)  # Ctrl-C, or a time-out, may have come before sbatch's answer
        except QueueError as problem:
            raise InputError(
                f"{error}; and what was submitted before can't be cancelled now ({problem}). When "
                "the cluster answers, the same command submits the rest, or `python "
                f"jobs/cancel.py {run.root}` cancels it"
            ) from error
        there = {one.job for one in (*before, *planned)}
        withdraw({run: [one for one in read_submitted(run) if one.job not in there]}, error)
        save_submitted(run, before)
        if isinstance(error, QueueError):
            rest = any(one.job and not one.of for one in planned)
            left = "what was submitted earlier goes on" if rest else "nothing is left in the queue"
            raise InputError(f"{error}; {left}") from error
        raise
    return jobs


def withdraw(submitted: Mapping[RunDir, Sequence[Submitted]], error: BaseException) -> None:
    """Cancel what was just submitted for runs, and forget it, because of `error`.

    Raises InputError with the ids if it can't be cancelled; then it isn't forgotten either.
    """
    ids = [one.job for jobs in submitted.values() for one in jobs if not one.of]
    try:
        cancel(ids)
    except QueueError as problem:
        left = " ".join(map(str, ids))
        raise InputError(
            f"{error}; and what was submitted before that couldn't be cancelled ({problem}). When "
            f"the cluster answers, the same command submits the rest, or `scancel {left}` ends it"
        ) from error
    for run, jobs in submitted.items():
        save_submitted(run, [one for one in read_submitted(run) if one not in jobs])


def _submit(
    run: RunDir,
    profile: Profile,
    title: str,
    one: Submitted,
    after: Sequence[int],
    num_parts: int,
    limits: Limits,
) -> int:
    """Submit one array (or job), one of `num_parts` of its stage; return its id."""
    import submitit

    stage = one.stage
    executor = make_executor(run, profile, title, stage, limits, after, num_parts)
    made = [make_job(run, profile, stage, element, one.attempt) for element in one.elements]
    try:
        with _outside_a_job():
            if len(made) == 1:
                jobs = [executor.submit(made[0])]
            else:
                with executor.batch():
                    jobs = [executor.submit(job) for job in made]
    except submitit.core.utils.FailedJobError as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        refused = [line for line in lines if "error:" in line or "fatal:" in line] or lines
        raise QueueError(f"sbatch refused the {stage} stage: {refused[-1].strip()}") from error
    return int(jobs[0].job_id.partition("_")[0])


@contextmanager
def _outside_a_job() -> Iterator[None]:
    """Hide the variables of a job that we may be in ourselves, but not which cluster to ask."""
    from submitit.helpers import clean_env

    config = os.environ.get("SLURM_CONF")
    with clean_env():
        if config:
            os.environ["SLURM_CONF"] = config
        yield
        os.environ.pop("SLURM_CONF", None)


def make_job(run: RunDir, profile: Profile, stage: str, element: int, attempt: int) -> SlurmJob:
    """Return what an element's processes unpickle: names, paths and numbers."""
    return SlurmJob(
        stage=stage,
        run=str(run.root),
        element=element,
        attempt=attempt,
        threads=resources_of(profile, stage).cpus_per_task,
        ranks_per_node=ranks_per_node(profile) if stage == "train" else 1,
        has_gpus=resources_of(profile, stage).gpus_per_node > 0,
        interface=profile.master_interface,
        signal_lead_s=profile.signal_lead_s,
        max_timeouts=profile.max_timeouts,
    )


def ranks_per_node(profile: Profile) -> int:
    """Return how many training processes each node gets."""
    return profile.ranks_per_node or max(1, profile.gpus_per_node)


def make_executor(
    run: RunDir,
    profile: Profile,
    title: str,
    stage: str,
    limits: Limits | None,
    after: Sequence[int] = (),
    num_parts: int = 1,
) -> Any:
    """Return submitit's executor with a stage's parameters; `limits`: None where SLURM doesn't
    answer."""
    import submitit

    asked = resources_of(profile, stage)
    is_gang = stage == "train"
    # Until Python has its handlers, USR2 would kill it.
    python = f'sh -c \'trap "" USR2; exec "$0" "$@"\' {sys.executable}'
    executor = submitit.SlurmExecutor(
        folder=run.logs / "submitit", max_num_timeout=profile.max_timeouts, python=python
    )
    options = {
        "partition": asked.partition,
        "account": asked.account,
        "qos": asked.qos,
        "constraint": asked.constraint,
        "cpus_per_task": asked.cpus_per_task,
        "gpus_per_node": asked.gpus_per_node,
        "mem": f"{round(asked.mem_gb * 1000)}M" if asked.mem_gb else "",
        "dependency": "afterok:" + ":".join(map(str, after)) if after else "",
    }
    executor.update_parameters(
        **{name: value for name, value in options.items() if value},
        job_name=job_name(title, stage),
        time=asked.timeout_min,
        nodes=profile.nodes if is_gang else 1,
        ntasks_per_node=ranks_per_node(profile) if is_gang else 1,
        signal_delay_s=profile.signal_lead_s,
        array_parallelism=max(1, (profile.max_parallel or 100_000) // num_parts),
        setup=_setup_lines(run, profile),
        srun_args=[
            "--export=ALL",  # of the job, which has only what sbatch was told to export
            f"--wait={_wait_for_peers_s(limits)}",
            *([f"--cpus-per-task={asked.cpus_per_task}"] if asked.cpus_per_task else []),
        ],
        additional_parameters={
            "requeue": True,
            "chdir": str(run.root),
            "export": ",".join(exported_names()) or "NIL",
            **({"kill-on-invalid-dep": "yes"} if after else {}),
        },
    )
    return executor


def _wait_for_peers_s(limits: Limits | None) -> int:
    """Return how long srun lets ranks live on once one has ended: longer than SLURM takes to see
    that a node is lost, since then it queues the job again; srun would end it as failed."""
    return limits.slurmd_timeout_s * 3 // 2 + 30 if limits else 480


def sbatch_scripts(
    run: RunDir, profile: Profile, title: str, stages: Sequence[str]
) -> dict[str, str]:
    """Return what sbatch would be given for each stage, for dry_run=true; ids of jobs aren't known
    yet."""
    limits = None
    with suppress(QueueError):
        limits = read_limits()
    executors = {stage: make_executor(run, profile, title, stage, limits) for stage in stages}
    return {
        stage: str(executor._make_submission_file_text(executor._submitit_command_str, ""))
        for stage, executor in executors.items()
    }


def submit_command(run: RunDir, profile: Profile, title: str, module: str) -> int:
    """Submit what a training would be with this profile, but with another module in the place of
    it, which is given the run's folder; return the job's id. Raises QueueError."""
    executor = make_executor(run, profile, title, "train", read_limits())
    command = f"{executor.python} -u -m {module} {run.root}"
    script = run.root / "job.sh"
    write_text(script, executor._make_submission_file_text(command, ""))
    (run.logs / "submitit").mkdir(parents=True, exist_ok=True)
    return submit_script(script)


def submit_script(script: Path, options: Sequence[str] = (), words: Sequence[str] = ()) -> int:
    """Submit a shell script with options for sbatch and words for the script; return the job's id.
    Raises QueueError."""
    with _outside_a_job():
        answer = run_slurm("sbatch", "--parsable", *options, str(script), *words)
    return int(answer.partition(";")[0])


def exported_names() -> list[str]:
    """Return the variables of our environment that jobs are given."""
    return [name for name in _EXPORTED if name in os.environ]


def _setup_lines(run: RunDir, profile: Profile) -> list[str]:
    """Return the shell lines in front of srun."""
    code = run.root / "code"
    lines = ["umask 077", f". {code / 'slurm' / 'env.sh'}"]
    lines += [f"export {name}='{value}'" for name, value in profile.environment.items()]
    return [*lines, f"export PYTHONPATH={code} HF_HUB_OFFLINE=1"]


def check_paths(run: RunDir) -> None:
    """Raise InputError if a path has characters that sbatch's parser may take for something
    else."""
    for what, path in (("runs_dir", str(run.root)), ("this Python", sys.executable)):
        if not _PATH.fullmatch(path):
            raise InputError(
                f"{what}: {path} holds characters other than letters, digits and _./@+=,:- which "
                "sbatch may misread; choose another place"
            )
