"""One holder at a time: advisory locks on files of a run, given back by the kernel however their
holder ends.

A launch holds launch.lock, a training process train.lock. Works between processes of one machine,
and over NFS 4.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from qa_dist.records import InputError

_NAME_S = 1.0  # within which a holder has written its name


@contextmanager
def locked(
    path: Path, what: str, wait_s: float = 0.0, tell: Callable[[str], None] = print
) -> Iterator[None]:
    """Hold an advisory lock, which the kernel gives back whenever its holder ends, however it ends.

    Waits up to `wait_s` for another holder, telling so; then raises InputError naming that process.
    """
    stream = path.open("a+", encoding="utf-8")
    is_held = False
    try:
        _acquire(stream, path, what, wait_s, tell)
        is_held = True
        stream.seek(0)
        stream.truncate()
        stream.write(
            f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%F %T')}"
        )
        stream.flush()
        yield
    finally:
        with suppress(OSError):
            if is_held:  # who looks from another machine sees only what is written there
                stream.seek(0)
                stream.truncate()
            stream.close()


def _acquire(
    stream: TextIO, path: Path, what: str, wait_s: float, tell: Callable[[str], None]
) -> None:
    deadline = time.monotonic() + wait_s
    has_named = time.monotonic() + max(wait_s, _NAME_S)
    has_told = False
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if not isinstance(error, BlockingIOError):
                raise InputError(
                    f"{path}: can't be locked ({error.strerror}); keep runs on a file system with "
                    "locks "
                    "(a local disk, NFS 4, Lustre mounted with -o flock)"
                ) from error
            stream.seek(0)
            holder = stream.read().strip()  # empty: it was just taken, or is being given back
            if time.monotonic() >= (deadline if holder else has_named):
                raise InputError(
                    f"{path.parent}: {what} by {holder or 'another process'}. Wait for it, or stop "
                    "it in order (python jobs/cancel.py RUN, or kill -TERM), then launch again; "
                    "for a second run beside it give name=..."
                ) from None
            if holder and not has_told:
                tell(f"waiting for {holder}, which is ending an earlier attempt")
                has_told = True
            time.sleep(0.2 if holder else 0.02)
