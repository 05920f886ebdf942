"""A stage's job on SLURM, as each of its processes runs it: ranks from SLURM's variables; after a
stop in order, back into the queue.

A job that was preempted, ran into its time limit or was sent USR2 is requeued by rank 0 once its
state is saved; one that somebody cancelled isn't. After a lost node Slurm itself requeues.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qa_dist.attempts import count_timeout
from qa_dist.cluster.job import Saved, StageJob
from qa_dist.cluster.queue import QueueError, requeue, show_job
from qa_dist.evaluation.elements import is_each_checkpoint
from qa_dist.files import read_status, write_status
from qa_dist.processes import stop_signals
from qa_dist.run_dir import RunDir

_LATE_S = 30.0


@dataclass(frozen=True)
class SlurmJob(StageJob):
    """Started by srun, one process per rank."""

    ranks_per_node: int
    has_gpus: bool
    interface: str
    """Where ranks listen; empty: the default route's."""
    signal_lead_s: int
    max_timeouts: int

    def rank_environ(self) -> dict[str, str]:
        restart = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
        meeting = f"rendezvous-{os.environ['SLURM_JOB_ID']}-{restart}.json"
        environ = {
            "QA_DIST_ATTEMPT": str(self.attempt + restart),
            "RANK": os.environ["SLURM_PROCID"],
            "LOCAL_RANK": os.environ["SLURM_LOCALID"],
            "WORLD_SIZE": os.environ["SLURM_NTASKS"],
            "LOCAL_WORLD_SIZE": str(self.ranks_per_node),
            "QA_DIST_RENDEZVOUS": str(RunDir(Path(self.run)).status / meeting),
            # A peer that hangs is given up before the time to save is over.
            "QA_DIST_TIMEOUT_S": str(max(20, self.signal_lead_s - 60)),
            "QA_DIST_INTERFACE": self.interface,
            "QA_DIST_NODE": os.environ.get("SLURMD_NODENAME", ""),
        }
        if self.interface:
            environ |= {"GLOO_SOCKET_IFNAME": self.interface, "NCCL_SOCKET_IFNAME": self.interface}
        if environ["WORLD_SIZE"] == "1":
            del environ["LOCAL_RANK"]  # with it Accelerate would look for peers, at no address
        if not self.has_gpus:
            environ["CUDA_VISIBLE_DEVICES"] = ""
        return environ

    def start(self) -> None:
        """Remove what would keep submitit from storing its result: leftovers of an attempt that was
        killed."""
        name = f"{own_job_id()}_{os.environ['SLURM_PROCID']}_result.pkl.save_tmp"
        (Path(os.environ["SUBMITIT_FOLDER"]) / name).unlink(missing_ok=True)

    @contextmanager
    def following(self, run: RunDir) -> Iterator[Saved]:
        """Have each checkpoint evaluated while training goes on, if the recipe asks for it."""
        if self.stage != "train" or not is_each_checkpoint(run) or os.environ["RANK"] != "0":
            yield lambda is_last: None
            return
        from qa_dist.cluster.each_checkpoint import Submitter

        with Submitter(run, int(os.environ["QA_DIST_ATTEMPT"])) as submitter:
            yield submitter.saved

    def stopped(self, run: RunDir) -> None:
        """Go back into the queue, unless somebody cancelled the job or it ran out of time too
        often."""
        job = own_job_id()
        path = run.status_file(self.stage, self.element)
        facts = read_status(path)
        reason = why_stopped(job, self.signal_lead_s, signal.SIGUSR2 in stop_signals())
        facts |= {"stopped_by": reason, "updated_at": time.time()}
        if reason == "ended":  # after a lost node Slurm puts it back into the queue by itself
            write_status(path, facts)
            return
        timeouts = 0
        if reason == "time limit":
            timeouts = count_timeout(run, self.stage, self.element)
        if timeouts > self.max_timeouts:
            text = (
                f"ran into its time limit {timeouts} times (max_timeouts={self.max_timeouts}); all "
                "is saved. Launch again to go on, or raise timeout_min or max_timeouts in the "
                "profile"
            )
            write_status(path, {**facts, "state": "failed", "error": text})
            raise SystemExit(1)
        write_status(path, {**facts, "state": "waiting"})
        try:
            requeue(job)
        except QueueError as error:
            if "pending" in str(error):
                return  # it is back in the queue already
            text = (
                f"stopped ({reason}) and couldn't be queued again: {error}. Launch again to go on"
            )
            write_status(path, {**facts, "state": "failed", "error": text})
            raise SystemExit(1) from error


def own_job_id() -> str:
    """Return this job's id as scontrol takes it: of an array element "12_3"."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    if array:
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ["SLURM_JOB_ID"]


def why_stopped(job: str, signal_lead_s: int, had_warning: bool) -> str:
    """Return "preempted", "time limit", "asked" (by USR2) or "ended" (cancelled, or a node lost).

    `had_warning`: USR2 came, which Slurm sends before a preemption and a time limit only.
    """
    facts: dict[str, Any] = {}
    with suppress(QueueError):
        facts = show_job(job)
    if had_warning and facts.get("PreemptTime", "None") != "None":
        return "preempted"  # the end is near as well then: that of the grace time
    with suppress(ValueError, KeyError):
        end = float(facts["EndTime"])
        until = min(end, time.time())  # of a job that runs, the end is where its limit is
        is_over = until - float(facts["StartTime"]) >= _seconds(facts["TimeLimit"])
        if is_over or (had_warning and end - time.time() <= signal_lead_s + _LATE_S):
            return "time limit"
    return "asked" if had_warning else "ended"


def _seconds(text: str) -> float:
    """Return the seconds of e.g. "1-02:00:00"."""
    days, _, clock = text.rpartition("-")
    hours, minutes, seconds = map(int, clock.split(":"))
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60.0 + seconds
