"""Which log files an element has, and their last lines."""

from __future__ import annotations

from pathlib import Path

import pytest
from fabricated import FakeRun, fabricate

from qa_dist.cluster.run_logs import (
    begun_jobs,
    last_lines,
    last_words,
    log_files,
    scheduler_logs,
    slurms_words,
)


@pytest.fixture
def fake(tmp_path: Path) -> FakeRun:
    return fabricate(tmp_path)


def test_the_newest_attempt_counts_by_number(fake: FakeRun) -> None:
    for name in ("train-0-9-0.err", "train-0-10-1.out", "train-0-10-0.out", "train-0-10-0.err"):
        fake.log(name, "")
    fake.log("train-1-11-0.err", "another element")
    fake.log("notes.txt", "")
    found = [log.path.name for log in log_files(fake.run, "train", 0)]
    assert found == ["train-0-10-0.err", "train-0-10-0.out", "train-0-10-1.out"]
    assert log_files(fake.run, "evaluate", 0) == []


def test_logs_of_the_scheduler_are_of_one_job_only(fake: FakeRun) -> None:
    assert scheduler_logs(fake.run, 1, 2) == []
    for name in ("1_2_0_log.err", "1_2_0_log.out", "1_20_0_log.err", "11_2_0_log.err"):
        fake.log(f"submitit/{name}", "")
    fake.log("submitit/1_2_submitted.pkl", "")
    names = [path.name for path in scheduler_logs(fake.run, 1, 2)]
    assert names == ["1_2_0_log.err", "1_2_0_log.out"]


def test_the_end_of_a_huge_file_is_read_alone(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x" * 10_000_000 + b"\n\xff odd bytes\n\nlast\n")
    assert last_lines(path, 2) == ["\ufffd odd bytes", "last"]
    assert last_lines(tmp_path / "none", 2) == []


def test_last_words_leave_out_what_tells_nothing(fake: FakeRun) -> None:
    fake.log("submitit/7_0_log.err", "srun: got SIGCONT\nsrun: error: n2: task 1: Killed\n")
    fake.log("train-0-1-0.err", "a\nb\nc\nd\nsubmitit WARNING (now) - Bypassing signal SIGCONT\n")
    fake.log("train-0-1-0.out", "not an error\n")
    words = last_words(fake.run, "train", 0, (7, None))
    assert words == "srun: error: n2: task 1: Killed\nb\nc\nd"
    assert last_words(fake.run, "evaluate", 0, None) == ""


def test_slurms_own_words(fake: FakeRun) -> None:
    assert slurms_words(fake.run, (7, None)) == ""
    fake.log("submitit/7_0_log.err", "*** JOB 7 ONE ***\n*** JOB 7 TWO ***\nsrun: error\n")
    assert slurms_words(fake.run, (7, None)) == "*** JOB 7 TWO ***"


def test_a_job_has_begun_that_has_a_log(fake: FakeRun) -> None:
    assert begun_jobs(fake.run) == set()
    for name in ("1_2_0_log.err", "12_0_log.err", "12_0_log.out", "3_4_submitted.pkl"):
        fake.log(f"submitit/{name}", "")
    assert begun_jobs(fake.run) == {"1_2", "12"}
