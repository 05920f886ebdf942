"""Processes of this machine, by /proc: is one still alive, and which ones did it start; and of this
one, whether it was asked to stop, and how it starts quickly.

A process that has ended but wasn't reaped yet (a zombie) still answers to signal 0; here it counts
as gone.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType


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


_stop_signals: set[int] = set()


def note_stop(signum: int, frame: FrameType | None) -> None:
    """Signal handler that only notes that this process was asked to stop."""
    _stop_signals.add(signum)


def stop_signals() -> frozenset[int]:
    """Return the signals that `note_stop` has seen."""
    return frozenset(_stop_signals)


@contextmanager
def quick_start(is_lasting: bool = False) -> Iterator[None]:
    """Within it no cycles of garbage are looked for, also as a decorator.

    Importing torch and transformers makes a million objects and hardly any garbage; looking through
    them again and again is a fifth of the time that it takes. `is_lasting`: what is there at its
    end may stay as long as the process, so that it is never looked through, not at the exit either.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if is_lasting:
            gc.freeze()
        if was_enabled:
            gc.enable()


def leave_torch_out() -> None:
    """Load what transformers has for tokenizers without torch, which it would load along with them.

    For a process that prepares data and ends: of each array element that takes 2 s and 180 MB. Does
    nothing where torch is loaded already; transformers' models can't be used afterwards.
    """
    if "torch" in sys.modules:
        return
    os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"  # that PyTorch was not found
    sys.modules["torch"] = None  # type: ignore[assignment]  # to the import system: not there
    try:
        with quick_start():
            import transformers.models.auto.tokenization_auto  # noqa: F401
    finally:
        del sys.modules["torch"]
