"""TensorBoard as a job of a real cluster: the line that it prints leads to its page."""

from __future__ import annotations

import re
import socket
import sys
import urllib.request
from pathlib import Path

import pytest
from fabricated import fabricate
from slurm_clusters import ROOT, Cluster

from qa_dist.run_dir import RunDir

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return fabricate(tmp_path).run


def check_page(cluster: Cluster, text: str) -> None:
    """Follow the printed lines, the tunnel left out as all nodes are this machine."""
    tunnel = re.search(r"ssh -N -L (\d+):127\.0\.0\.1:(\d+) -J (\S+) (n\d)\b", text)
    assert tunnel, text
    port = tunnel[1]
    assert tunnel[2] == port and tunnel[3] == socket.gethostname()
    assert f"http://127.0.0.1:{port}" in text

    def comes() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=10) as answer:
                return b"<title>TensorBoard</title>" in answer.read()
        except OSError:
            return False

    cluster.wait_for(comes, "TensorBoard's page", timeout_s=120, every_s=0.5)


def check_it_ends(cluster: Cluster, job: str, port_of: str) -> None:
    cluster.run("scancel", job)
    cluster.wait_for_end(job)
    port = re.search(r"-L (\d+):", port_of)
    assert port
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(port[1]))) != 0


def test_jobs_tensorboard_submits_it_and_tells_how_to_reach_it(
    cluster: Cluster, run: RunDir
) -> None:
    profile = run.root.parent / "here.yaml"
    profile.write_text("where: slurm\npartition: low\ngpus_per_node: 0\n")
    script = str(ROOT / "jobs" / "tensorboard.py")
    done = cluster.run(sys.executable, script, str(run.root), f"profile={profile}")
    check_page(cluster, done.stdout)
    job = re.search(r"scancel (\d+)", done.stdout)
    assert job
    check_it_ends(cluster, job[1], done.stdout)


def test_the_script_alone_does_as_well(cluster: Cluster, run: RunDir, tmp_path: Path) -> None:
    environ = {"QA_DIST_PYTHON": sys.executable}
    words = ("sbatch", "--parsable", str(ROOT / "slurm" / "tensorboard.sbatch"), "runs/tiny/one")
    job = cluster.run(*words, cwd=tmp_path, env=environ).stdout.strip()
    log = tmp_path / f"tensorboard-{job}.log"
    cluster.wait_for(lambda: log.exists() and "then open" in log.read_text(), "its address")
    check_page(cluster, log.read_text())
    check_it_ends(cluster, job, log.read_text())


def test_a_folder_that_is_no_run_is_named(cluster: Cluster, tmp_path: Path) -> None:
    words = ("sbatch", "--parsable", str(ROOT / "slurm" / "tensorboard.sbatch"), "nothing/here")
    job = cluster.run(*words, cwd=tmp_path).stdout.strip()
    assert cluster.wait_for_end(job)["JobState"] == "FAILED"
    log = (tmp_path / f"tensorboard-{job}.log").read_text()
    assert "nothing/here: holds no run.json" in log
