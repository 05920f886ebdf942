"""Run the elements of a stage: in this very process, or as local processes through submitit, a few
at a time.

In: a run, a stage and the numbers of its elements. Out: how each ended, read from status/*.json,
which is the truth; submitit's pickles are advisory. Must not know what the stages do, and not
import torch.
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

from qa_dist.cluster.job import STOP_S, LocalJob, report_failure, run_stage
from qa_dist.files import read_status, write_status
from qa_dist.processes import kill_with_children
from qa_dist.run_dir import RunDir

_POLL_S = 0.1
_ASK_AGAIN_S = 10.0
_LAST_LINES = 5
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP)


@dataclass(frozen=True)
class Place:
    """What this machine gives to a run."""

    num_ranks: int
    num_gpus: int
    max_parallel: int
    num_cores: int
    timeout_min: int = 10_000


@dataclass
class Outcome:
    """How the elements of a stage ended."""

    state: str
    """"done", "stopped" or "failed"."""
    errors: dict[int, str]
    """Element -> what went wrong."""


Show = Callable[[dict[int, dict[str, Any]]], None]


def run_in_process(run: RunDir, stage: str, elements: Sequence[int], show: Show) -> Outcome:
    """Run a stage's elements one by one in this process, so that breakpoint() works; errors pass
    through."""
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
    """Run a stage's elements as local processes, at most `place.max_parallel` at once (submitit
    starts all at once).

    `show` is called with the status of each element some times a second. Ctrl-C, SIGTERM, SIGUSR2
    or SIGHUP stop the processes in order; so does an exception, after which they end by themselves.
    """
    mark_waiting(run, stage, elements)
    waiting, jobs = list(elements), _Jobs(run, stage, attempt, place, len(elements))
    is_stopping, asked_at = False, float("-inf")
    give_up_at = float("inf")
    try:
        with _interrupts() as was_interrupted:
            while waiting or jobs.running:
                while waiting and jobs.has_room():
                    jobs.start(waiting.pop(0))
                jobs.reap()
                show(_statuses(run, stage, elements))
                now = time.monotonic()
                if was_interrupted() and not is_stopping:
                    is_stopping, give_up_at = True, now + STOP_S
                    waiting.clear()
                if is_stopping and now - asked_at > _ASK_AGAIN_S:
                    asked_at = now  # again, since a process that is just starting may miss it
                    jobs.ask_to_stop()
                if now > give_up_at:
                    jobs.kill()
                    break
                time.sleep(_POLL_S)
    except BaseException:
        jobs.ask_to_stop()
        raise
    show(_statuses(run, stage, elements))
    return _outcome(run, stage, elements, jobs, is_stopping)


def mark_waiting(run: RunDir, stage: str, elements: Sequence[int]) -> None:
    """Write the status of elements that are about to be started: how an earlier attempt ended
    doesn't count any more; what an earlier training saved stays known."""
    for element, status in _statuses(run, stage, elements).items():
        kept = ("saved_step", "of", "unit") if stage == "train" else ()
        known = {k: v for k, v in status.items() if k in kept}
        write_status(run.status_file(stage, element), {**known, "state": "waiting", "step": 0})


class _Jobs:
    """The local processes of one stage."""

    def __init__(
        self, run: RunDir, stage: str, attempt: int, place: Place, num_elements: int
    ) -> None:
        self.run, self.stage, self.attempt, self.place = run, stage, attempt, place
        self.running: dict[int, Any] = {}
        self.logs: dict[int, list[Path]] = {}
        """Where an element's process may have left a word; the first that is there counts."""
        self._is_gang = stage == "train"
        needs_gpu = stage in ("train", "evaluate") and place.num_gpus > 0
        self._free_gpus = gpu_names()[: place.num_gpus] if needs_gpu else []
        self._gpus: dict[int, list[str]] = {}
        self._parallel = 1 if self._is_gang else max(1, min(place.max_parallel, num_elements))
        if needs_gpu:
            self._parallel = min(self._parallel, place.num_gpus)

    def has_room(self) -> bool:
        """Return whether one more element may start."""
        return len(self.running) < self._parallel

    def start(self, element: int) -> None:
        """Start an element: one process, or for training all ranks; each on its GPUs."""
        count = len(self._free_gpus) if self._is_gang else min(1, len(self._free_gpus))
        gpus = [self._free_gpus.pop(0) for _ in range(count)]
        num_tasks = self.place.num_ranks if self._is_gang else 1
        num_sharing = num_tasks if self._is_gang else self._parallel
        job = LocalJob(
            stage=self.stage,
            run=str(self.run.root),
            element=element,
            attempt=self.attempt,
            launcher_pid=os.getpid(),
            master_port=_free_port() if num_tasks > 1 else 0,
            threads=max(1, self.place.num_cores // num_sharing),
            gpus=",".join(gpus),
        )
        submitted = _submit(job, self.run.logs / "submitit", num_tasks, self.place.timeout_min)
        self.running[element], self._gpus[element] = submitted, gpus
        own = self.run.logs / f"{self.stage}-{element}-{self.attempt}-0.err"
        self.logs[element] = [own, Path(submitted.paths.stderr)]

    def reap(self) -> None:
        """Forget those that have ended; their GPUs are free again."""
        for element in [e for e, job in self.running.items() if job.done()]:
            del self.running[element]
            self._free_gpus += self._gpus.pop(element)

    def ask_to_stop(self) -> None:
        """Send SIGTERM to all; submitit's controller passes it on to each rank."""
        for job in self.running.values():
            job._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End all at once."""
        for job in self.running.values():
            kill_with_children(job._process.pid)


def _submit(job: LocalJob, folder: Path, num_tasks: int, timeout_min: int) -> Any:
    code = Path(job.run) / "code"
    import submitit

    executor = submitit.LocalExecutor(folder=folder)
    executor.update_parameters(tasks_per_node=num_tasks, timeout_min=timeout_min)
    # The job's processes import the run's own copy of the code, wherever the launch was called from
    # and whether or not it's installed.
    path = os.environ.get("PYTHONPATH")
    # Ctrl-C reaches the whole foreground group; children ignore it and get SIGTERM from us instead,
    # once.
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(code), *([path] if path else [])])
    try:
        return executor.submit(job)
    finally:
        signal.signal(signal.SIGINT, previous)
        if path is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = path


def gpu_names() -> list[str]:
    """Return the names of all GPUs that this process may use, for CUDA_VISIBLE_DEVICES."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    return [str(number) for number in range(64)]


def _outcome(
    run: RunDir, stage: str, elements: Sequence[int], jobs: _Jobs, was_stopped: bool
) -> Outcome:
    errors = {}
    states = set()
    for element, status in _statuses(run, stage, elements).items():
        state = status.get("state")
        states.add(state)
        logs = jobs.logs.get(element, [])
        log = next((path for path in logs if path.exists()), None)
        if state == "failed":
            errors[element] = str(status.get("error", "")) + _where(status, log)
        elif state not in ("done", "stopped") and not was_stopped:
            errors[element] = (
                "its process ended without a word (killed? out of memory?); its log: "
                f"{log}{_last_lines(log)}"
            )
    if errors:
        return Outcome("failed", errors)
    is_done = states <= {"done"} and not was_stopped
    return Outcome("done" if is_done else "stopped", {})


def _where(status: dict[str, Any], log: Path | None) -> str:
    return f"\n  whole log: {log}" if log and "\n" in str(status.get("error", "")) else ""


def _last_lines(log: Path | None) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log else []
    return "".join(f"\n    {line}" for line in lines[-_LAST_LINES:])


def _statuses(run: RunDir, stage: str, elements: Sequence[int]) -> dict[int, dict[str, Any]]:
    return {e: read_status(run.status_file(stage, e)) for e in elements}


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Note signals that ask us to stop instead of dying of them; yield whether one came."""
    seen: list[int] = []

    def note(signum: int, frame: Any) -> None:
        seen.append(signum)

    # What was ignored (nohup ignores SIGHUP) stays so.
    heeded = [s for s in _STOP_SIGNALS if signal.getsignal(s) is not signal.SIG_IGN]
    old = {s: signal.signal(s, note) for s in heeded}
    try:
        yield lambda: bool(seen)
    finally:
        for signum, handler in old.items():
            signal.signal(signum, handler)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
