"""Run the elements of a stage: in this very process, or as local processes through submitit, a few at a time.

In: a run, a stage and the numbers of its elements. Out: how each ended, read from status/*.json, which is the truth;
submitit's pickles are advisory. Must not know what the stages do, and not import torch.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qa_dist.cluster.job import StageJob, report_failure, run_stage
from qa_dist.files import read_json_if_there, write_status
from qa_dist.run_dir import RunDir

_POLL_S = 0.1
_STOP_S = 120.0


@dataclass(frozen=True)
class Place:
    """What this machine gives to a run."""

    num_ranks: int
    num_gpus: int
    max_parallel: int
    num_cores: int


@dataclass
class Outcome:
    """How the elements of a stage ended."""

    state: str
    """"done", "stopped" or "failed"."""
    errors: dict[int, str]
    """Element -> what went wrong."""


Show = Callable[[dict[int, dict[str, Any]]], None]


def run_in_process(run: RunDir, stage: str, elements: Sequence[int], show: Show) -> Outcome:
    """Run a stage's elements one by one in this process, so that breakpoint() works; errors pass through."""
    for element in elements:
        try:
            state = run_stage(stage, run, element)
        except BaseException as error:
            report_failure(run, stage, element, error)
            raise
        show(_statuses(run, stage, elements))
        if state != "done":
            return Outcome(state, {})
    return Outcome("done", {})


def run_local(
    run: RunDir, stage: str, elements: Sequence[int], attempt: int, place: Place, show: Show
) -> Outcome:
    """Run a stage's elements as local processes, at most `place.max_parallel` at once (submitit starts all at once).

    `show` is called with the status of each element some times a second. Ctrl-C stops the processes in order.
    """
    is_gang = stage == "train"
    for element, status in _statuses(run, stage, elements).items():
        # What an earlier attempt saved stays known; how it ended doesn't count any more.
        write_status(run.status_file(stage, element), {**status, "state": "waiting", "error": ""})
    waiting = list(elements)
    jobs: dict[int, Any] = {}
    parallel = 1 if is_gang else max(1, min(place.max_parallel, len(elements)))
    is_stopping = False
    deadline = float("inf")
    try:
        with _interrupts() as was_interrupted:
            while waiting or jobs:
                while waiting and len(jobs) < parallel and not is_stopping:
                    element = waiting.pop(0)
                    jobs[element] = _start(run, stage, element, attempt, place, is_gang, parallel)
                for element in [e for e, job in jobs.items() if job.done()]:
                    del jobs[element]
                show(_statuses(run, stage, elements))
                if was_interrupted() and not is_stopping:
                    is_stopping, deadline = True, time.monotonic() + _STOP_S
                    waiting.clear()
                    for job in jobs.values():
                        job._process.send_signal(signal.SIGTERM)
                if time.monotonic() > deadline:
                    break
                time.sleep(_POLL_S)
    finally:
        for job in jobs.values():
            job._process.kill()
    show(_statuses(run, stage, elements))
    return _outcome(run, stage, elements, attempt, is_stopping)


def _start(
    run: RunDir, stage: str, element: int, attempt: int, place: Place, is_gang: bool, parallel: int
) -> Any:
    import submitit

    executor = submitit.LocalExecutor(folder=run.logs / "submitit")
    needs_gpu = stage in ("train", "evaluate") and place.num_gpus > 0
    num_tasks = place.num_ranks if is_gang else 1
    parameters: dict[str, Any] = {
        "tasks_per_node": num_tasks,
        "gpus_per_node": (place.num_gpus if is_gang else 1) if needs_gpu else 0,
        "timeout_min": 60 * 24 * 30,
    }
    if needs_gpu and not is_gang:
        parameters["visible_gpus"] = [element % place.num_gpus]
    executor.update_parameters(**parameters)
    job = StageJob(
        stage=stage,
        run=str(run.root),
        element=element,
        attempt=attempt,
        launcher_pid=os.getpid(),
        master_port=_free_port() if num_tasks > 1 else 0,
        threads=max(1, place.num_cores // (num_tasks if is_gang else parallel)),
    )
    # Ctrl-C reaches the whole foreground group; children ignore it and get SIGTERM from us instead, once.
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return executor.submit(job)
    finally:
        signal.signal(signal.SIGINT, previous)


def _outcome(
    run: RunDir, stage: str, elements: Sequence[int], attempt: int, was_stopped: bool
) -> Outcome:
    errors = {}
    states = set()
    for element, status in _statuses(run, stage, elements).items():
        state = status.get("state")
        states.add(state)
        logs = run.logs / f"{stage}-{element}-{attempt}-0.err"
        if state == "failed":
            errors[element] = str(status.get("error", "")) + _where(status, logs)
        elif state not in ("done", "stopped") and not was_stopped:
            errors[element] = (
                f"its process ended without a word (killed? out of memory?); its log: {logs}"
            )
    if errors:
        return Outcome("failed", errors)
    return Outcome("done" if states <= {"done"} else "stopped", {})


def _where(status: dict[str, Any], log: Path) -> str:
    return f"\n  whole log: {log}" if "\n" in str(status.get("error", "")) else ""


def _statuses(run: RunDir, stage: str, elements: Sequence[int]) -> dict[int, dict[str, Any]]:
    return {e: read_json_if_there(run.status_file(stage, e)) or {} for e in elements}


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Note Ctrl-C and SIGTERM instead of dying of them; yield whether one came."""
    seen: list[int] = []

    def note(signum: int, frame: Any) -> None:
        seen.append(signum)

    old = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(seen)
    finally:
        for signum, handler in old.items():
            signal.signal(signum, handler)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
