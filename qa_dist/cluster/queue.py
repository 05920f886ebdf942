"""What SLURM knows of jobs: squeue first, then sacct where there is accounting; and how to have it
cancel or requeue them.

In: job ids. Out: states in SLURM's own words. A controller that doesn't answer is an error of its
own (QueueError), never "no such job". No torch.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_TIMEOUT_S = 30.0
_SHORT_TIMEOUT_S = 15.0
"""For who waits at a terminal; SLURM's own commands give up after some 9 s."""
ALIVE = (
    "PENDING CONFIGURING RUNNING COMPLETING SUSPENDED REQUEUED REQUEUE_HOLD REQUEUE_FED STAGE_OUT "
    "SIGNALING RESIZING SPECIAL_EXIT STOPPED"
)
"""States of a job that may still do something."""
_FORMAT = "%F|%K|%T|%r|%N|%S|%E"


JobName = tuple[int, int | None]
"""A job's id and its index in the array; None: not an array."""


@dataclass(frozen=True)
class Limits:
    """What a cluster's configuration bounds."""

    max_array_size: int
    """The most elements that one array may have."""
    slurmd_timeout_s: int
    """How long a node may be silent before SLURM takes it for lost."""


class QueueError(Exception):
    """A SLURM command failed or isn't there; the message has its own words."""


@dataclass(frozen=True)
class QueuedJob:
    """One job, or one element of an array, as squeue or sacct tells it."""

    job: int
    """The job's id; of an array, that of the whole array."""
    indices: tuple[int, ...] | None
    """Array indices that this line stands for; None: not an array."""
    state: str
    """SLURM's word, e.g. PENDING."""
    reason: str
    """Why it waits, or ended."""
    nodes: str = ""
    start: str = ""
    dependency: str = ""

    @property
    def is_alive(self) -> bool:
        return self.state in ALIVE.split()


def run_slurm(*words: str, timeout_s: float = _TIMEOUT_S) -> str:
    """Run a SLURM command; return what it wrote. Raises QueueError."""
    try:
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            # Else squeue cuts the indices of an array off after 64 characters.
            env={
                **os.environ,
                "SLURM_TIME_FORMAT": "%s",
                "SLURM_BITSTR_LEN": "0",
                "LC_ALL": "C",
            },
        )
    except FileNotFoundError:
        raise QueueError(f"{words[0]}: there is no such command on this machine's PATH") from None
    except subprocess.TimeoutExpired:
        raise QueueError(f"{words[0]}: no answer within {timeout_s:.0f} s") from None
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise QueueError(f"{' '.join(words[:2])}: {lines[-1] if lines else done.returncode}")
    return done.stdout


def queued_jobs(ids: Iterable[int], timeout_s: float = _TIMEOUT_S) -> list[QueuedJob]:
    """Return what squeue knows of these jobs; those long ended aren't there."""
    wanted = sorted(set(ids))
    if not wanted:
        return []
    try:
        text = run_slurm(
            "squeue", "-h", "-t", "all", "-o", _FORMAT, "-j", ",".join(map(str, wanted)),
            timeout_s=timeout_s,
        )  # fmt: skip
    except QueueError as error:
        if "Invalid job id" in str(error):  # it has forgotten all of them
            return []
        raise
    return [_from_squeue(line) for line in text.splitlines() if line.strip()]


def _from_squeue(line: str) -> QueuedJob:
    job, indices, state, reason, nodes, start, dependency = line.strip().split("|", 6)
    return QueuedJob(
        int(job),
        None if indices in ("N/A", "") else read_indices(indices),
        state,
        "" if reason == "None" else reason,
        nodes,
        "" if start == "N/A" else start,
        "" if dependency == "(null)" else dependency,
    )


def ended_jobs(ids: Iterable[int], timeout_s: float = _TIMEOUT_S) -> list[QueuedJob]:
    """Return what accounting knows of these jobs; nothing where there is none."""
    wanted = sorted(set(ids))
    if not wanted:
        return []
    try:
        text = run_slurm(
            "sacct", "-n", "-P", "-X", "-o", "JobID,State,NodeList,ExitCode", "-j",
            ",".join(map(str, wanted)),
            timeout_s=timeout_s,
        )  # fmt: skip
    except QueueError:
        return []
    found = []
    for line in text.splitlines():
        name, state, nodes, code = line.strip().split("|")
        match = re.fullmatch(r"(\d+)(?:_(?:\[([^\]%]+)[^\]]*\]|(\d+)))?", name)
        if match and state:
            indices = match[2] or match[3]
            found.append(
                QueuedJob(
                    int(match[1]),
                    read_indices(indices) if indices else None,
                    state.split()[0],  # "CANCELLED by 0"
                    f"exit code {code}" if code != "0:0" else "",
                    "" if nodes == "None assigned" else nodes,
                )
            )
    return found


class Queue:
    """What SLURM says of some jobs, asked once."""

    def __init__(self, timeout_s: float = _SHORT_TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._known: dict[JobName, QueuedJob] = {}
        self.error = ""

    def ask(self, names: Iterable[JobName]) -> None:
        """Ask squeue, and accounting for what squeue has forgotten."""
        wanted = set(names)
        if not wanted:
            return
        try:
            self._add(queued_jobs({job for job, _ in wanted}, self._timeout_s))
        except QueueError as error:
            self.error = str(error)
            return
        forgotten = {job for job, index in wanted if self.find((job, index)) is None}
        self._add(ended_jobs(forgotten, self._timeout_s), keep=True)

    def _add(self, jobs: Iterable[QueuedJob], keep: bool = False) -> None:
        for job in jobs:
            for index in job.indices or (None,):
                if not (keep and (job.job, index) in self._known):
                    self._known[job.job, index] = job

    def find(self, name: JobName) -> QueuedJob | None:
        """Return what is known of a job; None: the queue has forgotten it."""
        return self._known.get(name)


def read_indices(text: str) -> tuple[int, ...]:
    """Return the numbers of e.g. "3", "0-4,7", "0-9%2" or "0-20:5"."""
    found: list[int] = []
    for part in text.partition("%")[0].split(","):
        ends, _, stride = part.partition(":")
        low, _, high = ends.partition("-")
        found += range(int(low), int(high or low) + 1, int(stride or 1))
    return tuple(found)


def show_job(job: str) -> dict[str, str]:
    """Return scontrol's facts of a job or an array element ("12_3")."""
    text = run_slurm("scontrol", "show", "job", "-o", job)
    return dict(word.partition("=")[::2] for word in text.split() if "=" in word)


def requeue(job: str) -> None:
    """Have a running job start anew from the queue."""
    run_slurm("scontrol", "requeue", job)


def cancel(ids: Sequence[int]) -> None:
    """Cancel jobs; those that have ended already don't matter."""
    if not ids:
        return
    try:
        run_slurm("scancel", *map(str, ids))
    except QueueError as error:
        if not re.search(r"Invalid job id|already complet", str(error)):
            raise


def read_limits() -> Limits:
    """Ask the controller for its limits; what it doesn't say is SLURM's default. Raises
    QueueError."""
    text = run_slurm("scontrol", "show", "config")
    found = dict(re.findall(r"(MaxArraySize|SlurmdTimeout)\s*=\s*(\d+)", text))
    return Limits(int(found.get("MaxArraySize", 1001)), int(found.get("SlurmdTimeout", 300)))


def is_answering() -> bool:
    """Return whether this machine belongs to a cluster. Raises QueueError if it does but the
    controller doesn't answer."""
    try:
        run_slurm("sinfo", "-h", "-o", "%P", timeout_s=_SHORT_TIMEOUT_S)
    except QueueError as error:
        if re.search(r"[Uu]nable to contact|no answer within", str(error)):
            raise
        return False
    return True
