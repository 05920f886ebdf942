"""Try on the cluster itself what runs of a profile will rely on, before a night depends on it.

In: a profile, and a recipe if there is one. Out: findings, each as soon as it is known. What this
machine can tell is asked first; then one small job of two nodes (or one), submitted as a training
would be, tries the rest (probe.py), and diagnosis.py says what it means. Leaves nothing behind: the
job is cancelled and its folder removed, whatever happens.
"""

from __future__ import annotations

import math
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from qa_dist.cluster.diagnosis import CHECK_OF_PART, OK, PROBLEM, WARNING, Finding, Reports, judge
from qa_dist.cluster.preflight import find_problems, read_partitions
from qa_dist.cluster.probe import (
    PARTS,
    PATIENCE_S,
    Asked,
    find_model,
    own_versions,
    read_reports,
    read_restarts,
)
from qa_dist.cluster.queue import QueuedJob, QueueError, cancel, queued_jobs, run_slurm
from qa_dist.cluster.reasons import is_running, why_waiting
from qa_dist.cluster.run_logs import last_lines
from qa_dist.cluster.slurm import check_paths, make_job, submit_command
from qa_dist.cluster.snapshot import save_code
from qa_dist.profile import Profile
from qa_dist.recipe import Recipe
from qa_dist.run_dir import RunDir, make_private_folder

CHECKS = {
    "commands": "sbatch, srun, squeue, scancel, scontrol, sacct: there and answering",
    "preflight": "partition, account, time limit, nodes of the profile; disk for the recipe",
    "start": "a small job starts within start_s",
    "gpus": "torch sees as many GPUs on each node as the profile says",
    "versions": "equal on all nodes and here",
    "caches": "nodes are offline, and find the recipe's encoder",
    "disk": "free space for runs and in the nodes' temporary folder",
    "signal": "USR2 by scancel reaches each process",
    "folder": "nodes see each other's files at once, and locks hold between them",
    "network": "ranks of two nodes meet; how fast they add up tensors",
    "time_limit": "USR2 comes as long before the time limit as signal_lead_s says",
    "requeue": "a job can put itself back into the queue and starts again",
}
_PARTS_OF_CHECKS = {
    **{check: part for part, check in CHECK_OF_PART.items()},
    "versions": "facts",
    "caches": "facts",
    "disk": "facts",
}
_COMMANDS = ("sbatch", "srun", "squeue", "scancel", "scontrol", "sacct")
_BEFORE_WARNING_S = 90
"""Long enough that USR2, which may come a minute early, doesn't come before the job's start."""
_SHORT_MIN = 10
_REQUEUE_S = 180.0
_END_S = 30.0
_POLL_S = 0.5


@dataclass(frozen=True)
class Examination:
    """What to look at."""

    profile: Profile
    recipe: Recipe | None
    runs_dir: Path
    checks: Collection[str] = tuple(CHECKS)
    start_s: float = 120.0
    """How long the probe may wait in the queue, in seconds."""
    tell: Callable[[str], None] = print
    """Says what is being waited for."""

    def findings(self) -> Generator[Finding, None, None]:
        """Yield what is found, as it is found; whoever stops early closes it."""
        if "commands" in self.checks:
            found = [*_check_commands()]
            yield from found
            if any(one.level == PROBLEM for one in found):
                return
        if "preflight" in self.checks:
            yield from _check_profile(self)
        wanted = {_PARTS_OF_CHECKS[check] for check in self.checks if check in _PARTS_OF_CHECKS}
        parts = [part for part in PARTS if part in wanted]
        if parts or "start" in self.checks:
            for one in _probe(self, parts):
                if one.check in self.checks or one.level == PROBLEM:
                    yield one


def _check_commands() -> Iterator[Finding]:
    missing = [name for name in _COMMANDS if shutil.which(name) is None]
    needed = [name for name in missing if name != "sacct"]
    if needed:
        text = f"{', '.join(needed)}: not on this machine's PATH"
        yield Finding("commands", PROBLEM, text, "go to a login node, or load the SLURM module")
        return
    try:
        version = run_slurm("sinfo", "--version").strip()
        run_slurm("squeue", "--noheader", "--name=no-such-job")
    except QueueError as error:
        text = f"the controller doesn't answer ({error})"
        yield Finding("commands", PROBLEM, text, "try again later; sinfo shows when it does")
        return
    yield Finding("commands", OK, f"{version} answers")
    try:
        run_slurm("sacct", "--noheader", "--allocations")
        yield Finding("commands", OK, "sacct answers")
    except QueueError as error:
        text = f"no accounting ({error})"
        advice = "nothing: status then tells how jobs ended by their logs and markers alone"
        yield Finding("commands", WARNING, text, advice)


def _check_profile(asked: Examination) -> Iterator[Finding]:
    try:
        recipes = [asked.recipe] if asked.recipe else []
        problems = find_problems(asked.profile, recipes, asked.runs_dir.absolute())
    except QueueError as error:
        problems = [str(error)]
    name = asked.profile.name
    for problem in problems:
        yield Finding("preflight", PROBLEM, f"profile={name}: {problem}")
    if not problems:
        yield Finding("preflight", OK, f"profile={name} passes what launch checks")


# ---- the probe


def _probe(asked: Examination, parts: Sequence[str]) -> Iterator[Finding]:
    """Submit the probe and yield what it finds."""
    with _own_folder(asked.runs_dir) as folder:
        run = RunDir(folder)
        check_paths(run)
        num_nodes, minutes = _count_nodes(asked.profile), _SHORT_MIN
        if "time_limit" in parts:
            minutes = math.ceil((asked.profile.signal_lead_s + _BEFORE_WARNING_S) / 60)
        profile = replace(
            asked.profile, nodes=num_nodes, ranks_per_node=1, timeout_min=minutes, max_timeouts=0
        )
        save_code(run, profile)
        model = asked.recipe.model.name if asked.recipe else ""
        job = asdict(make_job(run, profile, "train", 0, 1))
        Asked(list(parts), job, model).save(folder)
        try:
            number = submit_command(run, profile, "doctor", "qa_dist.cluster.probe")
        except QueueError as error:
            advice = "the profile's partition, account, qos, constraint, mem_gb: sbatch names which"
            yield Finding("start", PROBLEM, str(error), advice)
            return
        what = f"job {number}: {num_nodes} node{'s' * (num_nodes > 1)}, {minutes} minutes at most"
        asked.tell(f"submitted {what}")
        try:
            yield from _Watch(asked, profile, run, number).findings(parts)
        finally:
            _end(number, asked.tell)


@contextmanager
def _own_folder(runs_dir: Path) -> Iterator[Path]:
    """A private folder beside the runs, removed in the end; and so is theirs if it was made for
    it."""
    is_new = not runs_dir.exists()
    make_private_folder(runs_dir.absolute())
    folder = Path(tempfile.mkdtemp(prefix=".doctor-", dir=runs_dir.absolute()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if is_new:
            with suppress(OSError):
                runs_dir.rmdir()


def _count_nodes(profile: Profile) -> int:
    """Return 2, or 1 where the partition has but one."""
    with suppress(QueueError):
        partitions = read_partitions()
        default = next((n for n, f in partitions.items() if f.get("Default") == "YES"), "")
        name = (profile.partition or default).split(",")[0]
        return min(2, int(partitions.get(name, {}).get("TotalNodes", "2")))
    return 2


def _end(job: int, tell: Callable[[str], None]) -> None:
    """Cancel the probe, and wait until it writes no longer."""
    try:
        cancel([job])
        give_up_at = time.monotonic() + _END_S
        while any(one.is_alive for one in queued_jobs([job])) and time.monotonic() < give_up_at:
            time.sleep(_POLL_S)
    except QueueError as error:
        tell(f"the probe couldn't be cancelled ({error}); run `scancel {job}`")


def _has(part: str, report: Mapping[str, Any]) -> bool:
    return part in report


class _Watch:
    """Follows one probe."""

    def __init__(self, asked: Examination, profile: Profile, run: RunDir, job: int) -> None:
        self._asked, self._profile, self._run, self._job = asked, profile, run, job

    def findings(self, parts: Sequence[str]) -> Iterator[Finding]:
        """Yield what each part finds, until one doesn't end."""
        began = time.monotonic()
        waits = self._wait_for_start()
        if waits:
            yield waits
            return
        yield Finding("start", OK, f"the probe started after {time.monotonic() - began:.0f} s")
        for part in parts:
            check = CHECK_OF_PART[part]
            if part == "signal" and self._wait(lambda one: one.get("doing") == "signal"):
                with suppress(QueueError):
                    run_slurm("scancel", "--signal=USR2", str(self._job))
            if part == "requeue":
                yield self._watch_requeue()
                continue
            if part == "time_limit":
                minutes = self._profile.timeout_min
                self._asked.tell(f"waiting for the signal before the limit of {minutes} minutes")
            if not self._wait(partial(_has, part)):
                yield Finding(check, PROBLEM, self._silence(part), "the rest wasn't tried")
                return
            yield from judge(part, self._reports(part), self._profile)

    def _queued(self) -> QueuedJob | None:
        with suppress(QueueError):
            return next(iter(queued_jobs([self._job])), None)
        return QueuedJob(self._job, None, "RUNNING", "")  # nobody knows better

    def _wait_for_start(self) -> Finding | None:
        """Return why the probe didn't start; None: it did."""
        give_up_at = time.monotonic() + self._asked.start_s
        while True:
            job = self._queued()
            if job is None or is_running(job) or not job.is_alive:
                return None  # what its end means is seen by what it reports
            if time.monotonic() > give_up_at:
                text = f"still waiting after {self._asked.start_s:.0f} s: {why_waiting(job)}"
                advice = "if that is usual here, give it longer: start_s=3600"
                return Finding("start", PROBLEM, text, advice)
            time.sleep(_POLL_S)

    def _wait(self, is_true: Callable[[Mapping[str, Any]], bool]) -> bool:
        """Wait until it holds for all ranks' reports; False: it never will."""
        lead_s = self._profile.signal_lead_s
        give_up_at = time.monotonic() + max(3 * PATIENCE_S, _BEFORE_WARNING_S + lead_s)
        while True:
            job = self._queued()  # before the reports, as what has ended has written all
            reports = read_reports(self._run.root)
            if len(reports) == self._profile.nodes and all(map(is_true, reports.values())):
                return True
            if job is None or not job.is_alive or time.monotonic() > give_up_at:
                return False
            time.sleep(_POLL_S)

    def _reports(self, part: str) -> Reports:
        """Return the ranks' reports, and beside their facts this machine's."""
        reports = dict(sorted(read_reports(self._run.root).items()))
        if part == "facts":
            model = self._asked.recipe.model.name if self._asked.recipe else ""
            here = {"versions": own_versions(), "model_error": find_model(model)}
            same = {name: reports[0]["facts"][name] for name in ("gpus", "cores")}
            reports[-1] = {"host": f"{socket.gethostname()} (here)", part: {**same, **here}}
        return reports

    def _silence(self, part: str) -> str:
        """Say what is known of a probe that doesn't go on."""
        reports = read_reports(self._run.root)
        stuck = [str(one["host"]) for one in reports.values() if part not in one]
        job = self._queued()
        how = "doesn't go on" if job and job.is_alive else "ended"
        if read_restarts(self._run.root):
            how = "was interrupted (preempted? a node lost?) and began anew"
        text = f"the probe {how}"
        if reports:
            text += f" in part {part} on {', '.join(stuck)}"
        else:
            text += f" and left no report: do nodes see {self._run.root.parent}?"
        logs = sorted((self._run.logs / "submitit").glob("*.err"))
        lines = [line for log in logs for line in last_lines(log, 2)]
        return f"{text}; it wrote: {' | '.join(lines[-3:])}" if lines else text

    def _watch_requeue(self) -> Finding:
        """Wait until the probe has been started again, or couldn't put itself into the queue."""
        self._asked.tell("waiting until the probe has been queued again and started")
        began = time.monotonic()
        while time.monotonic() < began + _REQUEUE_S + self._asked.start_s:
            job = self._queued()
            restarts = read_restarts(self._run.root).get(0)
            seconds = time.monotonic() - began
            if restarts:
                text = f"started again after {seconds:.0f} s (restart {restarts['restarts']})"
                return Finding("requeue", OK, text)
            reports = read_reports(self._run.root)
            if "requeue" in reports.get(0, {}):
                return next(judge("requeue", {0: reports[0]}, self._profile))
            if job is None or not job.is_alive:
                return Finding("requeue", PROBLEM, self._silence("requeue"))
            time.sleep(_POLL_S)
        waits = why_waiting(job) if job else "it left the queue"
        text = f"queued again, but not started within {seconds:.0f} s: {waits}"
        return Finding("requeue", WARNING, text, "nothing, if that is usual here")
