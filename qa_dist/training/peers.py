"""Which rank is lost, when a collective has failed: the one that says nothing.

Each rank that sees the failure leaves its last word in a folder that all nodes see, with those of
its own node that have ended; who leaves none within a few seconds was killed, is frozen, or its
node is gone. In: nodes and processes of all ranks. Out: an error that names them. Knows neither
Accelerate nor SLURM.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

from qa_dist.files import read_status, write_status
from qa_dist.processes import is_alive

NODE_VARIABLE = "QA_DIST_NODE"
"""The node's name, where the launcher knows a better one than the host's."""
_PATTERN = "word-*.json"
_POLL_S = 0.1


class LostRankError(Exception):
    """Another rank ended or doesn't answer; the message names it where that is known."""

    is_consequence = True
    """What that rank itself has to say comes first."""


class Peer(NamedTuple):
    """The process of a rank."""

    node: str
    pid: int


def this_process() -> Peer:
    """Return what the other ranks are told of this one."""
    return Peer(os.environ.get(NODE_VARIABLE) or socket.gethostname(), os.getpid())


class Peers:
    """All ranks of this start of the job."""

    def __init__(self, rank: int, peers: Sequence[Peer], folder: Path | None) -> None:
        """`peers`: by rank. `folder`: where last words are left; None: all are on this machine."""
        self.rank, self.peers, self._folder = rank, list(peers), folder
        self.wait_s = 5.0
        """How long to wait for the others' words."""
        if folder and rank == 0:
            for path in folder.glob(_PATTERN):  # of an earlier start
                path.unlink(missing_ok=True)

    def explain(self, reason: str) -> LostRankError:
        """Return what a failed collective means; `reason` is what it said. Waits for the others."""
        hang_up()
        give_up_at = time.monotonic() + self.wait_s
        silent: list[int] = []
        while True:
            gone, silent = self._look()
            if gone or not silent or time.monotonic() > give_up_at:
                break
            time.sleep(_POLL_S)
        end = f"so rank {self.rank} can't go on"
        if gone:
            return LostRankError(f"{self._names(gone)} ended (killed? out of memory?), {end}")
        if silent and self._folder:
            return LostRankError(
                f"{self._names(silent)} didn't answer (frozen? very slow? node lost?), {end} "
                f"({reason})"
            )
        return LostRankError(f"rank {self.rank} waited in vain for the other ranks ({reason})")

    def _look(self) -> tuple[list[int], list[int]]:
        """Leave this rank's word; return the ranks that have ended, and those without a word."""
        mine = self.peers[self.rank]
        here = [r for r, p in enumerate(self.peers) if p.node == mine.node and not is_alive(p.pid)]
        if self._folder:
            with suppress(OSError):  # no room: what we know ourselves can still be said
                write_status(self._word_file(self.rank), {"ended": here})
        words = [
            read_status(self._word_file(r)) if self._folder else {} for r in range(len(self.peers))
        ]
        ended = {r for word in words for r in word.get("ended", [])} | set(here)
        silent = [r for r, word in enumerate(words) if not word and r not in (*ended, self.rank)]
        return sorted(ended), silent

    def _word_file(self, rank: int) -> Path:
        first = self.peers[0]  # what another start of the job left has another name
        assert self._folder
        return self._folder / _PATTERN.replace("*", f"{first.node}-{first.pid}-{rank}")

    def _names(self, ranks: Sequence[int]) -> str:
        has_nodes = len({peer.node for peer in self.peers}) > 1
        return ", ".join(
            f"rank {r} (process {self.peers[r].pid}"
            + (f" on {self.peers[r].node})" if has_nodes else ")")
            for r in ranks
        )


def hang_up() -> None:
    """Shut this process's connections down, so that all other ranks see the failure at once.

    A gloo collective fails in those that talk to the lost rank; the others would wait for them.
    """
    for handle in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            if not str(handle.readlink()).startswith("socket:"):
                continue
            with closing(socket.socket(fileno=os.dup(int(handle.name)))) as connection:
                if connection.family in (socket.AF_INET, socket.AF_INET6):
                    connection.getpeername()  # raises for one that only listens
                    connection.shutdown(socket.SHUT_RDWR)
