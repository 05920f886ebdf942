"""The doctor on real clusters: where all is fine it says so, and what is broken it names."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from slurm_clusters import ROOT, Cluster

pytestmark = pytest.mark.slurm

PROFILE = """
where: slurm
partition: low
gpus_per_node: 0
cpus_per_task: 1
timeout_min: 30
signal_lead_s: 30
master_interface: lo
"""
ALL = "commands preflight start gpus versions caches disk signal folder network time_limit requeue"


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = tmp_path / "here.yaml"
    path.write_text(PROFILE)
    return path


def words(profile: Path, *more: str) -> list[str]:
    script = str(ROOT / "jobs" / "doctor.py")
    runs_dir = f"runs_dir={profile.parent / 'runs'}"
    return [sys.executable, script, f"profile={profile}", runs_dir, *more]


def examine(
    cluster: Cluster, profile: Path, *more: str, status: int = 0
) -> dict[str, dict[str, str]]:
    """Run the doctor; return the last finding of each check. It leaves nothing behind."""
    done = cluster.run(*words(profile, "--json", *more), check=False, timeout=500)
    assert done.returncode == status, done.stdout + done.stderr
    assert not (profile.parent / "runs").exists()
    assert not cluster.run("squeue", "--noheader").stdout
    return {one["check"]: one for one in json.loads(done.stdout)}


@pytest.mark.slow
def test_all_is_fine(cluster: Cluster, profile: Path) -> None:
    found = examine(cluster, profile, "recipe=tiny_coqa")
    assert " ".join(found) == ALL
    # How fast tensors are added up is this machine's business.
    assert {one["level"] for name, one in found.items() if name != "network"} == {"ok"}, found
    assert found["network"]["level"] != "problem" and "gloo" in found["network"]["text"]
    assert "restart 1" in found["requeue"]["text"]


@pytest.mark.slow
def test_without_accounting_and_with_what_is_broken(plain_cluster: Cluster, profile: Path) -> None:
    """A network that isn't there, and nodes from which scontrol doesn't work."""
    folder = profile.parent / "broken"
    folder.mkdir()
    scontrol = folder / "scontrol"
    scontrol.write_text("#!/bin/sh\necho 'access denied by policy' >&2\nexit 1\n")
    scontrol.chmod(0o700)
    env_file = profile.parent / "env.sh"
    env_file.write_text(f"export PATH={folder}:$PATH\n")
    profile.write_text(
        PROFILE.replace("interface: lo", "interface: ib7") + f"env_file: {env_file}\n"
    )
    found = examine(plain_cluster, profile, "only=commands,start,network,folder,requeue", status=1)
    assert found["commands"]["level"] == "warning"  # sacct
    assert found["start"]["level"] == found["folder"]["level"] == "ok"
    assert found["network"]["level"] == found["requeue"]["level"] == "problem"
    assert "ib7" in found["network"]["text"]
    assert "master_interface" in found["network"]["advice"]
    assert "access denied by policy" in found["requeue"]["text"]


def test_a_full_cluster_is_not_waited_for_forever(cluster: Cluster, profile: Path) -> None:
    cluster.sbatch("sleep 300", "--nodes=4", "--exclusive", "--partition=high")
    done = cluster.run(*words(profile, "start_s=3", "only=signal"), check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "problem  start" in done.stdout and "still waiting after 3 s" in done.stdout
    assert "doctor" not in cluster.run("squeue", "--noheader", "--format=%j").stdout


def test_ctrl_c_cancels_the_probe_and_removes_its_folder(cluster: Cluster, profile: Path) -> None:
    doctor = subprocess.Popen(
        words(profile, "only=time_limit"), env=cluster.env, stdout=subprocess.PIPE, text=True
    )
    cluster.wait_for(
        lambda: "RUNNING" in cluster.run("squeue", "--noheader", "--format=%T").stdout, "a probe"
    )
    doctor.send_signal(signal.SIGINT)
    assert doctor.wait(timeout=60) == 130
    cluster.wait_for(lambda: not cluster.run("squeue", "--noheader").stdout, "an empty queue")
    assert not (profile.parent / "runs").exists()
