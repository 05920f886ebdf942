"""What is handed to sbatch: the whole graph or nothing, in order, with nobody's secrets."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from fake_slurm import FakeSlurm, fake_slurm

from qa_dist import faults
from qa_dist.cluster.slurm import check_paths, submit_stages
from qa_dist.cluster.submitted import read_planned, read_submitted
from qa_dist.profile import Profile, Resources
from qa_dist.records import InputError
from qa_dist.run_dir import RunDir

__all__ = ["fake_slurm"]
PROFILE = Profile(
    name="test",
    where="slurm",
    nodes=2,
    gpus_per_node=4,
    cpus_per_task=6,
    mem_gb=1.5,
    partition="gpu",
    timeout_min=90,
    signal_lead_s=120,
    prepare=Resources(partition="cpu", cpus_per_task=2),
    environment={"HF_HOME": "/scratch/hf"},
)
ALL = {"prepare": range(10), "train": [0], "evaluate": [0, 3], "aggregate": [0]}


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "main")
    run.root.mkdir()
    return run


def options(script: str) -> dict[str, str]:
    """The #SBATCH lines of a script."""
    return {
        key: value.strip("'")
        for key, _, value in re.findall(r"^#SBATCH --([a-z-]+)(=?)(.*)$", script, re.MULTILINE)
    }


def test_the_graph_is_chained_and_arrays_are_split(fake_slurm: FakeSlurm, run: RunDir) -> None:
    jobs = submit_stages(run, PROFILE, "r.main", ALL, 7)
    assert [(job.stage, job.job, len(job.elements)) for job in jobs] == [
        ("prepare", 101, 4),
        ("prepare", 102, 4),
        ("prepare", 103, 2),
        ("train", 104, 1),
        ("evaluate", 105, 2),
        ("aggregate", 106, 1),
    ]
    assert jobs[1].elements == [4, 5, 6, 7] and jobs[4].elements == [0, 3]
    assert read_submitted(run) == jobs
    found = [options(fake_slurm.script(n)) for n in range(1, 7)]
    assert [o.get("array", "").partition("%")[0] for o in found] == [
        "0-3",
        "0-3",
        "0-1",
        "",
        "0-1",
        "",
    ]
    assert [o.get("dependency") for o in found] == [
        None,
        None,
        None,
        "afterok:101:102:103",
        "afterok:104",
        "afterok:105",
    ]
    assert all(o["kill-on-invalid-dep"] == "yes" for o in found[3:])
    assert all("requeue" in o for o in found)


def test_each_stage_asks_for_its_own_resources(fake_slurm: FakeSlurm, run: RunDir) -> None:
    submit_stages(run, PROFILE, "r.main", {**ALL, "prepare": [0]}, 1)
    prepare, train, evaluate, aggregate = (options(fake_slurm.script(n)) for n in range(1, 5))
    assert (train["nodes"], train["ntasks-per-node"], train["gpus-per-node"]) == ("2", "4", "4")
    assert train["mem"] == "1500M" and train["time"] == "90" and train["signal"] == "USR2@120"
    assert (prepare["partition"], prepare["cpus-per-task"]) == ("cpu", "2")
    assert "gpus-per-node" not in prepare and "gpus-per-node" not in aggregate
    assert evaluate["gpus-per-node"] == "1" and evaluate["nodes"] == "1"
    script = fake_slurm.script(2)
    assert "srun" in script and "--cpus-per-task=6" in script
    assert "export HF_HOME='/scratch/hf'" in script
    assert f"export PYTHONPATH={run.root}/code" in script


def test_t14_srun_waits_for_peers_longer_than_slurm_for_a_node(
    fake_slurm: FakeSlurm, run: RunDir
) -> None:
    fake_slurm.says("scontrol", "MaxArraySize = 100\nSlurmdTimeout = 300 sec\n")
    submit_stages(run, PROFILE, "r.main", {"train": [0]}, 1)
    assert "--wait=480" in fake_slurm.script(1)


def test_the_cluster_is_asked_for_its_limits_once(fake_slurm: FakeSlurm, run: RunDir) -> None:
    submit_stages(run, PROFILE, "r.main", ALL, 1)
    assert fake_slurm.num_submitted > 4
    assert fake_slurm.calls.count("scontrol show config") == 1


def test_s15_nothing_of_the_environment_but_a_list_of_names_gets_in(
    fake_slurm: FakeSlurm, run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_canary_value")
    submit_stages(run, PROFILE, "r.main", ALL, 1)
    names = options(fake_slurm.script(1))["export"].split(",")
    assert "PATH" in names and "HF_TOKEN" not in names and "ALL" not in names
    for path in run.root.rglob("*"):
        assert path.is_dir() or b"hf_canary_value" not in path.read_bytes(), path


def test_s09_a_submit_from_inside_a_job_hides_that_job_but_not_the_cluster(
    fake_slurm: FakeSlurm, run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_CONF", "/etc/elsewhere.conf")
    submit_stages(run, PROFILE, "r.main", {"aggregate": [0]}, 1)
    assert "SLURM_JOB_ID=77" not in fake_slurm.environ(1)
    assert "SLURM_CONF=/etc/elsewhere.conf" in fake_slurm.environ(1)
    assert os.environ["SLURM_JOB_ID"] == "77", "and it is there again afterwards"
    assert os.environ["SLURM_CONF"] == "/etc/elsewhere.conf"


@pytest.mark.parametrize("number", [1, 4, 6])
def test_one_refusal_leaves_nothing_in_the_queue(
    fake_slurm: FakeSlurm, run: RunDir, number: int
) -> None:
    fake_slurm.refuses(number, "sbatch: error: Batch job submission failed: Invalid account\n")
    with pytest.raises(InputError, match="Invalid account; nothing is left in the queue"):
        submit_stages(run, PROFILE, "r.main", ALL, 1)
    cancelled = [call for call in fake_slurm.calls if call.startswith("scancel")]
    ids = " ".join(str(100 + n) for n in range(1, number))
    assert cancelled == ([f"scancel {ids}"] if ids else [])
    assert read_submitted(run) == []


def test_what_cannot_be_cancelled_stays_known_and_planned(
    fake_slurm: FakeSlurm, run: RunDir
) -> None:
    fake_slurm.refuses(4, "sbatch: error: Unable to contact slurm controller\n")
    fake_slurm.fails("scancel", "scancel: error: Unable to contact slurm controller\n")
    with pytest.raises(InputError, match=r"the same command submits the rest, or `scancel 101 102"):
        submit_stages(run, PROFILE, "r.main", ALL, 1)
    assert [one.job for one in read_submitted(run)] == [101, 102, 103]
    assert [one.stage for one in read_planned(run) if not one.job] == [
        "train",
        "evaluate",
        "aggregate",
    ]


def test_s06_ctrl_c_before_sbatchs_answer_cancels_that_job_too(
    fake_slurm: FakeSlurm, run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    title = f"{run.root.parent.name}.main"
    found = f"102|{run.root}|{title}.prepare\n"
    fake_slurm.says("squeue", found)

    def reach(point: str, step: int) -> None:
        if step == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(faults, "reach", reach)
    with pytest.raises(KeyboardInterrupt):
        submit_stages(run, PROFILE, title, ALL, 1)
    assert [call for call in fake_slurm.calls if "scancel" in call] == ["scancel 101 102"]
    assert read_planned(run) == []


def test_s01_a_controller_that_is_down_is_one_clear_line(
    fake_slurm: FakeSlurm, run: RunDir
) -> None:
    fake_slurm.fails("scontrol", "Unable to contact slurm controller (connect failure)\n")
    with pytest.raises(InputError, match="Unable to contact slurm controller"):
        submit_stages(run, PROFILE, "r.main", ALL, 1)
    assert fake_slurm.num_submitted == 0


@pytest.mark.parametrize("name", ["a b", "a%j", "a'b", "a\nb", 'a"b', "a\\b", "a$(x)", "ä"])
def test_s14_a_path_that_sbatch_might_misread_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="which sbatch may misread"):
        check_paths(RunDir(tmp_path / name))
