"""Stop a run: cancel its jobs, or say which process of this machine to stop.

In: a run, and from which stage on. Out: what was cancelled, as lines for a person. A cancelled
training saves first, if the cluster gives it the time (KillWait), and isn't queued again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qa_dist.attempts import update_run
from qa_dist.cluster.heartbeats import is_on_slurm, launcher
from qa_dist.cluster.queue import QueueError, cancel
from qa_dist.cluster.submitted import find_lost, live_jobs, read_submitted, submitting
from qa_dist.data.prepared import read_prepared
from qa_dist.evaluation.elements import is_each_checkpoint
from qa_dist.files import read_json
from qa_dist.profile import STAGES
from qa_dist.records import InputError
from qa_dist.run_dir import RunDir


def stop_run(run: RunDir, first_stage: str = STAGES[0]) -> list[str]:
    """Cancel a run's live jobs from a stage on; return what to tell. Raises InputError where the
    queue doesn't answer."""
    if first_stage not in STAGES:
        raise InputError(f"{first_stage}: no such stage; expected one of {', '.join(STAGES)}")
    if is_on_slurm(run):
        return list(_stop_jobs(run, STAGES[STAGES.index(first_stage) :]))
    return list(_tell_process(run))


def _stop_jobs(run: RunDir, stages: Sequence[str]) -> Iterator[str]:
    try:
        with submitting(run):  # training that is cancelled submits no evaluation any more
            find_lost(run)
            stage_of = {one.job: one.stage for one in read_submitted(run)}
            live = [job for job in live_jobs(run) if stage_of[job.job] in stages]
            shared = _shared_jobs(run) if live else {}
            kept = sorted({job.job for job in live} & shared.keys())
            live = [job for job in live if job.job not in shared]
            # The last stages first: none of them starts because one before it has ended.
            ids = sorted({job.job for job in live}, reverse=True)
            cancel(ids)
            if ids:  # without accounting nobody else remembers it
                known = read_json(run.run_json).get("cancelled", ())
                update_run(run, cancelled=sorted({*known, *ids}))
    except QueueError as error:
        raise InputError(
            f"{run.root}: the queue doesn't answer ({error}); nothing was cancelled. Try again "
            "when it does"
        ) from error
    for number in kept:
        others = ", ".join(shared[number])
        yield f"left alone: job {number}, as {others} wait for its data (scancel {number} ends it)"
    if not live:
        yield "nothing to cancel: none of its jobs is waiting or running"
        return
    for stage in stages:
        for number in sorted(job for job in ids if stage_of[job] == stage):
            own = [job for job in live if job.job == number]
            count = sum(len(job.indices or (0,)) for job in own)
            states = ", ".join(sorted({job.state.lower() for job in own}))
            elements = f", {count:,} elements" if count > 1 else ""
            yield f"cancelled {stage}: job {number} ({states}{elements})"
    if "train" not in stages and is_each_checkpoint(run):
        yield "training goes on, and has later checkpoints evaluated; cancel it too to end that"
    yield f"go on from what is finished: {launch_again(run)}"


def _shared_jobs(run: RunDir) -> dict[int, list[str]]:
    """Return the run's jobs that others of its sweep wait for, with these runs' names."""
    found: dict[int, list[str]] = {}
    for path in sorted(run.root.parent.glob("*/jobs.json")):
        for one in read_submitted(RunDir(path.parent)):
            if one.of == run.root.name:
                found.setdefault(one.job, []).append(path.parent.name)
    return found


def _tell_process(run: RunDir) -> Iterator[str]:
    holder = launcher(run)
    if holder is None:
        yield "nothing to cancel: no process of this machine works for it"
        return
    here = "" if holder.is_here else f" (log in to {holder.host} first)"
    yield f"process {holder.pid} on {holder.host} runs it; stop it, it saves first{here}:"
    yield f"    kill -TERM {holder.pid}"
    yield f"go on later: {launch_again(run)}"


def launch_again(run: RunDir) -> str:
    """Return the command that goes on with a run where it was launched before."""
    if is_on_slurm(run):
        return f"python jobs/retry.py {run.root}"
    words = [
        f"recipe={run.recipe}",
        f"profile={run.root / 'profile.yaml'}",
        f"name={run.root.name}",
        f"runs_dir={run.root.parents[1]}",
        f"prepared_dir={read_prepared(run).folder.parent}",
    ]
    return f"python jobs/launch.py {' '.join(words)}"
