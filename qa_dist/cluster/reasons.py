"""SLURM's words in ours: why a job waits, and how one ended.

In: squeue's or sacct's state and reason. Out: a few words that say what it waits for, and where
there is something to do, what. A word that isn't known here is passed on as it is.
"""

from __future__ import annotations

import re
import time

from qa_dist.cluster.queue import QueuedJob

_WAITS = {
    "": "just submitted",
    "None": "just submitted",
    "Priority": "jobs with a higher priority are before it",
    "Resources": "no nodes are free yet",
    "Dependency": "the stage before it isn't done",
    "BeginTime": "it may not start yet",
    "JobArrayTaskLimit": "as many elements as the profile's max_parallel allows are running",
    "JobHeldUser": "held; `scontrol release {job}` lets it go",
    "JobHeldAdmin": "held by the cluster's administrators; ask them",
    "Licenses": "no licence is free",
    "Reservation": "its reservation hasn't begun",
    "ReqNodeNotAvail": "nodes it asks for are down, drained or reserved",
    "PartitionDown": "the partition is down",
    "PartitionInactive": "the partition is closed",
    "PartitionTimeLimit": "it asks for more time than the partition allows; lower timeout_min",
    "PartitionNodeLimit": "it asks for more nodes than the partition has or allows",
    "PartitionConfig": "the partition can't give what it asks for",
    "BadConstraints": "no node has what the profile's constraint asks for",
    "NodeDown": "a node it needs is down",
    "Cleaning": "its last attempt is still being cleaned up",
    "Prolog": "its nodes are being set up",
    "InvalidAccount": "the account doesn't exist; see account in the profile",
    "InvalidQOS": "the quality of service doesn't exist; see qos in the profile",
    "AssociationJobLimit": "your account has as many jobs as it may",
    "DependencyNeverSatisfied": "a stage before it failed",
    "JobLaunchFailure": "it couldn't be started on its node; `scontrol release {job}` tries again",
}
_LIMITS = (
    (r"QOS.*(PerUser|PU)", "you have as much running as the quality of service lets one user"),
    (r"QOS.*(PerAccount|PA)", "your account has as much running as the quality of service lets it"),
    (r"QOS|MaxMem|MaxCpu", "the limit of the quality of service is reached"),
    (r"Assoc", "the limit of your account is reached"),
)
_ENDS = {
    "TIMEOUT": "it ran into its time limit before it could save",
    "OUT_OF_MEMORY": "it used more memory than it had; raise mem_gb in the profile",
    "NODE_FAIL": "its node was lost",
    "BOOT_FAIL": "its node couldn't be started",
    "PREEMPTED": "it was preempted and not queued again",
    "DEADLINE": "its deadline passed",
    "CANCELLED": "it was cancelled",
}
_IN_LOGS = (
    (r"DUE TO TIME LIMIT", "TIMEOUT"),
    (r"DUE TO PREEMPTION", "PREEMPTED"),
    (r"DUE TO NODE FAILURE", "NODE_FAIL"),
    (r"(?i)oom.kill|out.of.memory", "OUT_OF_MEMORY"),
    (r"CANCELLED AT \S+ \*\*\*", "CANCELLED"),
)
_RUNNING = ["RUNNING", "COMPLETING", "SUSPENDED", "SIGNALING", "STAGE_OUT", "STOPPED", "RESIZING"]


def is_running(job: QueuedJob) -> bool:
    """Return whether a job is on nodes."""
    return job.state in _RUNNING


def why_waiting(job: QueuedJob, now: float | None = None) -> str:
    """Return what a job in the queue waits for, with SLURM's own word in parentheses."""
    reason = job.reason.strip("()")
    word = reason.partition(",")[0]  # "ReqNodeNotAvail, UnavailableNodes:n3"
    if job.state == "CONFIGURING":
        return "its nodes are being set up (CONFIGURING)"
    if job.state in ("REQUEUE_HOLD", "SPECIAL_EXIT"):
        return f"held after it was queued again; `scontrol release {job.job}` lets it go"
    text = _WAITS.get(word)
    if text is None:
        text = next((said for pattern, said in _LIMITS if re.match(pattern, word)), "")
    text = text.format(job=job.job)
    if word == "BeginTime" and job.start.isdigit():
        seconds = int(job.start) - (time.time() if now is None else now)
        text = f"queued again, starts in {max(0, round(seconds))} s at the earliest"
    if not text:
        return reason
    return f"{text} ({reason})" if word not in ("", "None") else text


def why_ended(job: QueuedJob | None, words: str) -> str:
    """Return how a job that is over ended: a word of _ENDS, or SLURM's own; empty: nobody knows.

    `words` is what SLURM wrote into the job's log: all there is without accounting.
    """
    if job and job.state not in ("COMPLETED", "FAILED"):
        return job.state
    for pattern, state in _IN_LOGS:
        if re.search(pattern, words):
            return state
    return ""


def explain_end(state: str) -> str:
    """Return an ending of `why_ended` as a sentence's end."""
    return _ENDS.get(state, f"SLURM says {state}" if state else "")
