"""What a job's processes make of SLURM's variables, and what they do after a stop."""

from __future__ import annotations

import pickle
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from fake_slurm import FakeSlurm, fake_slurm

from qa_dist.cluster import slurm_job
from qa_dist.cluster.slurm_job import SlurmJob, own_job_id, why_stopped
from qa_dist.files import read_json, read_status, write_json, write_status
from qa_dist.run_dir import RunDir

__all__ = ["fake_slurm"]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "main")
    write_json(run.run_json, {"id": "a", "attempt": 3})
    write_status(run.status_file("train", 0), {"state": "stopped", "step": 5})
    return run


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "SLURM_JOB_ID": "12",
        "SLURM_PROCID": "5",
        "SLURM_LOCALID": "1",
        "SLURM_NTASKS": "8",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    monkeypatch.setattr(slurm_job, "stop_signals", lambda: {signal.SIGUSR2})


def make_job(run: RunDir, **facts: Any) -> SlurmJob:
    defaults: dict[str, Any] = {
        "stage": "train",
        "element": 0,
        "attempt": 3,
        "threads": 1,
        "ranks_per_node": 4,
        "has_gpus": False,
        "interface": "lo",
        "signal_lead_s": 120,
        "max_timeouts": 2,
    }
    return SlurmJob(**{**defaults, "run": str(run.root), **facts})


def test_it_pickles_as_names_and_numbers(run: RunDir) -> None:
    assert all(isinstance(value, str | int) for value in vars(make_job(run)).values())
    assert len(pickle.dumps(make_job(run))) < 1000


def test_ranks_and_attempt_come_from_slurm(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make_job(run).rank_environ()
    assert (first["RANK"], first["LOCAL_RANK"], first["WORLD_SIZE"]) == ("5", "1", "8")
    assert first["LOCAL_WORLD_SIZE"] == "4" and first["QA_DIST_ATTEMPT"] == "3"
    assert first["CUDA_VISIBLE_DEVICES"] == "" and first["GLOO_SOCKET_IFNAME"] == "lo"
    assert float(first["QA_DIST_TIMEOUT_S"]) < 120
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    again = make_job(run, has_gpus=True).rank_environ()
    assert again["QA_DIST_ATTEMPT"] == "5"
    assert again["QA_DIST_RENDEZVOUS"] != first["QA_DIST_RENDEZVOUS"]
    assert "CUDA_VISIBLE_DEVICES" not in again


def test_a_single_rank_looks_for_no_peers(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert "LOCAL_RANK" not in make_job(run).rank_environ()


RUNNING = "JobId=12 JobState=RUNNING TimeLimit=1-00:10:00 StartTime={start}"
ENDING = "JobId=12 JobState=COMPLETING TimeLimit=00:10:00 StartTime=5"


@pytest.mark.parametrize(
    ("facts", "warned", "reason"),
    [
        (RUNNING + " PreemptTime=1700000000 EndTime={soon}", True, "preempted"),
        (RUNNING + " PreemptTime=None EndTime={soon}", True, "time limit"),
        (RUNNING + " PreemptTime=None EndTime={late}", True, "asked"),
        (RUNNING + " PreemptTime=None EndTime={limit}", True, "asked"),
        (RUNNING + " PreemptTime=None EndTime={limit}", False, "ended"),
        (RUNNING + " PreemptTime=None EndTime=Unknown", True, "asked"),
        (ENDING + " EndTime=9", False, "ended"),
        (ENDING + " EndTime=605", False, "time limit"),
        ("", False, "ended"),
        ("", True, "asked"),
    ],
)
def test_why_it_was_stopped(fake_slurm: FakeSlurm, facts: str, warned: bool, reason: str) -> None:
    now = int(time.time())
    text = facts.format(start=now - 60, soon=now + 100, late=now + 4000, limit=now - 60 + 87000)
    fake_slurm.says("scontrol", text)
    assert why_stopped("12", 120, warned) == reason


def test_an_array_element_has_a_name_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert own_job_id() == "12"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "10")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert own_job_id() == "10_3"


def test_a_preempted_job_goes_back_into_the_queue(fake_slurm: FakeSlurm, run: RunDir) -> None:
    fake_slurm.says("scontrol", "JobState=RUNNING PreemptTime=1700000000")
    make_job(run).stopped(run)
    assert fake_slurm.calls[-1] == "scontrol requeue 12"
    status = read_status(run.status_file("train", 0))
    assert (status["state"], status["step"]) == ("waiting", 5)
    assert status["stopped_by"] == "preempted"
    assert "timeouts" not in read_json(run.run_json), "only time limits use that budget up"


def test_a_cancelled_job_stays_stopped(
    fake_slurm: FakeSlurm, run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm_job, "stop_signals", lambda: {signal.SIGTERM})
    fake_slurm.says("scontrol", "JobState=COMPLETING StartTime=5 EndTime=9 TimeLimit=00:10:00")
    make_job(run).stopped(run)
    assert not any("requeue" in call for call in fake_slurm.calls)
    assert read_status(run.status_file("train", 0))["state"] == "stopped"


def test_t12_too_many_time_limits_end_with_what_to_do(fake_slurm: FakeSlurm, run: RunDir) -> None:
    times = f"StartTime={int(time.time()) - 60} EndTime={int(time.time()) + 60}"
    fake_slurm.says("scontrol", f"JobState=RUNNING {times} TimeLimit=00:10:00")
    for _ in range(2):
        make_job(run).stopped(run)
    assert [call for call in fake_slurm.calls if "requeue" in call] == ["scontrol requeue 12"] * 2
    with pytest.raises(SystemExit):
        make_job(run).stopped(run)
    status = read_status(run.status_file("train", 0))
    assert status["state"] == "failed"
    assert (
        "ran into its time limit 3 times" in status["error"] and "all is saved" in status["error"]
    )


def test_s10_a_refused_requeue_says_so(fake_slurm: FakeSlurm, run: RunDir) -> None:
    fake_slurm.fails("scontrol", "Requested operation is presently disabled for job 12\n")
    with pytest.raises(SystemExit):
        make_job(run).stopped(run)
    error = read_status(run.status_file("train", 0))["error"]
    assert "presently disabled" in error and "Launch again to go on" in error
