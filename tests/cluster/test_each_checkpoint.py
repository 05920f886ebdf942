"""What training has submitted at each checkpoint, once, and what if SLURM doesn't answer."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from fabricated import FakeRun, fabricate
from fake_slurm import FakeSlurm, fake_slurm

from qa_dist.attempts import FencedError, take_over, update_run
from qa_dist.cluster import each_checkpoint
from qa_dist.cluster.each_checkpoint import Submitter, due, main, submit_due
from qa_dist.cluster.submitted import read_submitted
from qa_dist.files import read_status, write_text
from qa_dist.profile import Profile
from qa_dist.recipe_loading import profile_to_yaml

__all__ = ["fake_slurm"]


@pytest.fixture
def fake(tmp_path: Path) -> FakeRun:
    """A run that is being trained, with checkpoints 4 and 8 of 10 steps and one shard each."""
    fake = fabricate(tmp_path)
    fake.run.recipe.write_text(
        "train:\n  checkpoint_every_steps: 4\nevaluation:\n  when: each_checkpoint\n"
    )
    profile = Profile(name="here", where="slurm", gpus_per_node=0)
    write_text(fake.run.root / "profile.yaml", profile_to_yaml(profile))
    update_run(fake.run, stages=["prepare", "train", "evaluate", "aggregate"])
    fake.submit("train", 7)
    fake.train(4, of=10)
    fake.train(8, of=10)
    return fake


def submitted(fake: FakeRun) -> list[tuple[str, int, list[int], list[int]]]:
    return [(one.stage, one.job, one.elements, one.after) for one in read_submitted(fake.run)][1:]


def test_each_checkpoint_is_submitted_once_with_an_aggregate_behind_it(
    fake: FakeRun, fake_slurm: FakeSlurm
) -> None:
    assert submit_due(fake.run, 1) == [4, 8]
    expected = [
        ("evaluate", 101, [0], []),
        ("aggregate", 102, [0], [101]),
        ("evaluate", 103, [1], []),
        ("aggregate", 104, [0], [103]),
    ]
    assert submitted(fake) == expected
    assert "--job-name=tiny.one.evaluate" in fake_slurm.script(1)
    assert submit_due(fake.run, 1) == [] and submitted(fake) == expected
    fake.train(10, of=10)
    assert submit_due(fake.run, 1) == [10]
    assert submitted(fake)[4:] == [("evaluate", 105, [2], []), ("aggregate", 106, [0], [105])]


def test_another_launch_submits_again_what_is_not_evaluated(
    fake: FakeRun, fake_slurm: FakeSlurm
) -> None:
    submit_due(fake.run, 1)
    take_over(fake.run, 2)
    assert due(fake.run) == {}, "after a requeue its jobs are the same"
    fake.submit("train", 9, attempt=3)
    take_over(fake.run, 3)
    assert due(fake.run) == {4: [0], 8: [1]}


def test_only_the_stages_asked_for_are_submitted(fake: FakeRun, fake_slurm: FakeSlurm) -> None:
    update_run(fake.run, stages=["prepare", "train"])
    assert submit_due(fake.run, 1) == []
    update_run(fake.run, stages=["train", "evaluate"])
    assert submit_due(fake.run, 1) == [4, 8]
    assert [stage for stage, *_ in submitted(fake)] == ["evaluate", "evaluate"]


def test_an_older_attempt_submits_nothing(fake: FakeRun, fake_slurm: FakeSlurm) -> None:
    take_over(fake.run, 2)
    with pytest.raises(FencedError):
        submit_due(fake.run, 1)
    assert main([str(fake.run.root), "1"]) == 0, "nothing to warn of"
    assert fake_slurm.num_submitted == 0
    assert main([str(fake.run.root), "2"]) == 0 and fake_slurm.num_submitted == 4


def test_training_that_was_cancelled_submits_nothing(
    fake: FakeRun, fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    update_run(fake.run, cancelled=[7])
    assert submit_due(fake.run, 1) == [] and fake_slurm.num_submitted == 0


@pytest.mark.parametrize("number", [1, 2])
def test_s01_what_was_refused_is_told_and_tried_again(
    fake: FakeRun, fake_slurm: FakeSlurm, number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_slurm.refuses(number, "sbatch: error: Unable to contact slurm controller\n")
    assert main([str(fake.run.root), "1"]) == 1
    assert "Unable to contact slurm controller" in capsys.readouterr().err
    assert submitted(fake) == [], "nothing half"
    status = read_status(fake.run.status_file("evaluate", 0))
    assert "Unable to contact" in status["not_submitted"] and status["state"] == "waiting"
    (fake_slurm.folder / f"refuse-{number}").unlink()
    assert main([str(fake.run.root), "1"]) == 0
    assert [elements for stage, _, elements, _ in submitted(fake) if stage == "evaluate"] == [
        [0],
        [1],
    ]


def test_training_never_waits_but_at_the_end(
    fake: FakeRun, fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = fake.run.root / "ended"
    script = f"import time, pathlib; time.sleep(0.5); pathlib.Path({str(ended)!r}).touch()"
    with Submitter(fake.run, 1) as submitter:
        monkeypatch.setattr(submitter, "_command", [sys.executable, "-c", script])
        started = time.monotonic()
        submitter.saved(False)
        assert time.monotonic() - started < 0.4 and not ended.exists()
        submitter.saved(True)
        assert ended.exists() and time.monotonic() - started > 0.5


def test_a_submission_that_hangs_is_given_up(
    fake: FakeRun, fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(each_checkpoint, "_LAST_WAIT_S", 0.3)
    monkeypatch.setattr(each_checkpoint, "_STOP_WAIT_S", 0.3)
    monkeypatch.setattr(each_checkpoint, "_TIMEOUT_S", 1.0)
    started = time.monotonic()
    with Submitter(fake.run, 1) as submitter:
        monkeypatch.setattr(submitter, "_command", ["sleep", "60"])
        submitter.saved(True)
    assert time.monotonic() - started < 5
