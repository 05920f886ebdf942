"""What the disk says of each element of a stage: its marker, its heartbeat, and whether a process
of this machine still works on it.

In: a run's folder. Out: facts, which status.py weighs against what the queue says. Asks no
scheduler, loads no numpy; reads the heads of files only, so that 1,000 elements take a moment.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qa_dist.cluster.submitted import Submitted, read_submitted, submitted_since_training
from qa_dist.data.prepared import read_prepared
from qa_dist.evaluation.elements import elements as evaluate_elements
from qa_dist.evaluation.elements import finished_steps, is_each_checkpoint, marker_file
from qa_dist.files import MARKER, read_setting, read_status
from qa_dist.processes import is_alive
from qa_dist.run_dir import RunDir

_HOLDER = re.compile(r"process (\d+) on (\S+)")


@dataclass(frozen=True)
class OnDisk:
    """One element, as its files tell it."""

    index: int
    is_done: bool
    """Its marker is there."""
    heartbeat: Mapping[str, Any] = field(default_factory=dict)

    @property
    def said(self) -> str:
        """The state that its last heartbeat gave; empty: there is none."""
        return str(self.heartbeat.get("state", ""))


@dataclass(frozen=True)
class Holder:
    """A process that works for a run."""

    pid: int
    host: str

    @property
    def is_here(self) -> bool:
        return self.host == socket.gethostname()


def read_elements(run: RunDir, stage: str) -> list[OnDisk]:
    """Return the elements that a stage has, as far as that can be known already."""
    if stage == "prepare":
        prepared = read_prepared(run)
        markers = [
            path / MARKER for split in prepared.num_shards for path in prepared.shards(split)
        ]
        made_by = {
            i: RunDir(run.root.parent / one.of) if one.of else run
            for one in read_submitted(run)
            if one.stage == stage
            for i in one.elements
        }
        return [
            _read(made_by.get(i, run), stage, i, path.is_file()) for i, path in enumerate(markers)
        ]
    steps = finished_steps(run)
    train = read_status(run.status_file("train", 0))
    is_trained = train.get("state") == "done" and train.get("of") in steps
    if stage == "train":
        return [OnDisk(0, is_trained, train)]
    is_each = is_each_checkpoint(run)
    if stage == "evaluate":
        done = {
            number: marker_file(run, step, shard).is_file()
            for number, (step, _, shard) in evaluate_elements(run).items()
        }
        if not is_trained:  # which checkpoints there will be isn't known yet
            known = done if is_each else {}
            done = dict.fromkeys([*done, *jobs_of(run, stage)] or [0], False) | known
        return [_read(run, stage, i, done[i]) for i in sorted(done)]
    element = _read(run, stage, 0, False)
    if is_each:
        steps = sorted({step for step, _, _ in evaluate_elements(run).values()})
    has_scores = bool(steps) and all(run.scores_file(step).is_file() for step in steps)
    is_done = element.said == "done" and has_scores and (is_trained or not is_each)
    return [OnDisk(0, is_done, element.heartbeat)]


def _read(run: RunDir, stage: str, index: int, is_done: bool) -> OnDisk:
    return OnDisk(index, is_done, read_status(run.status_file(stage, index)))


def jobs_of(run: RunDir, stage: str) -> dict[int, tuple[int, int | None]]:
    """Return, for each element that was ever submitted, its newest job and index in the array.

    Of each_checkpoint since training was last submitted: numbers may have meant others before.
    """
    found: dict[int, tuple[int, int | None]] = {}
    is_each = stage in ("evaluate", "aggregate") and is_each_checkpoint(run)
    for one in submitted_since_training(run) if is_each else read_submitted(run):
        if one.stage == stage:
            found |= {element: _name(one, place) for place, element in enumerate(one.elements)}
    return found


def aggregates_of(run: RunDir) -> list[tuple[int, int | None]]:
    """Return all jobs that do the one element of the aggregate stage, newest first: with
    each_checkpoint there may be several in the queue."""
    return [
        _name(one, 0)
        for one in reversed(submitted_since_training(run))
        if one.stage == "aggregate" and is_each_checkpoint(run)
    ]


def _name(one: Submitted, place: int) -> tuple[int, int | None]:
    return one.job, place if one.is_array else None


def is_on_slurm(run: RunDir) -> bool:
    """Return whether the run's last launch submitted it to SLURM."""
    return read_setting(run.root / "profile.yaml", "where") == "slurm"


def lock_holder(path: Path) -> Holder | None:
    """Return the process that holds a lock of files.lock; None: nobody on this machine does.

    Asks the process, never the lock: taking it, for a moment only, could refuse a launch.
    """
    try:
        match = _HOLDER.search(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None
    if not match:
        return None
    holder = Holder(int(match[1]), match[2])
    if holder.is_here and not _has_open(holder.pid, path):
        return None
    return holder


def launcher(run: RunDir) -> Holder | None:
    """Return the process that runs this run's stages, or trains it; None: nobody that we know
    of."""
    holder = lock_holder(run.root / "launch.lock")
    # On a cluster it is a job that trains, which the queue knows better.
    return holder if holder or is_on_slurm(run) else lock_holder(run.root / "train.lock")


def _has_open(pid: int, path: Path) -> bool:
    if not is_alive(pid):
        return False
    wanted = path.resolve()
    try:
        return any(_target(handle) == wanted for handle in Path(f"/proc/{pid}/fd").iterdir())
    except PermissionError:
        return True  # another user's: alive, and it did hold the lock
    except OSError:
        return False


def _target(handle: Path) -> Path | None:
    try:
        return handle.readlink()
    except FileNotFoundError:  # closed since
        return None


def worker(element: OnDisk) -> Holder | None:
    """Return the process that a heartbeat names; None if it names none."""
    pid, host = element.heartbeat.get("pid"), element.heartbeat.get("host")
    return Holder(pid, str(host)) if isinstance(pid, int) and host else None


def is_at_work(holder: Holder, since: float) -> bool:
    """Return whether a process of this machine lives that was there at time `since`: numbers of
    processes are given anew."""
    if not is_alive(holder.pid):
        return False
    try:
        ticks = Path(f"/proc/{holder.pid}/stat").read_text().rpartition(")")[2].split()[19]
        boot = re.search(r"^btime (\d+)", Path("/proc/stat").read_text(), re.MULTILINE)
    except OSError:
        return False
    started = int(boot[1] if boot else 0) + int(ticks) / os.sysconf("SC_CLK_TCK")
    return started <= since + 2
