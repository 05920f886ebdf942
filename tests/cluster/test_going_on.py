"""Launching a run that is in the queue: the rest of a submission, or a look; never a second time.

On a real cluster: tests/slurm/test_scheduler_faults.py.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from fake_slurm import FakeSlurm, fake_slurm

from qa_dist.cluster import going_on
from qa_dist.cluster.going_on import jobs_to_watch, submit_rest
from qa_dist.cluster.submitted import Submitted, read_planned, read_submitted, save_submitted
from qa_dist.files import write_text
from qa_dist.profile import Profile
from qa_dist.recipe import Recipe
from qa_dist.recipe_loading import recipe_to_yaml
from qa_dist.records import InputError
from qa_dist.run_dir import RunDir

__all__ = ["fake_slurm"]
PROFILE = Profile(name="test", where="slurm", gpus_per_node=0)
RECIPE = Recipe(name="tiny")
OTHER = replace(RECIPE, data=replace(RECIPE.data, max_length_tokens=64))
DOWN = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n"
ALIVE = "101|0-3|RUNNING|None|n1|1700000000|(null)\n"


@pytest.fixture
def run(fake_slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """A run of which 101 was submitted, half of its prepare stage; then its launcher was killed."""
    monkeypatch.setattr(going_on, "find_lost", lambda run: None)
    (fake_slurm.folder / "count").write_text("1")
    run = RunDir(tmp_path / "tiny" / "main")
    write_text(run.recipe, recipe_to_yaml(RECIPE))
    ended = Submitted("prepare", 90, [0], [], 1, False)
    array = Submitted("prepare", 101, [0, 1, 2, 3], [], 2, True)
    rest = [Submitted("prepare", 0, [4, 5], [], 2, True), Submitted("train", 0, [0], [], 2, False)]
    save_submitted(run, [ended, array, *rest])
    return run


def test_the_rest_is_submitted_behind_what_is_alive(fake_slurm: FakeSlurm, run: RunDir) -> None:
    fake_slurm.says("squeue", ALIVE)
    jobs = submit_rest(run, RECIPE, PROFILE)
    assert [(one.stage, one.job, one.after) for one in jobs] == [
        ("prepare", 101, []),
        ("prepare", 102, []),
        ("train", 103, [101, 102]),
    ]
    assert [one.job for one in read_submitted(run)] == [90, 101, 102, 103]
    assert re.search(r"--dependency=.?afterok:101:102", fake_slurm.script(3))
    assert submit_rest(run, RECIPE, PROFILE) == [], "only once"


def test_what_has_ended_is_launched_anew(fake_slurm: FakeSlurm, run: RunDir) -> None:
    assert submit_rest(run, RECIPE, PROFILE) == [] and fake_slurm.num_submitted == 1
    assert [one.job for one in read_planned(run)] == [90, 101], "nothing is planned any more"


def test_another_recipe_is_refused_while_jobs_are_alive(fake_slurm: FakeSlurm, run: RunDir) -> None:
    fake_slurm.says("squeue", ALIVE)
    with pytest.raises(InputError, match=r"in the queue: 101 \(running\)"):
        submit_rest(run, OTHER, PROFILE)
    assert jobs_to_watch(run, OTHER) == [] and fake_slurm.num_submitted == 1


def test_s01_a_controller_that_is_down_leaves_it_for_the_next_launch(
    fake_slurm: FakeSlurm, run: RunDir
) -> None:
    before = run.jobs.read_text()
    fake_slurm.fails("squeue", DOWN)
    with pytest.raises(InputError, match="can't tell whether its jobs are still running"):
        submit_rest(run, RECIPE, PROFILE)
    assert jobs_to_watch(run, RECIPE) == [] and run.jobs.read_text() == before


def test_limits_that_cannot_be_had_leave_it_for_the_next_launch(
    fake_slurm: FakeSlurm, run: RunDir
) -> None:
    before = run.jobs.read_text()
    fake_slurm.says("squeue", ALIVE)
    fake_slurm.fails("scontrol", DOWN)
    with pytest.raises(InputError, match="nothing more was submitted, launch again"):
        submit_rest(run, RECIPE, PROFILE)
    assert run.jobs.read_text() == before and fake_slurm.num_submitted == 1


def test_the_dead_need_no_limits(fake_slurm: FakeSlurm, run: RunDir) -> None:
    fake_slurm.fails("scontrol", DOWN)
    assert submit_rest(run, RECIPE, PROFILE) == []


def test_a_refusal_of_the_rest_keeps_what_was_there(fake_slurm: FakeSlurm, run: RunDir) -> None:
    before = read_planned(run)
    fake_slurm.says("squeue", ALIVE)
    fake_slurm.refuses(3, "sbatch: error: Batch job submission failed: Invalid account\n")
    with pytest.raises(InputError, match="Invalid account; what was submitted earlier goes on"):
        submit_rest(run, RECIPE, PROFILE)
    assert [call for call in fake_slurm.calls if "scancel" in call] == ["scancel 102"]
    assert read_planned(run) == before


def test_the_newest_launch_is_watched(fake_slurm: FakeSlurm, run: RunDir) -> None:
    assert jobs_to_watch(run, RECIPE) == [], "nothing is alive"
    fake_slurm.says("squeue", ALIVE)
    assert [one.attempt for one in jobs_to_watch(run, RECIPE)] == [2, 2, 2]
