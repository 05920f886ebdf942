"""What the disk says of elements and of processes."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from pathlib import Path

import pytest
from fabricated import FakeRun, fabricate

from qa_dist.cluster.heartbeats import (
    Holder,
    OnDisk,
    aggregates_of,
    is_at_work,
    is_on_slurm,
    jobs_of,
    launcher,
    lock_holder,
    read_elements,
    worker,
)


@pytest.fixture
def fake(tmp_path: Path) -> FakeRun:
    return fabricate(tmp_path, num_shards=2)


def test_markers_say_what_is_done_and_heartbeats_what_was_said(fake: FakeRun) -> None:
    fake.prepare(1)
    fake.beat("prepare", 0, "running", step=3)
    first, second, dev = read_elements(fake.run, "prepare")
    assert (first.is_done, first.said, second.is_done, second.said) == (False, "running", True, "")
    assert dev.is_done and dev.index == 2


def test_of_shared_data_the_run_that_prepares_it_tells(tmp_path: Path, fake: FakeRun) -> None:
    other = fabricate(tmp_path, num_shards=2, name="two")
    fake.submit("prepare", 7, range(2), is_array=True)
    fake.beat("prepare", 1, "failed", error="no room")
    other.submit("prepare", 7, range(2), is_array=True)
    other.run.jobs.write_text(other.run.jobs.read_text().replace("{", '{"of": "one", '))
    assert [one.said for one in read_elements(other.run, "prepare")] == ["waiting", "failed", ""]


def test_a_torn_heartbeat_says_nothing(fake: FakeRun) -> None:
    fake.beat("train", 0, "running")
    fake.run.status_file("train", 0).write_text('{"state": "runn')
    (train,) = read_elements(fake.run, "train")
    assert train == OnDisk(0, False, {}) and train.said == ""


def test_the_checkpoints_say_what_there_is_to_evaluate(fake: FakeRun) -> None:
    assert [e.index for e in read_elements(fake.run, "evaluate")] == [0], "one at least"
    fake.submit("evaluate", 3, range(4), is_array=True)
    assert [e.index for e in read_elements(fake.run, "evaluate")] == [0, 1, 2, 3]
    fake.train(4, of=8)
    assert len(read_elements(fake.run, "evaluate")) == 4, "not known before training is done"
    fake.train(8, of=8)
    fake.evaluate(8)
    assert [e.is_done for e in read_elements(fake.run, "evaluate")] == [False, True]
    assert not read_elements(fake.run, "aggregate")[0].is_done
    fake.beat("aggregate", 0, "done")
    fake.score(8)
    assert not read_elements(fake.run, "aggregate")[0].is_done, "step 4 has no scores"
    fake.score(4)
    assert read_elements(fake.run, "aggregate")[0].is_done


def each(fake: FakeRun) -> FakeRun:
    fake.run.recipe.write_text(
        "name: tiny\ntrain:\n  checkpoint_every_steps: 4\nevaluation:\n  when: each_checkpoint\n"
    )
    return fake


def test_each_checkpoint_may_be_done_before_training_is(fake: FakeRun) -> None:
    each(fake)
    fake.submit("evaluate", 1, [5])  # of an earlier launch, when it meant something else
    fake.submit("train", 2, attempt=2)
    fake.train(4, of=10)
    fake.evaluate(4)
    fake.score(4)
    fake.train(8, of=10)
    fake.submit("evaluate", 3, [2], attempt=2)
    fake.beat("aggregate", 0, "done")
    there = read_elements(fake.run, "evaluate")
    assert [(e.index, e.is_done) for e in there] == [(0, True), (1, False), (2, False)]
    fake.evaluate(8)
    fake.score(8)
    assert [e.is_done for e in read_elements(fake.run, "evaluate")] == [True, True, False]
    assert not read_elements(fake.run, "aggregate")[0].is_done, "more will come"
    fake.train(10, of=10)
    assert [(e.index, e.is_done) for e in read_elements(fake.run, "evaluate")] == [
        (0, True), (1, True), (2, False),
    ]  # fmt: skip
    assert not read_elements(fake.run, "aggregate")[0].is_done
    fake.evaluate(10)
    fake.score(10)
    assert read_elements(fake.run, "aggregate")[0].is_done


def test_of_each_checkpoint_the_jobs_of_this_launch_count(fake: FakeRun) -> None:
    each(fake)
    fake.submit("evaluate", 1, [0, 1], is_array=True)
    fake.submit("train", 2, attempt=3)
    fake.submit("evaluate", 3, [0], attempt=3)
    fake.submit("aggregate", 4, attempt=3)
    fake.submit("aggregate", 6, attempt=4)
    assert jobs_of(fake.run, "evaluate") == {0: (3, None)}
    assert aggregates_of(fake.run) == [(6, None), (4, None)]


def test_the_newest_job_of_an_element_counts(fake: FakeRun) -> None:
    fake.submit("prepare", 1, [0, 1, 2], is_array=True)
    fake.submit("train", 2)
    fake.submit("prepare", 5, [2, 1], is_array=True)
    fake.submit("prepare", 6, [1])
    assert jobs_of(fake.run, "prepare") == {0: (1, 0), 2: (5, 0), 1: (6, None)}
    assert jobs_of(fake.run, "aggregate") == {}


def test_the_profile_says_where_a_run_is(fake: FakeRun, tmp_path: Path) -> None:
    assert is_on_slurm(fake.run)
    assert not is_on_slurm(fabricate(tmp_path / "other", where="local").run)


def test_a_lock_is_held_by_who_has_it_open(tmp_path: Path, fake: FakeRun) -> None:
    path = fake.run.root / "launch.lock"
    assert lock_holder(path) is None
    path.write_text("torn")
    assert lock_holder(path) is None
    path.write_text(f"process {os.getpid()} on {socket.gethostname()} since 2026-01-01 00:00:00")
    assert launcher(fake.run) is None
    with path.open():
        assert launcher(fake.run) == Holder(os.getpid(), socket.gethostname())
    path.write_text("process 7 on elsewhere since 2026-01-01 00:00:00")
    holder = launcher(fake.run)
    assert holder and not holder.is_here, "can't be looked at from here"


def test_a_worker_is_named_by_process_and_machine() -> None:
    assert worker(OnDisk(0, False, {"pid": 7})) is None
    assert worker(OnDisk(0, False, {"pid": 7, "host": "a"})) == Holder(7, "a")


def test_a_process_that_began_later_is_another_one() -> None:
    me = Holder(os.getpid(), socket.gethostname())
    assert is_at_work(me, time.time()) and not is_at_work(me, time.time() - 30 * 24 * 3600)
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert not is_at_work(Holder(ended.pid, me.host), time.time())
