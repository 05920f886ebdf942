"""What the scheduler, or whoever talks to it, does at the worst moment: rows S1 to S10 and P9 of
the list of faults.

Several rows share a run where one doesn't disturb the other: each job takes its seconds.
"""

from __future__ import annotations

import os
import pickle
import re
import signal
import sys
import time
from pathlib import Path

import pytest
from slurm_clusters import ROOT, Cluster
from small_cases import SmallCase, output_of

from qa_dist.run_dir import RunDir

pytestmark = pytest.mark.slurm

SLOW = "point=prepare.batch;action=sleep:{};attempt=1"
TWO_ELEMENTS = ("stages=prepare", "data.num_shards=1")


@pytest.fixture
def full(cluster: Cluster, launch_words: list[str], tmp_path: Path) -> SmallCase:
    return SmallCase(cluster, launch_words, tmp_path, "data.num_shards=1")


class Impatient(Cluster):
    """The same cluster, whose commands soon give up on a controller that doesn't answer."""

    @property
    def env(self) -> dict[str, str]:
        conf = self.folder / "impatient.conf"
        if not conf.exists():
            text = (self.folder / "slurm.conf").read_text()
            conf.write_text(f"{text}\nMessageTimeout=2\n")
        return {**super().env, "SLURM_CONF": str(conf)}


@pytest.fixture
def impatient(cluster: Cluster, launch_words: list[str], tmp_path: Path) -> SmallCase:
    return SmallCase(Impatient(cluster.folder), launch_words, tmp_path, "data.num_shards=1")


@pytest.fixture
def plain(plain_cluster: Cluster, launch_words: list[str], tmp_path: Path) -> SmallCase:
    """A run where SLURM forgets ended jobs after 2 s and accounts for nothing."""
    return SmallCase(plain_cluster, launch_words, tmp_path, "data.num_shards=1")


def test_s02_s03_s10_without_accounting_waiting_ends_and_a_refused_requeue_is_said(
    plain: SmallCase,
) -> None:
    waiting = plain.start("stages=prepare", "wait=true", fault=SLOW.format(300))
    plain.wait_for("running", 0, 1)
    (job,) = (one["job"] for one in plain.submitted())
    plain.cluster.run("scontrol", "update", f"JobId={job}_1", "Requeue=0")
    plain.cluster.run("scancel", "--signal=USR2", f"{job}_1")
    plain.wait_for("failed", 1)
    killed_at = time.monotonic()
    os.kill(plain.element(0)["pid"], signal.SIGKILL)
    said = output_of(waiting, 1)
    assert time.monotonic() - killed_at < 30
    assert f"prepare, element 0: its job {job}_0 ended without a word" in said, said
    assert "prepare, element 1: stopped (asked) and couldn't be queued again" in said, said
    assert "Launch again to go on" in said, said
    assert "The same command goes on from what is finished" in said, said
    assert plain.stages()["prepare"]["elements"]["failed"] == 2

    assert "prepare: done" in output_of(plain.start("stages=prepare", "wait=true"), 0)
    assert plain.attempts("prepare", 0) == plain.attempts("prepare", 1) == ["1", "2"]


def test_s05_s10_a_requeued_stage_is_waited_for_and_what_follows_runs_once(
    plain: SmallCase,
) -> None:
    """The cluster's own setting is JobRequeue=0."""
    ids = plain.submits("stages=prepare,train", fault=SLOW.format(300))
    plain.wait_for("running", 0, 1)
    plain.cluster.run("scancel", "--signal=USR2", f"{ids['prepare']}_0", f"{ids['prepare']}_1")
    plain.cluster.wait_for(
        lambda: "queued again, starts in" in plain.notes("prepare").get(0, ""),
        "an element that is queued again",
    )
    assert plain.notes("train") == {0: "the stage before it isn't done (Dependency)"}
    plain.wait_for("done", 0, stage="train")
    assert plain.attempts("prepare", 0) == plain.attempts("prepare", 1) == ["1", "2"]
    assert plain.attempts("train") == ["1"]
    assert len(plain.submitted()) == 2


def test_p09_training_refuses_to_start_on_half_the_data_though_slurm_lets_it(
    plain: SmallCase,
) -> None:
    """To SLURM a job that it has forgotten has succeeded."""
    fault = "point=prepare.batch;action=kill9|point=submit.after_sbatch;step=0;action=stop"
    launcher = plain.start("stages=prepare,train", fault=fault)
    plain.cluster.wait_for(lambda: plain.is_stopped(launcher), "a launcher between two sbatches")
    plain.wait_for("running", 0, 1)
    is_empty = lambda: not plain.cluster.run("squeue", "-h", "-t", "all").stdout  # noqa: E731
    plain.cluster.wait_for(is_empty, "a job that is forgotten", timeout_s=120)
    plain.goes_on(launcher)
    output_of(launcher, 0)
    plain.wait_for("failed", 0, stage="train")
    error = plain.element(stage="train")["error"]
    assert "1 of 1 shards aren't prepared: train-00000-of-00001" in error, error
    assert "Launch the run again: it prepares what is missing" in error, error
    fired = [(point, action) for point, action, _ in plain.fired()]
    kills = [("prepare.batch", "kill9")] * 2
    assert sorted(fired) == [*kills, ("submit.after_sbatch", "stop")]
    assert not plain.run.checkpoints.exists()


def test_s01_a_controller_that_is_gone_before_while_and_after_submitting(
    impatient: SmallCase,
) -> None:
    full, cluster = impatient, impatient.cluster
    cluster.kill("slurmctld")
    refused = full.launch()
    assert refused.returncode == 2
    assert "the cluster doesn't answer" in refused.stderr
    assert "nothing was submitted. Try again later, or profile=local" in refused.stderr
    assert not full.run.run_json.exists() and not full.run.jobs.exists()
    cluster.up()

    slow = SLOW.format(25)
    launcher = full.start(fault=f"{slow}|point=submit.after_sbatch;step=1;action=stop")
    full.wait_for("running", 0, 1)
    assert full.is_stopped(launcher)
    full.cluster.wait_for_saved_state()
    cluster.kill("slurmctld")
    full.goes_on(launcher)
    said = output_of(launcher, 2)
    assert "sbatch refused the evaluate stage: sbatch: error: " in said, said
    assert "Unable to contact slurm controller" in said, said
    assert "When the cluster answers, the same command submits the rest" in said, said

    shown = " ".join(full.job("status").stdout.split())
    assert "the queue doesn't answer" in shown and "this is what the disk says" in shown, shown
    assert re.search(r"prepare +│ running +│ 2 running of 2", shown), shown
    again = full.launch(fault=slow)
    assert again.returncode == 2 and "can't tell whether its jobs are still" in again.stderr

    cluster.up()
    assert full.stages()["prepare"]["state"] in ("running", "done")
    again = full.launch(fault=slow)
    assert again.returncode == 0, again.stderr
    assert "an earlier launch was cut short; the rest is submitted" in again.stdout, again.stdout
    full.wait_for("done", 0, stage="aggregate")
    for stage in ("prepare", "train", "evaluate", "aggregate"):
        assert full.attempts(stage) == ["1"], stage


def test_s06_a_launcher_that_is_killed_while_it_submits_and_while_it_waits(
    full: SmallCase,
) -> None:
    fault = f"{SLOW.format(20)}|point=submit.after_sbatch;step=0;action=kill9"
    killed = full.start("stages=prepare,train", fault=fault)
    output_of(killed, -signal.SIGKILL)
    assert ("submit.after_sbatch", "kill9", 0) in full.fired()
    assert [one["job"] for one in full.submitted()] == [0, 0], "its id was written nowhere"
    note = "not submitted, as its launch was killed; launch again for the rest"
    assert set(full.notes("train").values()) == {note}

    waiting = full.start("stages=prepare,train", "wait=true")
    is_whole = lambda: all(one["job"] for one in full.submitted())  # noqa: E731
    full.cluster.wait_for(is_whole, "all submitted")
    full.wait_for("running", 0, 1)
    waiting.kill()
    assert "an earlier launch was cut short" in output_of(waiting, -signal.SIGKILL)
    ids = [one["job"] for one in full.submitted()]
    assert full.job("retry").returncode == 2, "its jobs live on"

    said = output_of(full.start("stages=prepare,train", "wait=true"), 0)
    assert "its jobs are in the queue already; watching them" in said, said
    assert "train: done" in said, said
    assert [one["job"] for one in full.submitted()] == ids
    for stage, index in (("prepare", 0), ("prepare", 1), ("train", 0)):
        assert full.attempts(stage, index) == ["1"], f"{stage} ran once"


def test_s07_s08_what_an_earlier_attempt_left_does_not_count(full: SmallCase) -> None:
    ids = full.submits("stages=prepare", fault="point=prepare.batch;attempt=1;action=raise;times=1")
    full.wait_for("failed", 0, 1)
    folder = full.run.logs / "submitit"
    results = [folder / f"{ids['prepare']}_{index}_0_result.pkl" for index in (0, 1)]
    full.cluster.wait_for(lambda: all(path.exists() for path in results), "stored errors")
    assert [pickle.loads(path.read_bytes())[0] for path in results] == ["error", "error"]
    assert "injected fault at prepare.batch" in full.notes("prepare")[0]
    leftovers = [path.with_name(f"{path.name}.save_tmp") for path in results]
    for path in leftovers:
        path.write_bytes(b"half")
    for index in (0, 1):
        full.cluster.wait_for_state(f"{ids['prepare']}_{index}", "FAILED")
        full.cluster.run("scontrol", "requeue", f"{ids['prepare']}_{index}")
    full.wait_for("done", 0, 1)
    stored = lambda: [pickle.loads(path.read_bytes())[0] for path in results]  # noqa: E731
    full.cluster.wait_for(lambda: stored() == ["success", "success"], "stored results")
    assert not any(path.exists() for path in leftovers)
    assert full.stages()["prepare"]["state"] == "done"


def test_s09_p05_launched_from_inside_a_job_beside_another_run_of_the_same_data(
    full: SmallCase,
) -> None:
    """Both prepare the same shards at once: one of each wins, and they are whole."""
    inner = full.folder / "inner.out"
    words = [*full.words, *TWO_ELEMENTS, "name=inner"]
    words = list({word.partition("=")[0]: word for word in words}.values())
    command = " ".join([sys.executable, str(ROOT / "jobs" / "launch.py"), *words])
    exported = f"export QA_DIST_FAULT='{SLOW.format(4)}'\n"
    job = full.cluster.sbatch(exported + command, "--cpus-per-task=2", "--nodes=1", output=inner)
    full.submits("stages=prepare", fault=SLOW.format(4))
    assert full.cluster.wait_for_end(job)["JobState"] == "COMPLETED", inner.read_text()
    other = SmallCase.__new__(SmallCase)
    other.__dict__.update(full.__dict__, run=RunDir(full.run.root.parent / "inner"))
    for run in (full, other):
        run.wait_for("done", 0, 1)
        assert run.attempts("prepare", 0) == ["1"]
        shown = run.stages()["prepare"]
        assert shown["elements"]["done"] == 2, shown
    (ours,), (theirs,) = full.submitted(), other.submitted()
    assert ours["job"] != theirs["job"] and job not in (str(ours["job"]), str(theirs["job"]))
    left = [path for path in (full.folder / "prepared").rglob("*") if "tmp" in path.name]
    assert left == []
    assert os.environ.get("SLURM_JOB_ID") is None
