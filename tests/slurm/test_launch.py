"""One command from launch to scores on a real cluster of several nodes, whatever happens on the
way.

Rows T1, T2, T8, T15, T17, S1, S4 and S15 of the list of faults. Equal means what it means in
tests/faults: the same bytes as a run that nothing interrupted, on the same number of ranks.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from runs import final_state
from slurm_cases import FOUR_PARTS, SlurmCase, scores, slowly
from slurm_clusters import ENDED, Cluster
from zygote import Zygote

from qa_dist.files import read_json
from qa_dist.run_dir import RunDir

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="session")
def local_run(
    zygote: Zygote, launch_words: list[str], tmp_path_factory: pytest.TempPathFactory
) -> RunDir:
    """The same run in one process of this machine."""
    runs = tmp_path_factory.mktemp("local")
    child = zygote.run("launch", *launch_words, f"runs_dir={runs}", FOUR_PARTS)
    assert child.status == 0, child.text
    return RunDir(runs / "tiny_coqa" / "main")


def test_one_command_from_launch_to_scores_equals_the_local_run(
    undisturbed: RunDir, local_run: RunDir
) -> None:
    assert scores(undisturbed) == scores(local_run)
    ours, theirs = final_state(undisturbed), final_state(local_run)
    assert ours["state"]["windows_sha256"] == theirs["state"]["windows_sha256"]
    logs = {path.name for path in undisturbed.logs.glob("train-0-1-*.out")}
    assert logs == {f"train-0-1-{rank}.out" for rank in range(4)}


def test_launching_a_finished_run_again_submits_nothing(
    undisturbed: RunDir, shared_cluster: Cluster, launch_words: list[str], tmp_path: Path
) -> None:
    case = SlurmCase(shared_cluster, launch_words, tmp_path)
    case.words += [f"runs_dir={undisturbed.root.parents[1]}"]
    case.words = list({word.partition("=")[0]: word for word in case.words}.values())
    before = (undisturbed.jobs.read_bytes(), final_state(undisturbed))
    done = case.launch()
    assert done.returncode == 0, done.stderr
    assert "all, no-answer threshold 0" in done.stdout and "submitted" not in done.stdout
    assert (undisturbed.jobs.read_bytes(), final_state(undisturbed)) == before


def test_t08_usr2_saves_requeues_and_ends_equal(case: SlurmCase, undisturbed: RunDir) -> None:
    ids = case.submits(fault=slowly())
    case.wait_for_step(1)
    case.cluster.run("scancel", "--signal=USR2", ids["train"])
    case.wait_for_scores(ids["aggregate"])
    restarts = read_json(case.run.run_json)["attempt"] - 1
    assert restarts == 1, "one requeue"
    text = (case.run.logs / "train-0-2-0.out").read_text()
    assert "resuming main at step" in text
    assert final_state(case.run) == final_state(undisturbed)


def test_t08_a_job_of_a_higher_partition_preempts_it(case: SlurmCase, undisturbed: RunDir) -> None:
    ids = case.submits(fault=slowly())
    case.wait_for_step(1)
    high = case.cluster.sbatch("sleep 3", "--partition=high", "-N4", "--exclusive")
    case.cluster.wait_for_end(high, timeout_s=90)
    case.wait_for_scores(ids["aggregate"])
    assert read_json(case.run.run_json)["attempt"] == 2
    assert "timeouts" not in read_json(case.run.run_json)
    assert final_state(case.run) == final_state(undisturbed)


@pytest.mark.parametrize("rank", [3, 0])
def test_t01_t02_a_killed_rank_ends_the_job_with_a_word_and_it_goes_on_equal(
    case: SlurmCase, undisturbed: RunDir, rank: int
) -> None:
    ids = case.submits(fault=f"point=train.step;rank={rank};step=5;action=kill9")
    ended = {stage: case.cluster.wait_for_end(ids[stage], 120) for stage in ("train", "aggregate")}
    assert case.fired() == [("train.step", "kill9", 5)]
    assert ended["train"]["JobState"] == "FAILED"
    assert ended["aggregate"]["JobState"] == "CANCELLED", "never pending for ever (S4)"
    assert f"rank {rank} " in case.status()["error"], case.status()
    case.goes_on_to_the_end()
    assert final_state(case.run) == final_state(undisturbed)


def test_t15_tasks_that_outlive_their_node_are_fenced_off(
    case: SlurmCase, undisturbed: RunDir
) -> None:
    ids = case.submits(fault=slowly())
    case.wait_for_step(1)
    node = case.cluster.job(ids["train"])["BatchHost"]
    case.cluster.kill(node, tasks_live_on=True)
    case.cluster.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=lost")
    case.wait_for_scores(ids["aggregate"])
    assert read_json(case.run.run_json)["attempt"] == 2
    assert final_state(case.run) == final_state(undisturbed)


def test_t17_a_live_run_is_refused_with_its_job_ids(case: SlurmCase) -> None:
    ids = case.submits(fault=slowly())
    again = case.launch()
    assert again.returncode == 2
    assert ids["train"] in again.stderr and "in the queue" in again.stderr
    assert "scancel" in again.stderr
    assert {job["attempt"] for job in read_json(case.run.jobs)} == {1}


def test_s01_s14_what_the_cluster_refuses_leaves_nothing_in_the_queue(case: SlurmCase) -> None:
    profile = case.folder / "here.yaml"
    profile.write_text(profile.read_text().replace("partition: low", "partition: nosuch"))
    done = case.launch()
    assert done.returncode == 2
    assert "partition=nosuch: there is none of that name; there are low, high" in done.stderr
    assert not case.cluster.run("squeue", "--noheader").stdout
    assert not case.run.jobs.exists() and not case.run.run_json.exists()


def test_s15_a_secret_of_the_environment_gets_nowhere(
    undisturbed: RunDir, shared_cluster: Cluster, launch_words: list[str], tmp_path: Path
) -> None:
    case = SlurmCase(shared_cluster, launch_words, tmp_path)
    os.environ["QA_TEST_SECRET"] = "canary-7f3a"
    try:
        ids = case.submits("stages=prepare,train")
        shown = shared_cluster.run("scontrol", "show", "job", ids["train"]).stdout
        shared_cluster.wait_for_state(ids["train"], *ENDED, timeout_s=120)
    finally:
        del os.environ["QA_TEST_SECRET"]
    assert "canary-7f3a" not in shown
    for path in case.run.root.rglob("*"):
        assert path.is_dir() or b"canary-7f3a" not in path.read_bytes(), path
