"""Elements as local processes: a few at once, each on its GPU, stopped in order, named by error.

Most tests put a `sleep` or a shell in the place of submitit's controller; one runs the real thing.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from zygote import wait_until

from qa_dist.cluster import submit
from qa_dist.cluster.job import LocalJob
from qa_dist.cluster.submit import Place, gpu_names, run_in_process, run_local
from qa_dist.files import read_json, write_json, write_status
from qa_dist.processes import is_alive
from qa_dist.records import InputError
from qa_dist.run_dir import RunDir

PLACE = Place(num_ranks=1, num_gpus=0, max_parallel=2, num_cores=8)


class FakeJobs:
    """In submitit's place: a shell command for each element, and what it was asked for."""

    def __init__(self, run: RunDir) -> None:
        self.run = run
        self.command = "true"
        self.state = "done"
        """What each writes to its status file at once; "": nothing."""
        self.submitted: list[LocalJob] = []
        self.num_tasks: list[int] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        self.most_at_once = 0

    def __call__(self, job: LocalJob, folder: Path, num_tasks: int, timeout_min: int) -> Any:
        self.submitted.append(job)
        self.num_tasks.append(num_tasks)
        if self.state:
            path = self.run.status_file(job.stage, job.element)
            write_status(path, {"state": self.state, "error": "it broke"})
        process = subprocess.Popen(["sh", "-c", self.command.format(job.element)])
        self.processes.append(process)
        alive = sum(p.poll() is None for p in self.processes)
        self.most_at_once = max(self.most_at_once, alive)
        return SimpleNamespace(
            _process=process,
            done=lambda: process.poll() is not None,
            paths=SimpleNamespace(stderr=self.run.root / "controller.err"),
        )


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeJobs]:
    jobs = FakeJobs(RunDir(tmp_path))
    monkeypatch.setattr(submit, "_submit", jobs)
    monkeypatch.setattr(submit, "_POLL_S", 0.01)
    yield jobs
    for process in jobs.processes:
        process.kill()
        process.wait()


def run(jobs: FakeJobs, elements: range, place: Place = PLACE, stage: str = "evaluate") -> Any:
    return run_local(jobs.run, stage, elements, 1, place, lambda statuses: None)


# ---- how many at once, on what


def test_at_most_as_many_run_at_once_as_the_place_lets(jobs: FakeJobs) -> None:
    jobs.command = "sleep 0.1"
    outcome = run(jobs, range(5))
    assert (outcome.state, outcome.errors) == ("done", {})
    assert [job.element for job in jobs.submitted] == [0, 1, 2, 3, 4]
    assert jobs.most_at_once == 2
    assert {job.threads for job in jobs.submitted} == {4}, "8 cores for 2 at once"


def test_training_is_one_job_of_all_ranks(jobs: FakeJobs) -> None:
    place = Place(num_ranks=4, num_gpus=4, max_parallel=8, num_cores=8)
    assert run(jobs, range(1), place, "train").state == "done"
    assert jobs.num_tasks == [4]
    (job,) = jobs.submitted
    assert job.gpus == "0,1,2,3" and job.threads == 2 and job.master_port > 0


def test_each_element_has_a_gpu_of_its_own_while_it_runs(
    jobs: FakeJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-8f4a,7")
    place = Place(num_ranks=2, num_gpus=2, max_parallel=16, num_cores=16)
    jobs.command = "sleep 0.{}5"  # 0.05 s, 0.15 s, 0.25 s ...
    assert run(jobs, range(5), place).state == "done"
    assert jobs.most_at_once == 2, "one process for each GPU that the launch may use"
    assert {job.gpus for job in jobs.submitted} == {"5", "GPU-8f4a"}
    assert [job.gpus for job in jobs.submitted[:3]] == ["5", "GPU-8f4a", "5"], "the free one"


def test_stages_without_a_model_get_no_gpu(jobs: FakeJobs) -> None:
    place = Place(num_ranks=2, num_gpus=2, max_parallel=3, num_cores=3)
    assert run(jobs, range(3), place, "prepare").state == "done"
    assert {job.gpus for job in jobs.submitted} == {""}
    assert jobs.num_tasks == [1, 1, 1]


def test_gpu_names_are_numbers_unless_the_environment_names_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpu_names()[:3] == ["0", "1", "2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", " 3, MIG-x ,-1,")
    assert gpu_names() == ["3", "MIG-x"]


# ---- how they end


def test_a_failed_element_is_named_with_its_error_and_the_others_finish(jobs: FakeJobs) -> None:
    def show(statuses: dict[int, dict[str, Any]]) -> None:
        write_status(jobs.run.status_file("evaluate", 1), {"state": "failed", "error": "a\nb"})

    (jobs.run.logs).mkdir()
    log = jobs.run.logs / "evaluate-1-1-0.err"
    log.write_text("")
    outcome = run_local(jobs.run, "evaluate", range(3), 1, PLACE, show)
    assert outcome.state == "failed"
    assert outcome.errors == {1: f"a\nb\n  whole log: {log}"}
    assert len(jobs.submitted) == 3


def test_a_process_that_ends_without_a_word_is_shown_by_its_log(jobs: FakeJobs) -> None:
    jobs.state = ""
    (jobs.run.root / "controller.err").write_text("1\n2\n3\n4\n5\nNo module named 'x'\n")
    outcome = run(jobs, range(1))
    text = outcome.errors[0]
    assert text.startswith("its process ended without a word (killed? out of memory?); its log: ")
    assert str(jobs.run.root / "controller.err") in text, "its own log was never begun"
    assert text.endswith("No module named 'x'") and "\n    1" not in text


def test_how_an_earlier_attempt_ended_does_not_count(jobs: FakeJobs) -> None:
    jobs.state = ""
    old = {"state": "done", "step": 9, "of": 9, "saved_step": 4}
    write_status(jobs.run.status_file("evaluate", 0), old)
    write_status(jobs.run.status_file("train", 0), old)
    assert run(jobs, range(1)).state == "failed"
    assert run(jobs, range(1), stage="train").state == "failed"
    assert read_json(jobs.run.status_file("train", 0))["saved_step"] == 4


# ---- stopping


def stop_soon(signum: signal.Signals, after_s: float = 0.3) -> None:
    threading.Timer(after_s, lambda: os.kill(os.getpid(), signum)).start()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP])
def test_a_signal_stops_what_runs_and_starts_no_more(
    jobs: FakeJobs, signum: signal.Signals
) -> None:
    jobs.command, jobs.state = "exec sleep 60", "running"
    before = signal.getsignal(signum)
    stop_soon(signum)
    outcome = run(jobs, range(5))
    assert (outcome.state, outcome.errors) == ("stopped", {})
    assert len(jobs.submitted) == 2
    assert {process.wait() for process in jobs.processes} == {-signal.SIGTERM}
    assert signal.getsignal(signum) == before


def test_a_stop_that_comes_when_all_is_done_is_still_a_stop(jobs: FakeJobs) -> None:
    jobs.command = "trap 'exit 0' TERM; sleep 60 & wait"
    stop_soon(signal.SIGTERM)
    assert run(jobs, range(1)).state == "stopped", "the next stage must not start"


def test_what_missed_the_first_request_is_asked_again(
    jobs: FakeJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "_ASK_AGAIN_S", 0.2)
    jobs.command = "trap 'trap \"exit 0\" TERM' TERM; while :; do sleep 0.05; done"
    jobs.state = "running"
    stop_soon(signal.SIGTERM)
    started = time.monotonic()
    assert run(jobs, range(1)).state == "stopped"
    assert time.monotonic() - started < 20
    assert jobs.processes[0].wait() == 0


def test_what_does_not_stop_in_time_is_killed_with_its_children(
    jobs: FakeJobs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(submit, "STOP_S", 0.3)
    jobs.command = f"trap '' TERM; sleep 60 & echo $! > {tmp_path}/child; wait; wait"
    jobs.state = "running"
    stop_soon(signal.SIGTERM)
    assert run(jobs, range(1)).state == "stopped"
    child = int((tmp_path / "child").read_text())
    wait_until(lambda: not is_alive(child), "the child is killed too", 10)
    assert jobs.processes[0].wait() == -signal.SIGKILL


def test_a_hangup_that_is_ignored_stays_ignored(jobs: FakeJobs) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        jobs.command = "sleep 0.6"
        stop_soon(signal.SIGHUP, 0.1)
        assert run(jobs, range(1)).state == "done"
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_error_while_waiting_stops_the_processes(jobs: FakeJobs) -> None:
    jobs.command = "exec sleep 60"

    def show(statuses: object) -> None:
        raise OSError("the terminal is gone")

    with pytest.raises(OSError, match="terminal"):
        run_local(jobs.run, "evaluate", range(1), 1, PLACE, show)
    assert jobs.processes[0].wait(10) == -signal.SIGTERM


# ---- the real thing


def test_real_processes_report_their_errors_from_whatever_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = RunDir(tmp_path / "run")
    run.root.mkdir()
    write_json(run.run_json, {"id": "x"})
    seen: list[dict[int, dict[str, Any]]] = []
    before = os.environ.get("PYTHONPATH")
    outcome = run_local(run, "nonsense", [0, 1], 1, PLACE, seen.append)
    assert outcome.state == "failed"
    assert set(outcome.errors) == {0, 1}
    assert all(
        text.startswith("stage=nonsense: expected one of") for text in outcome.errors.values()
    )
    assert seen[0][0]["state"] == "waiting"
    assert "InputError: stage=nonsense" in (run.logs / "nonsense-1-1-0.err").read_text()
    assert os.environ.get("PYTHONPATH") == before


# ---- in this very process


def test_in_process_errors_pass_through_for_the_debugger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir(tmp_path)

    def fail(stage: str, run: RunDir, element: int) -> str:
        raise InputError(f"{stage} {element} in {os.getpid()}")

    monkeypatch.setattr(submit, "run_stage", fail)
    with pytest.raises(InputError, match=f"train 0 in {os.getpid()}"):
        run_in_process(run, "train", [0], lambda statuses: None)
    assert read_json(run.status_file("train", 0))["state"] == "failed"


def test_in_process_elements_run_in_turn_until_one_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int] = []

    def work(stage: str, run: RunDir, element: int) -> str:
        done.append(element)
        return "stopped" if element == 1 else "done"

    monkeypatch.setattr(submit, "run_stage", work)
    run = RunDir(tmp_path)
    assert run_in_process(run, "evaluate", [0], lambda statuses: None).state == "done"
    assert run_in_process(run, "evaluate", [0, 1, 2], lambda statuses: None).state == "stopped"
    assert done == [0, 0, 1]
