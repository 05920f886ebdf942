"""What cancelling a run cancels, and says."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from fabricated import DOWN, FakeRun, fabricate
from fake_slurm import FakeSlurm

from qa_dist.cluster.stop import launch_again, stop_run
from qa_dist.files import read_json
from qa_dist.records import InputError


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    return FakeSlurm(tmp_path / "bin", monkeypatch)


@pytest.fixture
def fake(tmp_path: Path) -> FakeRun:
    fake = fabricate(tmp_path)
    fake.submit("train", 2)
    fake.submit("evaluate", 3, range(9), is_array=True)
    return fake


QUEUE = (
    "2|N/A|RUNNING|None|n1|1|(null)\n3|0|COMPLETED|None|n1|1|(null)\n"
    "3|1|RUNNING|None|n1|1|(null)\n3|2-8%1|PENDING|Dependency||N/A|afterok:2\n"
)


def test_all_that_lives_is_cancelled_the_last_stage_first(fake: FakeRun, slurm: FakeSlurm) -> None:
    slurm.answers("squeue", QUEUE)
    assert stop_run(fake.run) == [
        "cancelled train: job 2 (running)",
        "cancelled evaluate: job 3 (pending, running, 8 elements)",
        f"go on from what is finished: python jobs/retry.py {fake.run.root}",
    ]
    assert slurm.calls[-1] == "scancel 3 2"
    assert read_json(fake.run.run_json)["cancelled"] == [2, 3]


def test_stages_before_the_one_named_go_on(fake: FakeRun, slurm: FakeSlurm) -> None:
    slurm.answers("squeue", QUEUE)
    first, _ = stop_run(fake.run, "evaluate")
    assert first.startswith("cancelled evaluate: job 3") and slurm.calls[-1] == "scancel 3"
    assert read_json(fake.run.run_json)["cancelled"] == [3]
    with pytest.raises(InputError, match="eval: no such stage; expected one of prepare"):
        stop_run(fake.run, "eval")


def test_training_that_goes_on_has_later_checkpoints_evaluated(
    fake: FakeRun, slurm: FakeSlurm
) -> None:
    fake.run.recipe.write_text("evaluation:\n  when: each_checkpoint\n")
    slurm.answers("squeue", QUEUE)
    assert "has later checkpoints evaluated" in stop_run(fake.run, "evaluate")[1]
    assert not any("later" in line for line in stop_run(fake.run))


def test_nothing_alive_is_said_and_nothing_called(fake: FakeRun, slurm: FakeSlurm) -> None:
    assert stop_run(fake.run) == ["nothing to cancel: none of its jobs is waiting or running"]
    assert not [call for call in slurm.calls if call.startswith("scancel")]
    assert "cancelled" not in read_json(fake.run.run_json)


def test_a_silent_queue_cancels_nothing(fake: FakeRun, slurm: FakeSlurm) -> None:
    slurm.answers("squeue", "", DOWN)
    with pytest.raises(InputError, match=r"the queue doesn't answer .* nothing was cancelled"):
        stop_run(fake.run)


def test_what_other_runs_wait_for_is_left_alone(tmp_path: Path, slurm: FakeSlurm) -> None:
    owner, other = (fabricate(tmp_path, name=name) for name in ("seed_1", "seed_2"))
    owner.submit("prepare", 7)
    owner.submit("train", 8)
    other.submit("prepare", 7)
    other.run.jobs.write_text(other.run.jobs.read_text().replace("{", '{"of": "seed_1", '))
    other.submit("train", 9)
    lines = [f"{job}|N/A|PENDING|Priority||N/A|(null)\n" for job in (7, 8, 9)]
    slurm.answers("squeue", "".join(lines))
    said = stop_run(owner.run)
    assert said[0] == "left alone: job 7, as seed_2 wait for its data (scancel 7 ends it)"
    assert said[1] == "cancelled train: job 8 (pending)"
    assert stop_run(other.run)[0] == "cancelled train: job 9 (pending)"
    assert [call for call in slurm.calls if call.startswith("scancel")] == [
        "scancel 8",
        "scancel 9",
    ]


def test_of_a_local_run_the_process_is_named(tmp_path: Path) -> None:
    fake = fabricate(tmp_path, where="local")
    assert stop_run(fake.run) == ["nothing to cancel: no process of this machine works for it"]
    lock = fake.run.root / "launch.lock"
    lock.write_text(f"process {os.getpid()} on {socket.gethostname()} since 2026-01-01 00:00:00")
    with lock.open():
        lines = stop_run(fake.run)
    assert lines[1].strip() == f"kill -TERM {os.getpid()}"
    assert lines[2] == f"go on later: {launch_again(fake.run)}"
    assert "jobs/launch.py recipe=" in lines[2] and f"runs_dir={tmp_path / 'runs'}" in lines[2]
    lock.write_text("process 7 on elsewhere since 2026-01-01 00:00:00")
    assert "(log in to elsewhere first)" in stop_run(fake.run)[0]
