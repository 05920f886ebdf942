"""What squeue, sacct and scontrol say, read; and silence isn't taken for an answer."""

from __future__ import annotations

from pathlib import Path

import pytest
from fabricated import DOWN
from fake_slurm import FakeSlurm

from qa_dist.cluster import queue
from qa_dist.cluster.queue import Limits, Queue, QueueError, read_indices

# Real lines of slurm-wlm 22.05, asked as queued_jobs asks.
PIECES = """27|0-3%2|PENDING|Dependency||N/A|afterok:26(unfulfilled)
30|N/A|RUNNING|None|n[1-2]|1795231817|(null)
23|7|RUNNING|None|n3|1795231817|(null)
23|8-9,12%2|PENDING|JobArrayTaskLimit||N/A|(null)
31|N/A|PENDING|BeginTime||1795231825|(null)
"""
GONE = "slurm_load_jobs error: Invalid job id specified"


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    return FakeSlurm(tmp_path / "bin", monkeypatch)


@pytest.mark.parametrize(
    ("text", "indices"),
    [
        ("3", (3,)),
        ("0-4,7", (0, 1, 2, 3, 4, 7)),
        ("3-5%2", (3, 4, 5)),
        ("0-20:5", (0, 5, 10, 15, 20)),
        ("1-399:2%2", tuple(range(1, 400, 2))),
        ("0,2-4,6-10:2%7", (0, 2, 3, 4, 6, 8, 10)),
    ],
)
def test_indices_of_arrays(text: str, indices: tuple[int, ...]) -> None:
    assert read_indices(text) == indices


def test_jobs_in_the_queue(slurm: FakeSlurm) -> None:
    slurm.answers("squeue", PIECES)
    waiting, running, element, others, again = queue.queued_jobs([31, 23, 27, 30, 23])
    assert slurm.calls[0].endswith("-j 23,27,30,31"), "each once"
    assert waiting.job == 27 and waiting.indices == (0, 1, 2, 3) and waiting.is_alive
    assert (waiting.reason, waiting.dependency) == ("Dependency", "afterok:26(unfulfilled)")
    assert running.indices is None and running.nodes == "n[1-2]" and running.reason == ""
    assert element.indices == (7,) and others.indices == (8, 9, 12)
    assert again.start == "1795231825" and waiting.start == ""


def test_long_lists_of_indices_are_asked_for_whole(slurm: FakeSlurm, tmp_path: Path) -> None:
    squeue = tmp_path / "bin" / "squeue"
    squeue.write_text('#!/bin/sh\necho "5|$SLURM_BITSTR_LEN|PENDING|None||N/A|(null)"\n')
    (job,) = queue.queued_jobs([5])
    assert job.indices == (0,), "0: no limit; squeue's own is 64 characters, and then ..."


def test_nothing_asked_calls_nobody(slurm: FakeSlurm) -> None:
    assert queue.queued_jobs([]) == queue.ended_jobs([]) == []
    queue.cancel([])
    assert slurm.calls == []


def test_jobs_that_are_all_forgotten_are_no_error_but_silence_is(slurm: FakeSlurm) -> None:
    slurm.answers("squeue", "", GONE)
    assert queue.queued_jobs([7]) == []
    slurm.answers("squeue", "", DOWN)
    with pytest.raises(QueueError, match="Unable to contact slurm controller"):
        queue.queued_jobs([7])


def test_no_slurm_and_a_slow_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(QueueError, match="squeue: there is no such command"):
        queue.queued_jobs([7])
    assert not queue.is_answering() and queue.ended_jobs([7]) == []
    (tmp_path / "squeue").write_text("#!/bin/sh\nexec /bin/sleep 5\n")
    (tmp_path / "squeue").chmod(0o700)
    with pytest.raises(QueueError, match="no answer within 0 s"):
        queue.queued_jobs([7], timeout_s=0.2)


def test_accounting(slurm: FakeSlurm) -> None:
    slurm.answers(
        "sacct",
        "12_0|COMPLETED|n1|0:0\n12_1|CANCELLED by 0|n2|0:15\n12_[2-7%2]|PENDING|None assigned|0:0\n"
        "13|OUT_OF_MEMORY|n[1-2]|0:125\n13.batch|FAILED|n1|1:0\n",
    )
    first, second, rest, single = queue.ended_jobs([12, 13])
    assert (first.job, first.indices, first.state, first.reason) == (12, (0,), "COMPLETED", "")
    assert second.state == "CANCELLED" and second.reason == "exit code 0:15"
    assert rest.indices == (2, 3, 4, 5, 6, 7) and rest.nodes == ""
    assert single.indices is None and single.nodes == "n[1-2]" and not single.is_alive


def test_without_accounting_nobody_knows(slurm: FakeSlurm) -> None:
    slurm.has_no_accounting()
    assert queue.ended_jobs([12]) == []


def test_a_queue_asks_accounting_for_what_squeue_forgot_only(slurm: FakeSlurm) -> None:
    slurm.answers("squeue", "12|3|RUNNING|None|n1|1|(null)\n")
    slurm.answers("sacct", "12_2|FAILED|n1|1:0\n12_3|PENDING|None assigned|0:0\n")
    known = Queue()
    known.ask([(12, 2), (12, 3), (12, 4)])
    failed, running = known.find((12, 2)), known.find((12, 3))
    assert failed and failed.state == "FAILED"
    assert running and running.state == "RUNNING", "squeue is newer"
    assert known.find((12, 4)) is None and known.error == ""
    assert [call.split()[0] for call in slurm.calls] == ["squeue", "sacct"]


def test_a_queue_that_is_down_says_so_and_asks_nobody_else(slurm: FakeSlurm) -> None:
    slurm.answers("squeue", "", DOWN)
    known = Queue()
    known.ask([(12, None)])
    assert "Unable to contact" in known.error and len(slurm.calls) == 1


def test_cancelling(slurm: FakeSlurm) -> None:
    queue.cancel([4, 5])
    assert slurm.calls == ["scancel 4 5"]
    slurm.answers(
        "scancel", "", "scancel: error: Kill job error on job id 4: Invalid job id specified"
    )
    queue.cancel([4])
    slurm.answers("scancel", "", "scancel: error: Access/permission denied")
    with pytest.raises(QueueError, match="permission denied"):
        queue.cancel([4])


def test_scontrol(slurm: FakeSlurm) -> None:
    slurm.answers("scontrol", "JobId=7 JobState=RUNNING EndTime=1795231817 Command=(null)\n")
    assert queue.show_job("12_3")["JobState"] == "RUNNING"
    queue.requeue("12_3")
    assert slurm.calls == ["scontrol show job -o 12_3", "scontrol requeue 12_3"]
    slurm.answers("scontrol", "MaxArraySize            = 6\nSlurmdTimeout = 20 sec\n")
    assert queue.read_limits() == Limits(max_array_size=6, slurmd_timeout_s=20)
    slurm.answers("scontrol", "SlurmctldHost = head\n")
    assert queue.read_limits() == Limits(max_array_size=1001, slurmd_timeout_s=300), "SLURM's own"
    slurm.answers("scontrol", "", "Requested operation is presently disabled")
    with pytest.raises(QueueError, match="scontrol requeue: Requested operation"):
        queue.requeue("12_3")


def test_a_cluster_that_answers(slurm: FakeSlurm) -> None:
    assert queue.is_answering()
    slurm.answers("sinfo", "", "sinfo: fatal: Could not establish a configuration source")
    assert not queue.is_answering()
    slurm.answers("sinfo", "", DOWN)
    with pytest.raises(QueueError, match="Unable to contact slurm controller"):
        queue.is_answering()
