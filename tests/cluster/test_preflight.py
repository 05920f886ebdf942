"""What is said before anything is queued: partition, time, nodes, account, disk."""

from __future__ import annotations

import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
from fake_slurm import FakeSlurm, fake_slurm

from qa_dist.cluster.preflight import check_cluster, minutes
from qa_dist.profile import Profile, Resources
from qa_dist.recipe import Model, Recipe
from qa_dist.records import InputError

__all__ = ["fake_slurm"]
PROFILE = Profile(name="here", where="slurm", gpus_per_node=0, partition="gpu", timeout_min=1440)
PARTITIONS = (
    "PartitionName=gpu Default=NO MaxTime=1-00:00:00 State=UP TotalNodes=2\n"
    "PartitionName=cpu Default=YES MaxTime=UNLIMITED State=UP TotalNodes=9\n"
    "PartitionName=old Default=NO MaxTime=UNLIMITED State=DOWN TotalNodes=9\n"
)


@pytest.fixture
def recipe(words_encoder: Path) -> Recipe:
    return Recipe(model=Model(name=str(words_encoder)))


def problem(profile: Profile, recipe: Recipe, folder: Path) -> str:
    with pytest.raises(InputError) as raised:
        check_cluster(profile, [recipe], folder)
    return str(raised.value)


def test_a_good_profile_passes(fake_slurm: FakeSlurm, recipe: Recipe, tmp_path: Path) -> None:
    fake_slurm.says("scontrol", PARTITIONS)
    fake_slurm.says("sacctmgr", "mine|normal,high\n")
    check_cluster(replace(PROFILE, account="mine", qos="high"), [recipe], tmp_path / "not" / "yet")
    check_cluster(replace(PROFILE, partition=""), [recipe], tmp_path)
    assert fake_slurm.num_submitted == 0


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"partition": "gpus"}, 'partition=gpus: there is none of that name; did you mean "gpu"?'),
        ({"partition": "old"}, "partition=old: it is down and starts nothing"),
        ({"timeout_min": 1441}, "timeout_min=1441: gpu lets jobs run 1440 minutes at most"),
        ({"nodes": 3}, "nodes=3: gpu has 2"),
        ({"account": "other"}, "account=other: you may use mine"),
        ({"qos": "hihg"}, "qos=hihg: you may use high, normal"),
        ({"prepare": Resources(partition="cpus")}, "prepare.partition=cpus: there is none"),
    ],
)
def test_each_problem_is_said_with_its_key(
    fake_slurm: FakeSlurm, recipe: Recipe, tmp_path: Path, changes: dict[str, object], wanted: str
) -> None:
    fake_slurm.says("scontrol", PARTITIONS)
    fake_slurm.says("sacctmgr", "mine|normal,high\n")
    text = problem(replace(PROFILE, **changes), recipe, tmp_path)  # type: ignore[arg-type]
    assert wanted in text and "profile=here: nothing was submitted" in text


def test_all_problems_come_at_once(
    fake_slurm: FakeSlurm, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, 0))
    fake_slurm.says("scontrol", PARTITIONS)
    text = problem(replace(PROFILE, nodes=5, timeout_min=9999), recipe, tmp_path)
    assert "nodes=5" in text and "timeout_min=9999" in text and "0.0 GB are free" in text


def test_without_accounting_accounts_are_the_clusters_to_check(
    fake_slurm: FakeSlurm, recipe: Recipe, tmp_path: Path
) -> None:
    fake_slurm.says("scontrol", PARTITIONS)
    fake_slurm.fails("sacctmgr", "You are not running a supported accounting_storage plugin\n")
    check_cluster(replace(PROFILE, account="any"), [recipe], tmp_path)


def test_accounting_is_asked_only_where_something_of_it_is_asked_for(
    fake_slurm: FakeSlurm, recipe: Recipe, tmp_path: Path
) -> None:
    fake_slurm.says("scontrol", PARTITIONS)
    check_cluster(PROFILE, [recipe], tmp_path)
    assert not any(call.startswith("sacctmgr") for call in fake_slurm.calls)
    check_cluster(replace(PROFILE, qos="any"), [recipe], tmp_path)
    assert any(call.startswith("sacctmgr") for call in fake_slurm.calls)


def test_s01_a_controller_that_is_down(
    fake_slurm: FakeSlurm, recipe: Recipe, tmp_path: Path
) -> None:
    fake_slurm.fails("scontrol", "Unable to contact slurm controller (connect failure)\n")
    assert "the cluster doesn't answer" in problem(PROFILE, recipe, tmp_path)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("1-00:00:00", 1440), ("02:30:00", 150), ("UNLIMITED", None), ("7-12:00:30", 10800)],
)
def test_time_limits_are_read(text: str, wanted: int | None) -> None:
    assert minutes(text) == wanted
