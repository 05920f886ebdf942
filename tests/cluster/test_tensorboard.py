"""TensorBoard as a process and as a job: what it is given, and what is said of a start that
fails; SLURM's commands are stand-ins. That its page comes is shown in tests/jobs."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest
from fabricated import fabricate
from fake_slurm import FakeSlurm, fake_slurm

from qa_dist.cluster import tensorboard
from qa_dist.cluster.queue import QueueError
from qa_dist.profile import Profile, Resources
from qa_dist.records import InputError
from qa_dist.run_dir import RunDir

__all__ = ["fake_slurm"]
PROFILE = Profile(
    name="here", where="slurm", gpus_per_node=8, partition="gpu", account="mine", timeout_min=900
)
SBATCH = """#!/bin/sh
printf '%s\\n' "$@" > {folder}/words
echo 101
"""


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return fabricate(tmp_path).run


@pytest.fixture(autouse=True)
def own_environ(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("QA_DIST_PYTHON", "QA_DIST_PORT", "QA_DIST_ENV_FILE"):
        monkeypatch.setenv(name, "")


def test_runs_of_the_same_name_are_told_apart(tmp_path: Path, run: RunDir) -> None:
    other = fabricate(tmp_path / "elsewhere").run
    folder = tmp_path / "links"
    folder.mkdir()
    tensorboard.link_runs(folder, [run, other])
    assert (folder / "tiny" / "one").readlink() == run.tensorboard
    assert (folder / "tiny" / "one-again").readlink() == other.tensorboard


def test_a_port_that_is_taken_is_said(run: RunDir) -> None:
    with socket.socket() as taken:
        taken.bind((tensorboard.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(InputError, match=f"port={port}: can't be used .Address already in use"),
            tensorboard.serving([run], port),
        ):
            pass


def test_a_start_that_fails_says_why(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorboard.sys, "executable", "/bin/false")
    with (
        pytest.raises(InputError, match="TensorBoard didn't start"),
        tensorboard.serving([run], tensorboard.free_port()),
    ):
        pass


def test_behind_ssh_the_tunnel_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSH_CONNECTION", raising=False)
    assert tensorboard.address_lines(6006) == ["http://127.0.0.1:6006"]
    monkeypatch.setenv("SSH_CONNECTION", "10.0.0.1 50000 10.0.0.2 22")
    tunnel = tensorboard.address_lines(6006)[0]
    assert f"ssh -N -L 6006:127.0.0.1:6006 {socket.gethostname()}" in tunnel


def test_a_job_is_given_the_profiles_resources_and_no_secrets(
    fake_slurm: FakeSlurm, run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (fake_slurm.folder / "sbatch").write_text(SBATCH.format(folder=fake_slurm.folder))
    monkeypatch.setenv("HF_TOKEN", "secret")
    profile = Profile(
        **{**vars(PROFILE), "aggregate": Resources(partition="cpu", mem_gb=2.0, cpus_per_task=2)}
    )
    job, log = tensorboard.submit([run], profile, 6006)
    assert (job, log) == (101, run.logs / "tensorboard-101.log")
    words = (fake_slurm.folder / "words").read_text().splitlines()
    for word in ("--partition=cpu", "--account=mine", "--mem=2000M", "--time=480"):
        assert word in words
    assert not any("gpu" in word for word in words)
    assert words[-1] == str(run.root) and words[-2].endswith("slurm/tensorboard.sbatch")
    (exported,) = [word for word in words if word.startswith("--export=")]
    assert "QA_DIST_PYTHON" in exported and "HF_TOKEN" not in exported
    assert os.environ["QA_DIST_PYTHON"] == sys.executable
    assert os.environ["QA_DIST_PORT"] == "6006"


def test_a_job_that_runs_says_where_it_is_found(fake_slurm: FakeSlurm, tmp_path: Path) -> None:
    fake_slurm.says("squeue", "101|N/A|RUNNING|None|n1|1|(null)\n")
    log = tmp_path / "log"
    shown = ["on your own computer:  ssh -N -L 1:127.0.0.1:1 -J login n1", "then open:   http://x"]
    log.write_text("\n".join(["noise", *shown, "more noise"]))
    assert tensorboard.wait_for_job(101, log, print) == shown
    assert not any("scancel" in call for call in fake_slurm.calls)


def test_a_job_that_ends_says_why(fake_slurm: FakeSlurm, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("error: no module named tensorboard\n")
    with pytest.raises(InputError, match="no module named tensorboard"):
        tensorboard.wait_for_job(101, log, print)


def test_while_it_waits_that_is_told_and_ctrl_c_cancels_it(
    fake_slurm: FakeSlurm, tmp_path: Path
) -> None:
    fake_slurm.says("squeue", "101|N/A|PENDING|Resources||N/A|(null)\n")
    told: list[str] = []

    def tell(text: str) -> None:
        told.append(text)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tensorboard.wait_for_job(101, tmp_path / "log", tell)
    assert told == ["job 101 waits: no nodes are free yet (Resources)"]
    assert "scancel 101" in fake_slurm.calls


def test_a_controller_that_is_down_is_passed_on(fake_slurm: FakeSlurm, tmp_path: Path) -> None:
    fake_slurm.fails("squeue", "Unable to contact slurm controller")
    fake_slurm.fails("scancel", "Unable to contact slurm controller")
    with pytest.raises(QueueError, match="Unable to contact"):
        tensorboard.wait_for_job(101, tmp_path / "log", print)
