"""A sweep on a real cluster: its data is prepared once, its runs train, status shows them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from slurm_clusters import ROOT, Cluster

from qa_dist.cluster.pipeline import is_trained
from qa_dist.cluster.submitted import read_submitted
from qa_dist.run_dir import SweepDir

pytestmark = pytest.mark.slurm

PROFILE = """
where: slurm
partition: low
nodes: 2
gpus_per_node: 0
cpus_per_task: 1
timeout_min: 30
signal_lead_s: 90
master_interface: lo
"""


def test_two_seeds_share_their_data_and_train(
    cluster: Cluster, launch_words: list[str], tmp_path: Path
) -> None:
    (tmp_path / "here.yaml").write_text(PROFILE)
    own = [f"profile={tmp_path / 'here.yaml'}", f"runs_dir={tmp_path / 'runs'}"]
    own += [f"prepared_dir={tmp_path / 'prepared'}", "seeds=1,2", "stages=prepare,train"]
    own += ["train.max_steps=2", "train.min_micro_batches_per_step=2"]
    own += ["sources.0.max_train_examples=32", "sources.0.max_dev_examples=16"]
    words = list({w.partition("=")[0]: w for w in (*launch_words, *own)}.values())
    folder = SweepDir(tmp_path / "runs" / "tiny_coqa" / "main.sweep")
    runs = [folder.run(f"main-seed_{seed}") for seed in (1, 2)]

    def launch() -> str:
        return cluster.run(sys.executable, str(ROOT / "jobs" / "launch.py"), *words).stdout

    launch()
    first, second = (read_submitted(run) for run in runs)
    assert [(job.stage, job.of) for job in first] == [("prepare", ""), ("train", "")]
    assert [(job.stage, job.of) for job in second] == [("prepare", "main-seed_1"), ("train", "")]
    assert first[0].job == second[0].job and second[1].after == [first[0].job]
    assert launch().count("left alone: main-seed_") == 2, "live"
    for jobs in (first, second):
        cluster.wait_for_end(str(jobs[1].job), timeout_s=240)
    assert all(is_trained(run) for run in runs)
    assert not list(runs[1].status.glob("prepare-*")), "the other's array made its data"
    assert "nothing to do, it is all there" in launch()
    shown = cluster.run(sys.executable, str(ROOT / "jobs" / "status.py"), str(folder.root)).stdout
    assert "tiny_coqa/main-seed_1" in shown and "0 of 2 runs are done" in shown
