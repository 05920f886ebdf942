"""The probe's processes as srun would start them, two on this machine; SLURM's commands are
stand-ins."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from fake_slurm import FakeSlurm, fake_slurm

from qa_dist.cluster.probe import PARTS, Asked, find_model, read_reports, read_restarts
from qa_dist.cluster.slurm_job import SlurmJob

__all__ = ["fake_slurm"]
ROOT = Path(__file__).resolve().parents[2]


class Ranks:
    """Processes of one probe."""

    def __init__(self, folder: Path, parts: list[str], interface: str = "lo") -> None:
        self.folder = folder
        job = SlurmJob(
            stage="train",
            run=str(folder),
            element=0,
            attempt=1,
            threads=1,
            ranks_per_node=1,
            has_gpus=False,
            interface=interface,
            signal_lead_s=30,
            max_timeouts=0,
        )
        Asked(parts, asdict(job)).save(folder)
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, rank: int, world_size: int, **environ: str) -> None:
        slurms = {
            "SLURM_JOB_ID": "7",
            "SLURM_PROCID": str(rank),
            "SLURM_LOCALID": "0",
            "SLURM_NTASKS": str(world_size),
            "SLURMD_NODENAME": f"n{rank + 1}",
            "HF_HUB_OFFLINE": "1",
        }
        words = ("sh", "-c", 'trap "" USR2; exec "$0" "$@"', sys.executable, "-m")
        self.processes.append(
            subprocess.Popen(
                [*words, "qa_dist.cluster.probe", str(self.folder)],
                cwd=ROOT,
                env={**os.environ, **slurms, **environ},
            )
        )

    def wait_for(self, rank: int, part: str, key: str = "") -> dict[str, Any]:
        """Wait until a part is being done, or is over (key: the part); return the report."""
        give_up_at = time.monotonic() + 120
        while time.monotonic() < give_up_at:
            report = read_reports(self.folder).get(rank, {})
            if (key and key in report) or (not key and report.get("doing") == part):
                return report
            time.sleep(0.05)
        pytest.fail(f"rank {rank} never came to {part}: {read_reports(self.folder)}")

    def end(self) -> dict[int, dict[str, Any]]:
        for process in self.processes:
            assert process.wait(timeout=120) == 0
        return read_reports(self.folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "probe"
    folder.mkdir()
    return folder


@pytest.fixture
def started() -> Iterator[list[Ranks]]:
    started: list[Ranks] = []
    yield started
    for ranks in started:
        for process in ranks.processes:
            process.kill()
            process.wait()


def test_two_nodes_try_all_parts(fake_slurm: FakeSlurm, folder: Path, started: list[Ranks]) -> None:
    fake_slurm.says("scontrol", f"JobId=7 EndTime={time.time() + 500:.0f}\n")
    ranks = Ranks(folder, [part for part in PARTS if part != "requeue"])
    started.append(ranks)
    for rank in (1, 0):
        ranks.start(rank, 2)
    for part in ("signal", "time_limit"):  # as scancel, then slurmctld would
        for rank in (0, 1):
            ranks.wait_for(rank, part)
        for process in ranks.processes:
            process.send_signal(signal.SIGUSR2)
    first, second = (report for _, report in sorted(ranks.end().items()))
    assert (first["host"], second["host"], first["doing"]) == ("n1", "n2", "")
    assert first["facts"]["versions"] == second["facts"]["versions"]
    assert first["facts"]["offline"] and first["facts"]["runs_free_gb"] > 0
    assert first["signal"] == second["signal"] == {"came": True}
    assert 0 < first["folder"]["seen_s"] < 5 and first["folder"]["lock"] == "got"
    assert second["folder"] == {"lock_while_held": "kept out", "lock_after": "got"}
    assert first["network"]["address"] == "127.0.0.1" and first["network"]["gloo_mb_per_s"] > 0
    assert 300 < first["time_limit"]["lead_s"] < 500


def test_a_requeue_that_is_refused_is_told_and_ends_all(
    fake_slurm: FakeSlurm, folder: Path, started: list[Ranks]
) -> None:
    fake_slurm.fails("scontrol", "Requested operation is presently disabled for job 7\n")
    ranks = Ranks(folder, ["requeue"])
    started.append(ranks)
    for rank in (0, 1):
        ranks.start(rank, 2)
    reports = ranks.end()
    assert "presently disabled" in reports[0]["requeue"]["error"]
    assert reports[1]["requeue"] == {}
    assert fake_slurm.calls == ["scontrol requeue 7"]


def test_a_part_that_fails_does_not_keep_the_next_from_being_tried(
    fake_slurm: FakeSlurm, folder: Path, started: list[Ranks]
) -> None:
    fake_slurm.says("scontrol", "JobId=7\n")
    ranks = Ranks(folder, ["network", "time_limit", "folder"], interface="ib7")
    started.append(ranks)
    ranks.start(0, 1)
    report = ranks.end()[0]
    assert "master_interface=ib7" in report["network"]["error"]
    assert report["time_limit"] == {"error": "KeyError: 'EndTime'"}
    assert report["folder"] == {}


def test_what_was_started_again_says_so_and_nothing_else(
    fake_slurm: FakeSlurm, folder: Path, started: list[Ranks]
) -> None:
    ranks = Ranks(folder, list(PARTS))
    started.append(ranks)
    ranks.start(0, 1, SLURM_RESTART_COUNT="1")
    assert ranks.end() == {}
    assert read_restarts(folder) == {0: {"restarts": 1, "host": "n1"}}


def test_an_encoder_is_there_with_its_weights_or_what_is_missing_is_named(
    words_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = shutil.copytree(words_encoder, tmp_path / "encoder")
    assert "its weights aren't there" in find_model(str(folder))
    (folder / "model.safetensors").touch()
    assert find_model("") == "" and find_model(str(folder)) == ""
    assert "no-such-encoder" in find_model("no-such-encoder")
