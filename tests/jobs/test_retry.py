"""jobs/retry.py from the outside: only what is missing, and never beside jobs that live."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fabricated import DOWN, FakeRun, fabricate
from fake_slurm import FakeSlurm

from jobs import retry
from qa_dist.attempts import update_run
from qa_dist.cluster import pipeline
from qa_dist.cluster.submitted import Submitted
from qa_dist.recipe_loading import load_profile, profile_to_yaml
from qa_dist.run_dir import RunDir

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    return FakeSlurm(tmp_path / "bin", monkeypatch)


def test_a_run_with_live_jobs_is_refused(
    tmp_path: Path, slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = fabricate(tmp_path)
    fake.submit("train", 2)
    slurm.answers("squeue", "2|N/A|PENDING|Priority||N/A|(null)\n")
    assert retry.main([str(fake.run.root)]) == 2
    assert "its jobs are in the queue: 2 (pending)" in capsys.readouterr().err
    slurm.answers("squeue", "", DOWN)
    assert retry.main([str(fake.run.root)]) == 2
    assert "can't tell whether its jobs are still running" in capsys.readouterr().err


def test_a_local_run_is_launched_again_instead(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = fabricate(tmp_path, where="local")
    assert retry.main([str(fake.run.root)]) == 2
    assert "python jobs/launch.py recipe=" in capsys.readouterr().err


def test_the_stages_are_those_it_was_launched_with(tmp_path: Path) -> None:
    fake = fabricate(tmp_path)
    assert retry.stages_of(fake.run) == ["prepare", "train", "evaluate", "aggregate"]
    fake.submit("train", 2)
    assert retry.stages_of(fake.run) == ["prepare", "train"]
    update_run(fake.run, stages=["prepare", "train", "evaluate"])
    assert retry.stages_of(fake.run) == ["prepare", "train", "evaluate"], "training submits it"


def test_only_what_is_missing_is_submitted(
    finished_run: RunDir,
    tmp_path: Path,
    slurm: FakeSlurm,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = RunDir(tmp_path / "runs" / "tiny_coqa" / "main")
    shutil.copytree(finished_run.root, run.root)
    for folder in (run.root, run.root.parent, run.root.parent.parent):
        folder.chmod(0o700)
    profile = load_profile("slurm", ROOT / "slurm" / "profiles", ["gpus_per_node=0"])
    (run.root / "profile.yaml").write_text(profile_to_yaml(profile))
    FakeRun(run).submit("aggregate", 4)
    FakeRun(run).beat("aggregate", 0, "done", step=2, of=2)
    run.predictions_file(6, "dev-00000-of-00001").unlink()
    partition = "PartitionName=low Default=YES State=UP MaxTime=UNLIMITED TotalNodes=9\n"
    slurm.answers("scontrol", partition)
    asked = []

    def submit(
        run: RunDir, profile: object, title: str, elements: object, attempt: int, shared: object
    ) -> object:
        asked.append((title, elements, profile))
        return [Submitted("evaluate", 9, [0], [], attempt, False)]

    monkeypatch.setattr(pipeline, "submit_stages", submit)
    assert retry.main([str(run.root)]) == 0, capsys.readouterr().err
    title, elements, used = asked[0]
    assert elements == {"prepare": [], "train": [], "evaluate": [0], "aggregate": [0]}
    assert title == "tiny_coqa.main" and used == profile
    assert "│ evaluate" in capsys.readouterr().out
