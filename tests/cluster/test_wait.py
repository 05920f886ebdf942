"""wait=true: it looks until all has ended, and tells an end from a queue that doesn't answer."""

from __future__ import annotations

import io
import threading
import time
from pathlib import Path

import pytest
from fake_slurm import FakeSlurm, fake_slurm
from rich.console import Console

from qa_dist.cluster import wait
from qa_dist.cluster.status import Element, StageStatus
from qa_dist.cluster.submitted import Submitted
from qa_dist.files import write_json, write_marker, write_status, write_text
from qa_dist.run_dir import RunDir, step_name

__all__ = ["fake_slurm"]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """A run that is being trained by job 7."""
    monkeypatch.setattr(wait, "_POLL_S", 0.05)
    monkeypatch.setattr(wait, "_SETTLE_S", 0.3)
    run = RunDir(tmp_path / "tiny" / "main")
    write_json(run.run_json, {"id": "a", "attempt": 1, "recipe": "tiny", "name": "main"})
    write_text(run.root / "profile.yaml", "where: slurm\n")
    write_json(run.jobs, [vars(Submitted("train", 7, [0], [], 1, False))])
    beat(run, "running", 3)
    return run


def beat(run: RunDir, state: str, step: int) -> None:
    facts = {"state": state, "step": step, "of": 8, "unit": "steps", "updated_at": time.time()}
    write_status(run.status_file("train", 0), facts)


def console() -> Console:
    return Console(file=io.StringIO(), width=120)


def finish(run: RunDir) -> None:
    folder = run.checkpoints / step_name(8)
    folder.mkdir(parents=True)
    write_marker(folder, step=8)
    beat(run, "done", 8)


def test_it_returns_once_the_stage_is_done(fake_slurm: FakeSlurm, run: RunDir) -> None:
    fake_slurm.says("squeue", "7|N/A|RUNNING|None|n1|1700000000|(null)\n")
    timer = threading.Timer(0.5, finish, [run])
    started = time.monotonic()
    timer.start()
    (status,) = wait.wait_for_stages(run, ["train"], console())
    assert status.state == "done" and time.monotonic() - started > 0.4


@pytest.mark.parametrize(("slower", "least", "most"), [(1000.0, 2, 2), (1.0, 4, 1000)])
def test_the_queue_is_asked_more_and_more_seldom(
    fake_slurm: FakeSlurm,
    run: RunDir,
    monkeypatch: pytest.MonkeyPatch,
    slower: float,
    least: int,
    most: int,
) -> None:
    monkeypatch.setattr(wait, "_ASK_SLOWER", slower)
    fake_slurm.says("squeue", "7|N/A|RUNNING|None|n1|1700000000|(null)\n")
    timer = threading.Timer(2.0, finish, [run])
    timer.start()
    (status,) = wait.wait_for_stages(run, ["train"], console())
    timer.join()
    assert status.state == "done"
    asked = sum(call.startswith("squeue") for call in fake_slurm.calls)
    assert least <= asked <= most, "the last time to tell how it ended"


def test_a_job_that_has_gone_ends_the_waiting(fake_slurm: FakeSlurm, run: RunDir) -> None:
    fake_slurm.fails("squeue", "slurm_load_jobs error: Invalid job id specified\n")
    (status,) = wait.wait_for_stages(run, ["train"], console())
    assert status.state == "failed"
    assert "ended without a word" in status.elements[0].note


def test_a_last_word_that_comes_late_is_waited_for_however_seldom_the_queue_is_asked(
    fake_slurm: FakeSlurm, run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wait, "_ASK_SLOWER", 20.0)  # asked at once, and after a second
    monkeypatch.setattr(wait, "_SETTLE_S", 0.7)
    fake_slurm.says("squeue", "7|N/A|RUNNING|None|n1|1700000000|(null)\n")
    gone = threading.Timer(0.7, fake_slurm.says, ["squeue", ""])
    word = threading.Timer(1.3, finish, [run])  # after the queue was seen without the job
    gone.start()
    word.start()
    (status,) = wait.wait_for_stages(run, ["train"], console())
    gone.join()
    word.join()
    assert status.state == "done"


def test_what_is_not_done_is_said_with_its_reason(fake_slurm: FakeSlurm, run: RunDir) -> None:
    failed = [Element(index, "failed", f"broke {index}") for index in range(7)]
    prepare = StageStatus("prepare", [*failed, Element(7, "done"), Element(8, "missing", "why")])
    train = StageStatus(
        "train", [Element(0, "missing", "not run"), Element(1, "missing", "not run")]
    )
    assert wait.unfinished([prepare, train]) == [
        *(f"prepare, element {index}: broke {index}" for index in range(5)),
        "... and 2 more elements failed",
        "prepare, element 8: why",
        "train, 2 elements: not run",
    ]
    assert wait.unfinished([StageStatus("train", [Element(0, "done")])]) == []


def test_s01_a_controller_that_is_down_does_not(fake_slurm: FakeSlurm, run: RunDir) -> None:
    fake_slurm.fails("squeue", "slurm_load_jobs error: Unable to contact slurm controller\n")
    ended: list[object] = []
    told = io.StringIO()
    shown = Console(file=told, width=120)
    looking = threading.Thread(
        target=lambda: ended.append(wait.wait_for_stages(run, ["train"], shown)), daemon=True
    )
    looking.start()
    looking.join(1.0)
    assert looking.is_alive(), "it goes on looking"
    assert (
        "train: the queue doesn't answer (squeue -h: slurm_load_jobs error: Un" in told.getvalue()
    )
    fake_slurm.says("squeue", "")
    looking.join(20)
    assert ended, "and ends once the controller answers that there is no such job"
