"""SLURM's words in ours."""

from __future__ import annotations

import pytest

from qa_dist.cluster.queue import QueuedJob
from qa_dist.cluster.reasons import explain_end, is_running, why_ended, why_waiting


def job(state: str, reason: str = "", start: str = "") -> QueuedJob:
    return QueuedJob(12, None, state, reason, start=start)


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("", "just submitted"),
        ("Priority", "jobs with a higher priority are before it (Priority)"),
        ("Resources", "no nodes are free yet (Resources)"),
        ("QOSMaxJobsPerUserLimit", "lets one user (QOSMaxJobsPerUserLimit)"),
        ("QOSGrpGRES", "the limit of the quality of service is reached (QOSGrpGRES)"),
        ("AssocGrpCpuLimit", "the limit of your account is reached (AssocGrpCpuLimit)"),
        ("ReqNodeNotAvail, UnavailableNodes:n3", "(ReqNodeNotAvail, UnavailableNodes:n3)"),
        ("JobHeldUser", "`scontrol release 12` lets it go (JobHeldUser)"),
        ("BeginTime", "queued again, starts in 90 s at the earliest (BeginTime)"),
        ("SomethingNew", "SomethingNew"),
    ],
)
def test_why_a_job_waits(reason: str, said: str) -> None:
    text = why_waiting(job("PENDING", reason, "1090" if reason == "BeginTime" else ""), now=1000)
    assert text.endswith(said)


def test_states_that_are_reasons() -> None:
    assert "being set up" in why_waiting(job("CONFIGURING"))
    assert "scontrol release 12" in why_waiting(job("REQUEUE_HOLD", "JobHeldAdmin"))
    assert is_running(job("COMPLETING")) and not is_running(job("PENDING"))


@pytest.mark.parametrize(
    ("line", "state"),
    [
        (
            "slurmstepd-n1: error: *** JOB 14 ON n1 CANCELLED AT 2026-11-21T03:11:56 ***",
            "CANCELLED",
        ),
        (
            "error: *** STEP 14.0 ON n1 CANCELLED AT 2026-11-21T03:11 DUE TO TIME LIMIT ***",
            "TIMEOUT",
        ),
        ("error: *** JOB 14 ON n1 CANCELLED AT 2026-11-21T03 DUE TO PREEMPTION ***", "PREEMPTED"),
        ("slurmstepd: error: Detected 1 oom_kill event in StepId=14.0", "OUT_OF_MEMORY"),
        ("error: *** JOB 14 ON n1 CANCELLED AT 2026-11-21T03:11:56 DUE TO JOB REQUEUE ***", ""),
        ("", ""),
    ],
)
def test_how_a_job_ended_by_what_slurm_wrote(line: str, state: str) -> None:
    assert why_ended(None, line) == state


def test_how_a_job_ended_by_what_slurm_answers() -> None:
    assert why_ended(job("NODE_FAIL"), "anything") == "NODE_FAIL"
    assert why_ended(job("FAILED"), "DUE TO TIME LIMIT") == "TIMEOUT", "it knows more than FAILED"
    assert explain_end("NODE_FAIL") == "its node was lost"
    assert explain_end("ODD") == "SLURM says ODD" and explain_end("") == ""
