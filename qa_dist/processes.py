"""Processes of this machine, by /proc: is one still alive, and which ones did it start.

A process that has ended but wasn't reaped yet (a zombie) still answers to signal 0; here it counts
as gone.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path


def is_alive(pid: int) -> bool:
    """Return whether process `pid` of this machine runs."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def children_of(pid: int) -> list[int]:
    """Return the processes that the main thread of `pid` started and that weren't reaped."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    try:
        return [int(word) for word in path.read_text().split()]
    except OSError:
        return []


def kill_with_children(pid: int) -> None:
    """Send SIGKILL to process `pid` and to those it started."""
    for victim in (*children_of(pid), pid):
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            continue
