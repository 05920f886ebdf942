"""What the doctor makes of a cluster that doesn't do as it should, and that it leaves nothing
behind; SLURM's commands are stand-ins, and sbatch writes what the nodes would report."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_slurm import FakeSlurm, fake_slurm

from qa_dist.cluster import doctor
from qa_dist.cluster.diagnosis import OK, PROBLEM, WARNING, Finding
from qa_dist.cluster.probe import own_versions
from qa_dist.profile import Profile
from qa_dist.records import InputError

__all__ = ["fake_slurm"]
PROFILE = Profile(
    name="here", where="slurm", gpus_per_node=0, partition="low", timeout_min=60, signal_lead_s=60
)
PARTITION = "PartitionName=low Default=YES MaxTime=UNLIMITED State=UP TotalNodes=2\n"
RUNNING = "101|N/A|RUNNING|None|n[1-2]|1|(null)\n"
FACTS = {
    "versions": own_versions(),
    "gpus": 0,
    "cores": 1,
    "offline": True,
    "model": "",
    "model_error": "",
    "runs_free_gb": 90.0,
    "temp": "/tmp",
    "temp_free_gb": 90.0,
}
SBATCH = """#!/bin/sh
echo "sbatch $*" >> {folder}/calls
cp "$2" {folder}/script
cp {folder}/nodes/* "$(dirname "$2")" 2>/dev/null
echo 101
"""


class Nodes:
    """What the probe's processes will have reported when sbatch returns."""

    def __init__(self, slurm: FakeSlurm) -> None:
        self._slurm = slurm
        self._folder = slurm.folder / "nodes"
        self._folder.mkdir()
        slurm.says("scontrol", PARTITION)
        slurm.says("sinfo", "slurm 23.11\n")
        slurm.says("squeue", RUNNING)
        slurm.fails("sacctmgr", "no accounting")
        sbatch = slurm.folder / "sbatch"
        sbatch.write_text(SBATCH.format(folder=slurm.folder))

    def report(self, rank: int, **parts: Any) -> None:
        facts = {"host": f"n{rank + 1}", "doing": "", **parts}
        (self._folder / f"report-{rank}.json").write_text(json.dumps(facts))

    def restart(self) -> None:
        (self._folder / "restarted-0.json").write_text('{"restarts": 1, "host": "n1"}')

    @property
    def script(self) -> str:
        return (self._slurm.folder / "script").read_text()


@pytest.fixture
def nodes(fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> Nodes:
    monkeypatch.setattr(doctor, "_POLL_S", 0.01)
    monkeypatch.setattr(doctor, "_END_S", 0.0)
    return Nodes(fake_slurm)


def examine(
    folder: Path, *checks: str, profile: Profile = PROFILE, start_s: float = 0.3
) -> dict[str, Finding]:
    said: list[str] = []
    asked = doctor.Examination(profile, None, folder / "runs", checks, start_s, said.append)
    found = {one.check: one for one in asked.findings()}
    assert not (folder / "runs").exists(), "it leaves nothing behind"
    return found


def test_parts_are_judged_as_they_come_and_nothing_is_left(
    nodes: Nodes, fake_slurm: FakeSlurm, tmp_path: Path
) -> None:
    for rank in (0, 1):
        nodes.report(rank, facts=FACTS, time_limit={"lead_s": 75.0})
    nodes.restart()
    checks = ("start", "gpus", "versions", "caches", "disk", "time_limit", "requeue")
    found = examine(tmp_path, *checks)
    assert list(found) == list(checks)
    assert {one.level for one in found.values()} == {OK}, found
    assert "scancel 101" in fake_slurm.calls


def test_the_probe_is_submitted_as_a_training_would_be(nodes: Nodes, tmp_path: Path) -> None:
    profile = replace(PROFILE, account="mine", constraint="a100", nodes=8, ranks_per_node=4)
    for rank in (0, 1):
        nodes.report(rank, time_limit={"lead_s": 75.0})
    examine(tmp_path, "time_limit", profile=profile)
    for line in ("partition=low", "account=mine", "constraint=a100", "nodes=2", "requeue"):
        assert f"#SBATCH --{line}\n" in nodes.script
    assert "#SBATCH --ntasks-per-node=1\n" in nodes.script
    assert "#SBATCH --signal=USR2@60\n" in nodes.script and "#SBATCH --time=3\n" in nodes.script
    assert "-u -m qa_dist.cluster.probe" in nodes.script


def test_one_node_is_enough_where_there_is_but_one(
    nodes: Nodes, fake_slurm: FakeSlurm, tmp_path: Path
) -> None:
    fake_slurm.says("scontrol", PARTITION.replace("TotalNodes=2", "TotalNodes=1"))
    nodes.report(0, folder={})
    assert "not tried between nodes" in examine(tmp_path, "folder")["folder"].text
    assert "#SBATCH --nodes=1\n" in nodes.script


def test_a_probe_that_waits_too_long_is_cancelled_and_says_why(
    nodes: Nodes, fake_slurm: FakeSlurm, tmp_path: Path
) -> None:
    fake_slurm.says("squeue", "101|N/A|PENDING|Resources||N/A|(null)\n")
    found = examine(tmp_path, "start", "network")
    assert list(found) == ["start"] and found["start"].level == PROBLEM
    assert "no nodes are free yet" in found["start"].text and "start_s" in found["start"].advice
    assert "scancel 101" in fake_slurm.calls


def test_what_sbatch_refuses_is_told(nodes: Nodes, fake_slurm: FakeSlurm, tmp_path: Path) -> None:
    (fake_slurm.folder / "sbatch").write_text("#!/bin/sh\necho 'Invalid account' >&2; exit 1\n")
    found = examine(tmp_path, "requeue")
    assert found["start"].level == PROBLEM and "Invalid account" in found["start"].text


def test_nodes_that_do_not_see_the_folder_report_nothing(
    nodes: Nodes, fake_slurm: FakeSlurm, tmp_path: Path
) -> None:
    fake_slurm.says("squeue", "")
    found = examine(tmp_path, "network")
    assert found["network"].level == PROBLEM
    assert "left no report: do nodes see" in found["network"].text


def test_a_part_that_kills_the_probe_is_named_with_its_node(
    nodes: Nodes, fake_slurm: FakeSlurm, tmp_path: Path
) -> None:
    nodes.report(0, folder={}, network={})
    nodes.report(1, folder={}, doing="network")
    fake_slurm.says("squeue", "")
    found = examine(tmp_path, "network", "requeue")
    assert list(found) == ["network"] and "in part network on n2" in found["network"].text


def test_a_refused_requeue_is_a_problem(nodes: Nodes, tmp_path: Path) -> None:
    nodes.report(0, requeue={"error": "scontrol requeue: job may not be requeued"})
    nodes.report(1, requeue={})
    found = examine(tmp_path, "requeue")
    assert found["requeue"].level == PROBLEM and "may not be requeued" in found["requeue"].text


def test_signals_are_sent_once_all_processes_wait(
    nodes: Nodes, fake_slurm: FakeSlurm, tmp_path: Path
) -> None:
    for rank in (0, 1):
        nodes.report(rank, doing="signal", signal={"came": True})
    assert examine(tmp_path, "signal")["signal"].level == OK
    assert "scancel --signal=USR2 101" in fake_slurm.calls


def test_commands_and_accounting(
    nodes: Nodes, fake_slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert examine(tmp_path, "commands")["commands"].text == "sacct answers"
    fake_slurm.fails("sacct", "Slurm accounting storage is disabled")
    assert examine(tmp_path, "commands")["commands"].level == WARNING
    fake_slurm.fails("squeue", "Unable to contact slurm controller")
    found = examine(tmp_path, "commands", "network")
    assert list(found) == ["commands"] and "Unable to contact" in found["commands"].text
    monkeypatch.setenv("PATH", "/nowhere")
    assert "sbatch, srun" in examine(tmp_path, "commands")["commands"].text


def test_the_profile_is_checked_as_launch_does(nodes: Nodes, tmp_path: Path) -> None:
    assert examine(tmp_path, "preflight")["preflight"].level == OK
    found = examine(tmp_path, "preflight", profile=replace(PROFILE, partition="lwo"))
    assert 'did you mean "low"?' in found["preflight"].text


def test_whoever_stops_early_leaves_nothing_either(
    nodes: Nodes, fake_slurm: FakeSlurm, tmp_path: Path
) -> None:
    (tmp_path / "runs").mkdir(mode=0o700)
    asked = doctor.Examination(PROFILE, None, tmp_path / "runs", tell=lambda _: None)
    with closing(asked.findings()) as findings:
        next(one for one in findings if one.check == "start")
    assert "scancel 101" in fake_slurm.calls and not list((tmp_path / "runs").iterdir())


def test_an_odd_path_is_refused_before_anything_is_submitted(
    nodes: Nodes, fake_slurm: FakeSlurm, tmp_path: Path
) -> None:
    odd = tmp_path / "my runs"
    asked = doctor.Examination(PROFILE, None, odd, ("requeue",))
    with pytest.raises(InputError, match="characters"):
        list(asked.findings())
    assert not odd.exists() and not any("sbatch" in call for call in fake_slurm.calls)


def test_every_part_and_check_is_known() -> None:
    assert set(doctor._PARTS_OF_CHECKS) <= set(doctor.CHECKS)
    assert set(doctor._PARTS_OF_CHECKS.values()) == set(doctor.PARTS)
