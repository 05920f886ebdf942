"""What a launch understands of its keys, and what it does with them; tests/jobs/test_launch.py is
the command from the outside."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from chat_runs import chat_words

from qa_dist.cluster import launch as launching
from qa_dist.cluster.launch import launch, read_flag, read_profile, read_stages
from qa_dist.cluster.queue import QueueError
from qa_dist.recipe_loading import split_arguments
from qa_dist.records import InputError


def without_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching.shutil, "which", lambda name: None)


@pytest.fixture
def slurm_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has sbatch and srun."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sbatch", "srun"):
        (folder / name).write_text("#!/bin/sh\nexit 1\n")
        (folder / name).chmod(0o700)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_nodes_without_slurm_say_what_is_missing_and_what_works_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without_slurm(monkeypatch)
    with pytest.raises(InputError) as caught:
        read_profile({"profile": "local", "nodes": "2"})
    assert "there is no `sbatch` on this machine's PATH" in str(caught.value)
    assert "here with nodes=1 ranks_per_node=2" in str(caught.value)
    with pytest.raises(InputError, match="profile=slurm: submits to SLURM, but there is no"):
        read_profile({"profile": "slurm", "gpus_per_node": "0"})


def test_auto_is_slurm_where_one_answers_else_local(
    slurm_commands: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"gpus_per_node": "0"}
    monkeypatch.setattr(launching, "is_answering", lambda: True)
    assert read_profile(keys).where == "slurm"
    monkeypatch.setattr(launching, "is_answering", lambda: False)
    assert read_profile(keys).where == "local"
    without_slurm(monkeypatch)
    monkeypatch.setattr(launching, "is_answering", lambda: True)
    assert read_profile(keys).where == "local"


def test_s01_auto_is_not_local_where_the_controller_is_down(
    slurm_commands: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_answering() -> bool:
        raise QueueError("sinfo: Unable to contact slurm controller (connect failure)")

    monkeypatch.setattr(launching, "is_answering", is_answering)
    with pytest.raises(InputError, match=r"SLURM is here but doesn't answer \(sinfo: Unable"):
        read_profile({"gpus_per_node": "0"})
    assert read_profile({"profile": "local"}).where == "local"


def test_any_setting_of_the_profile_may_be_said_otherwise() -> None:
    words = ["profile=local", "timeout_min=60", "master_interface=lo", "evaluate.mem_gb=32"]
    keys, overrides = split_arguments(words, [*launching.LAUNCH_KEYS, *launching.PROFILE_KEYS])
    profile = read_profile(keys)
    assert overrides == []
    assert (profile.timeout_min, profile.master_interface) == (60, "lo")
    assert profile.evaluate.mem_gb == 32
    with pytest.raises(InputError, match="timeout_min=0: expected a number of minutes"):
        read_profile({"profile": "local", "timeout_min": "0"})


def test_a_dry_run_on_slurm_prints_the_scripts_of_the_stages(
    launch_words: list[str],
    slurm_commands: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(launching, "is_answering", lambda: True)
    words = [w for w in launch_words if not w.startswith("profile=")]
    words += ["gpus_per_node=0", "nodes=2", "dry_run=true", f"runs_dir={tmp_path / 'runs'}"]
    words += ["train.min_micro_batches_per_step=2"]
    assert launch(*split_arguments(words, launching.LAUNCH_KEYS)) == 0
    out = capsys.readouterr().out
    assert out.count("#!/bin/bash") == 4
    assert "#SBATCH --nodes=2" in out and "#SBATCH --requeue" in out
    assert not (tmp_path / "runs").exists()


def test_stages_are_run_in_their_order() -> None:
    assert read_stages({}) == ["prepare", "train", "evaluate", "aggregate"]
    assert read_stages({"stages": "aggregate,train"}) == ["train", "aggregate"]
    with pytest.raises(InputError, match="stages=train,: '' is none of prepare, train"):
        read_stages({"stages": "train,"})


def test_a_flag_is_true_or_false() -> None:
    assert [read_flag(keys, "wait") for keys in ({}, {"wait": "True"}, {"wait": "false"})] == [
        False,
        True,
        False,
    ]
    with pytest.raises(InputError, match="wait=yes: expected true or false"):
        read_flag({"wait": "yes"}, "wait")


def test_prompts_that_cant_be_made_are_said_before_anything_is_written(
    tiny_chat: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(tiny_chat, tmp_path / "model")
    template = model / "chat_template.jinja"
    works = template.read_text()
    runs = tmp_path / "runs"
    words = [*chat_words(model, tmp_path), f"runs_dir={runs}", "dry_run=true"]
    keys, overrides = split_arguments(words, [*launching.LAUNCH_KEYS, *launching.PROFILE_KEYS])
    template.write_text("{{ raise_exception('No system role') }}")
    for is_dry in ("true", "false"):
        with pytest.raises(InputError, match=r"model\.name=.*No system role"):
            launch({**keys, "dry_run": is_dry}, overrides)
    assert not runs.exists() and not (tmp_path / "prepared").exists()
    template.write_text(works)
    assert launch(keys, overrides) == 0
