"""The processes of a cluster, by /proc: found by what they carry with them, not by files that a
kill may have left unwritten."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from settings import Layout

FOLDER_VARIABLE = "SLURM_CLUSTER_FOLDER"
DAEMON_VARIABLE = "SLURM_CLUSTER_DAEMON"
CLIENTS = {"srun", "sbatch", "salloc", "scancel", "squeue", "sacct", "sacctmgr", "scontrol"}


@dataclass(frozen=True)
class Member:
    """One process."""

    pid: int
    kind: str
    """daemon, helper (a daemon's), step (a slurmstepd), task (of a job) or client (sbatch ...)."""
    name: str
    """The daemon's name; of steps and tasks, the node's."""


def members(layout: Layout) -> list[Member]:
    """Return the live processes of the cluster in this folder; never this one or its ancestors."""
    spared = set(_ancestors(os.getpid()))
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) not in spared and _is_alive(entry):
            member = _member(entry, layout)
            if member:
                found.append(member)
    return found


def _member(entry: Path, layout: Layout) -> Member | None:
    environ, name, pid = _environ(entry), _name(entry), int(entry.name)
    if name == "slurmstepd":
        # Its title lies over its environment, so look at the log that it inherited from slurmd.
        node = _open_log(entry, layout)
        return Member(pid, "step", node) if node else None
    if name == "slurmscriptd":
        is_ours = _working_folder(entry) == layout.folder
        return Member(pid, "helper", "slurmctld") if is_ours else None
    if environ.get(FOLDER_VARIABLE) == str(layout.folder):
        return Member(pid, "daemon", environ.get(DAEMON_VARIABLE, ""))
    if environ.get("SLURM_CONF") == str(layout.slurm_conf):
        if "SLURM_JOB_ID" in environ:
            return Member(pid, "task", environ.get("SLURMD_NODENAME", ""))
        if name in CLIENTS:
            return Member(pid, "client", "")
    return None


def _open_log(entry: Path, layout: Layout) -> str:
    """Return the name of the node whose log a process has open, or nothing."""
    try:
        for descriptor in (entry / "fd").iterdir():
            path = descriptor.readlink()
            if path.parent == layout.logs:
                return path.stem
    except OSError:
        pass
    return ""


def _working_folder(entry: Path) -> Path | None:
    try:
        return (entry / "cwd").readlink()
    except OSError:
        return None


def _environ(entry: Path) -> dict[str, str]:
    try:
        text = (entry / "environ").read_bytes().decode(errors="surrogateescape")
    except OSError:
        return {}
    pairs = (line.partition("=") for line in text.split("\0") if "=" in line)
    return {name: value for name, _, value in pairs}


def _stat(entry: Path) -> tuple[str, list[str]]:
    """Return a process' short name and the fields of stat after it: state, parent ..."""
    try:
        text = (entry / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "", []
    before, _, after = text.rpartition(")")
    return before.partition("(")[2], after.split()


def _name(entry: Path) -> str:
    return _stat(entry)[0]


def _is_alive(entry: Path) -> bool:
    return _stat(entry)[1][:1] not in ([], ["Z"], ["X"])


def _ancestors(pid: int) -> Iterator[int]:
    while pid > 0:
        yield pid
        after = _stat(Path(f"/proc/{pid}"))[1]
        pid = int(after[1]) if after else 0


def kill_until_none(find: Callable[[], list[Member]], timeout_s: float = 20.0) -> list[Member]:
    """Send SIGKILL to what is found until nothing is; return what is left after the time-out."""
    give_up_at = time.monotonic() + timeout_s
    while left := find():
        for member in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(member.pid, signal.SIGKILL)
        if time.monotonic() > give_up_at:
            return left
        time.sleep(0.02)
    return []
