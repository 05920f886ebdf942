"""Each engine on two nodes of a real cluster: the first ten losses are DDP's."""

from __future__ import annotations

from pathlib import Path

import pytest
from runs import curve
from slurm_cases import SlurmCase
from slurm_clusters import Cluster

from qa_dist.run_dir import RunDir

pytestmark = pytest.mark.slurm


def trained(cluster: Cluster, words: list[str], folder: Path, engine: str) -> RunDir:
    """Train ten steps on 2 nodes x 2 ranks."""
    folder.mkdir()
    case = SlurmCase(cluster, words, folder)
    ours = (f"train.engine={engine}", "train.max_steps=10", "train.log_every_steps=1")
    ours += ("train.precision=fp32", "train.checkpoint_every_steps=10")
    case.words = list({word.partition("=")[0]: word for word in (*case.words, *ours)}.values())
    ids = case.submits("stages=prepare,train")
    cluster.wait_for_end(ids["train"], timeout_s=300)
    assert case.status()["state"] == "done", case.failure()
    return case.run


def losses(run: RunDir) -> list[float]:
    return [line["train/loss"] for line in curve(run) if "train/loss" in line]


def test_the_first_ten_losses_of_each_engine_equal_ddps_on_two_nodes(
    cluster: Cluster, launch_words: list[str], tmp_path: Path
) -> None:
    expected = losses(trained(cluster, launch_words, tmp_path / "ddp", "ddp"))
    assert len(expected) == 10 and len(set(expected)) == 10
    for engine in ("fsdp", "zero1", "zero2", "zero3"):
        found = losses(trained(cluster, launch_words, tmp_path / engine, engine))
        assert found == pytest.approx(expected, rel=1e-5), engine
        assert found != pytest.approx([x * (1 + 2e-5) for x in expected], rel=1e-5), "control"
