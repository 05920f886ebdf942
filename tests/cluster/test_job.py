"""One element as a process runs it: its log, its last word, and how it is stopped."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qa_dist.cluster import job
from qa_dist.cluster.job import LocalJob, report_failure, run_stage
from qa_dist.code_version import code_version
from qa_dist.files import read_json, write_status
from qa_dist.records import InputError
from qa_dist.run_dir import RunDir

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "run")


def make_job(run: RunDir, **facts: Any) -> LocalJob:
    defaults = {"stage": "evaluate", "element": 3, "attempt": 2, "launcher_pid": 0}
    return LocalJob(
        **{**defaults, "run": str(run.root), "master_port": 0, "threads": 1, **facts}  # type: ignore[arg-type]
    )


def start(stage_job: LocalJob, work: Callable[..., str], **environ: str) -> int:
    """Call the job in a forked process whose run_stage is `work`; return the process."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.environ.update(environ)
            sys.stdout = os.fdopen(1, "w", closefd=False)  # pytest's own writes elsewhere
            job.run_stage = work
            status = {"done": 0, "stopped": 75}[stage_job()]
        finally:
            os._exit(status)
    return child


def wait(child: int, timeout_s: float = 30) -> int:
    give_up_at = time.monotonic() + timeout_s
    while time.monotonic() < give_up_at:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise TimeoutError("the job hung")


def wait_for(path: Path) -> None:
    give_up_at = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < give_up_at, f"{path} never came"
        time.sleep(0.01)


# ---- which stage


def test_an_unknown_stage_is_refused(run: RunDir) -> None:
    with pytest.raises(InputError, match="stage=score: expected one of prepare, train"):
        run_stage("score", run, 0)


def test_a_job_pickles_as_names_and_numbers_and_loads_no_torch(run: RunDir) -> None:
    text = pickle.dumps(make_job(run))
    assert len(text) < 1000 and b"torch" not in text
    assert all(isinstance(value, str | int) for value in vars(make_job(run)).values())
    code = "import sys, qa_dist.cluster.job; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


# ---- logs and environment


def test_each_attempt_and_rank_logs_to_its_own_files(run: RunDir) -> None:
    def work(stage: str, run: RunDir, element: int, saved: job.Saved) -> str:
        print("to stdout", flush=True)
        os.write(2, b"to stderr\n")
        return "done"

    environ = {"SUBMITIT_LOCAL_GLOBALID": "1", "SUBMITIT_LOCAL_NTASKS": "2"}
    assert wait(start(make_job(run), work, **environ)) == 0
    out = run.logs / "evaluate-3-2-1.out"
    head = f"# evaluate 3, attempt 2, rank 1, code {code_version()}\n"
    assert out.read_text() == f"{head}to stdout\n"
    assert (run.logs / "evaluate-3-2-1.err").read_text() == "to stderr\n"
    assert out.stat().st_mode & 0o077 == 0, "for its owner only"


def test_a_rank_is_told_who_it_is_and_what_is_its_own(run: RunDir) -> None:
    wanted = {
        "RANK": "1",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "2",
        "MASTER_PORT": "1234",
        "QA_DIST_ATTEMPT": "2",
        "OMP_NUM_THREADS": "3",
        "CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b",
        "TOKENIZERS_PARALLELISM": "true",
    }

    def work(stage: str, run: RunDir, element: int, saved: job.Saved) -> str:
        differing = {k: os.environ.get(k) for k, v in wanted.items() if os.environ.get(k) != v}
        assert (stage, element) == ("evaluate", 3)
        return "stopped" if differing else "done"

    environ = {
        "SUBMITIT_LOCAL_GLOBALID": "1",
        "SUBMITIT_LOCAL_LOCALID": "1",
        "SUBMITIT_LOCAL_NTASKS": "2",
    }
    of_rank = make_job(run, master_port=1234, threads=3, gpus="GPU-a,GPU-b")
    assert wait(start(of_rank, work, **environ)) == 0


# ---- the last word


def test_bad_input_is_reported_as_its_message(run: RunDir) -> None:
    def work(*_: object) -> str:
        raise InputError("dev.json: no such file; give another")

    assert wait(start(make_job(run), work)) == 1
    status = read_json(run.status_file("evaluate", 3))
    assert status["state"] == "failed"
    assert status["error"] == "dev.json: no such file; give another"


def test_a_foreign_error_is_reported_with_the_end_of_its_traceback(run: RunDir) -> None:
    try:
        raise ZeroDivisionError("by zero")
    except ZeroDivisionError as error:
        report_failure(run, "train", 0, error)
    text = read_json(run.status_file("train", 0))["error"]
    assert "test_job.py" in text and text.endswith("ZeroDivisionError: by zero")


class ConsequenceError(Exception):
    is_consequence = True


def test_who_failed_first_is_not_talked_over(run: RunDir) -> None:
    write_status(run.status_file("train", 0), {"state": "running", "saved_step": 4})
    report_failure(run, "train", 0, ConsequenceError("rank 1 ended"))
    assert "rank 1 ended" in read_json(run.status_file("train", 0))["error"]
    report_failure(run, "train", 0, InputError("the reason"))
    report_failure(run, "train", 0, ConsequenceError("rank 1 ended"))
    status = read_json(run.status_file("train", 0))
    assert status["error"] == "the reason"
    assert status["saved_step"] == 4, "what was saved stays known"


def test_t15_an_older_attempt_does_not_talk_over_a_newer_one(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = run.status_file("train", 0)
    write_status(path, {"state": "done", "attempt": 3})
    monkeypatch.setenv("QA_DIST_ATTEMPT", "2")
    report_failure(run, "train", 0, InputError("rank 1 is gone"))
    assert read_json(path) == {"state": "done", "attempt": 3}
    monkeypatch.setenv("QA_DIST_ATTEMPT", "3")
    report_failure(run, "train", 0, InputError("rank 1 is gone"))
    assert read_json(path)["error"] == "rank 1 is gone"


# ---- stopping


def busy(flag: Path, cleaned: Path | None = None, is_deaf: bool = False) -> Callable[..., str]:
    """Return work that says when it is at it, and never ends by itself."""

    def work(*_: object) -> str:
        try:
            flag.touch()
            while True:
                time.sleep(0.01)
        except job.StopAskedError:
            while is_deaf:
                time.sleep(0.01)
            raise
        finally:
            if cleaned:
                cleaned.touch()

    return work


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_lets_an_element_clean_up_and_say_that_it_stopped(
    run: RunDir, tmp_path: Path, signum: signal.Signals
) -> None:
    child = start(make_job(run), busy(tmp_path / "flag", tmp_path / "cleaned"))
    wait_for(tmp_path / "flag")
    os.kill(child, signum)
    assert wait(child) == 75
    assert (tmp_path / "cleaned").exists()
    assert read_json(run.status_file("evaluate", 3))["state"] == "stopped"


def test_a_signal_while_a_library_loads_stops_it_in_order_too(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "leave_torch_out", busy(tmp_path / "flag", tmp_path / "cleaned"))
    child = start(make_job(run, stage="prepare"), lambda *_: "done")
    wait_for(tmp_path / "flag")
    os.kill(child, signal.SIGUSR2)
    assert wait(child) == 75
    assert read_json(run.status_file("prepare", 3))["state"] == "stopped"


def test_a_job_stops_once_its_launcher_is_gone(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "_WATCH_S", 0.05)
    launcher = subprocess.Popen(["sleep", "60"])
    child = start(make_job(run, launcher_pid=launcher.pid), busy(tmp_path / "flag"))
    wait_for(tmp_path / "flag")
    time.sleep(0.2)
    assert os.waitpid(child, os.WNOHANG) == (0, 0), "control: it goes on while the launcher lives"
    launcher.kill()  # not reaped: what a shell in a container may never do
    assert wait(child, 10) == 75
    launcher.wait()


def test_a_job_that_does_not_stop_after_its_launcher_is_killed(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "_WATCH_S", 0.05)
    monkeypatch.setattr(job, "STOP_S", 0.3)
    launcher = subprocess.Popen(["sleep", "60"])
    deaf = busy(tmp_path / "flag", is_deaf=True)
    child = start(make_job(run, launcher_pid=launcher.pid), deaf)
    wait_for(tmp_path / "flag")
    launcher.kill()
    launcher.wait()
    assert wait(child, 10) == -signal.SIGKILL


def test_a_stop_that_came_while_an_object_was_deleted_is_not_lost(
    run: RunDir, tmp_path: Path
) -> None:
    class Slow:
        def __del__(self) -> None:
            (tmp_path / "flag").touch()
            time.sleep(30)  # the signal ends it, and Python drops the exception

    def work(stage: str, run: RunDir, element: int, saved: job.Saved) -> str:
        Slow()
        (tmp_path / "dropped").touch()
        try:
            time.sleep(30)
        finally:
            time.sleep(2 * job._INSIST_S)  # leaving takes longer than until it would insist
            (tmp_path / "left").touch()
        return "done"

    child = start(make_job(run), work)
    wait_for(tmp_path / "flag")
    os.kill(child, signal.SIGTERM)
    assert wait(child) == 75
    assert (tmp_path / "dropped").exists() and (tmp_path / "left").exists()
