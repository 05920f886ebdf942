"""The words that chaos.py takes, and that it sees what it has to see. The chaos itself is run by
hand: it takes minutes."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from faults import chaos
from slurm_cases import SlurmCase
from slurm_clusters import Cluster

from qa_dist.run_dir import RunDir, step_name


@pytest.mark.parametrize(
    "words",
    [[], ["minutes=x", "seed=1"], ["minutes=1"], ["minutes=1", "seed=1", "sede=2"]],
)
def test_wrong_words_are_refused_with_how_to_call_it(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert chaos.main(words) == 2
    assert "chaos.py minutes=3 seed=7" in capsys.readouterr().err


def test_a_real_cluster_needs_a_folder_that_its_nodes_see(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = tmp_path / "mine.yaml"
    profile.write_text("where: slurm\n")
    assert chaos.main(["minutes=1", "seed=1", f"profile={profile}"]) == 2
    assert "KeyError('folder')" in capsys.readouterr().err


def test_what_differs_or_was_left_is_seen(
    finished_run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chaos, "NUM_STEPS", 8)
    one = chaos.Chaos(Cluster(tmp_path), True, tmp_path, random.Random(1), chaos.PROFILE)
    case = SlurmCase(one.cluster, [], tmp_path)
    shutil.copytree(finished_run.root, case.run.root)
    expected = chaos.trained_state(finished_run)
    assert one.check(case, expected) == []
    weights = case.run.checkpoints / step_name(8) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    left = case.run.checkpoints / ".step-00000006.2.tmp"
    left.mkdir()
    assert one.check(case, expected) == ["main: weights differs", f"main: left: {left}"]
