"""A stage's job on SLURM, as each of its processes runs it: ranks from SLURM's variables; after a
stop in order, back into the queue.

A job that was preempted, ran into its time limit or was sent USR2 is requeued by rank 0 once its
state is saved; one that somebody cancelled isn't. Slurm itself requeues after a lost node.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qa_dist.attempts import count_timeout
from qa_dist.cluster.job import StageJob
from qa_dist.cluster.queue import QueueError, requeue, show_job
from qa_dist.files import read_status, write_status
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
        }
        if self.interface:
            environ |= {"GLOO_SOCKET_IFNAME": self.interface, "NCCL_SOCKET_IFNAME": self.interface}
        if not self.has_gpus:
            environ["CUDA_VISIBLE_DEVICES"] = ""
        return environ

    def start(self) -> None:
        """Remove what would keep submitit from storing its result: leftovers of an attempt that was
        killed."""
        name = f"{own_job_id()}_{os.environ['SLURM_PROCID']}_result.pkl.save_tmp"
        (Path(os.environ["SUBMITIT_FOLDER"]) / name).unlink(missing_ok=True)

    def stopped(self, run: RunDir) -> None:
        """Go back into the queue, unless somebody cancelled the job or it ran out of time too
        often."""
        job = own_job_id()
        path = run.status_file(self.stage, self.element)
        facts = read_status(path)
        reason = why_stopped(job, self.signal_lead_s)
        facts |= {"stopped_by": reason, "updated_at": time.time()}
        if reason == "cancelled":
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


def why_stopped(job: str, signal_lead_s: int) -> str:
    """Return "cancelled", "preempted", "time limit" or "asked" (somebody sent USR2)."""
    facts: dict[str, Any] = {}
    with suppress(QueueError):
        facts = show_job(job)
    if facts.get("JobState", "").startswith("CANCELLED"):
        return "cancelled"
    if facts.get("JobState") == "TIMEOUT":
        return "time limit"
    if facts.get("JobState") == "PREEMPTED" or facts.get("PreemptTime", "None") != "None":
        return "preempted"
    end = facts.get("EndTime", "")
    with suppress(ValueError):
        if float(end) - time.time() <= signal_lead_s + _LATE_S:
            return "time limit"
    return "asked"
