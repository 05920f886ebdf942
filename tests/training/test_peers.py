"""Who is lost, from the words that ranks leave; real processes and sockets, nodes in name only."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from qa_dist.training.peers import LostRankError, Peer, Peers, this_process

REASON = "gloo: Timed out waiting 20000ms"


@pytest.fixture
def dead() -> Iterator[int]:
    """The number of a process that has ended; it isn't reaped."""
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    yield process.pid
    process.wait()


def make(rank: int, peers: list[Peer], folder: Path | None, wait_s: float = 0.3) -> Peers:
    found = Peers(rank, peers, folder)
    found.wait_s = wait_s
    return found


def test_a_rank_of_this_node_whose_process_has_ended_is_named(dead: int) -> None:
    peers = [Peer("n1", os.getpid()), Peer("n1", dead)]
    error = make(0, peers, None).explain(REASON)
    assert isinstance(error, LostRankError) and error.is_consequence
    assert str(error) == (
        f"rank 1 (process {dead}) ended (killed? out of memory?), so rank 0 can't go on"
    )


def test_ranks_that_live_but_do_not_answer_are_said_to() -> None:
    error = make(0, [Peer("n1", os.getpid()), Peer("n2", 1)], None).explain(REASON)
    assert str(error) == f"rank 0 waited in vain for the other ranks ({REASON})"


def test_t03_the_rank_without_a_word_is_named_with_its_node(tmp_path: Path) -> None:
    peers = [Peer("n1", os.getpid()), Peer("n2", os.getpid()), Peer("n2", 1)]
    ranks = [make(rank, peers, tmp_path) for rank in (0, 1)]
    other = threading.Thread(target=ranks[1].explain, args=(REASON,))
    other.start()
    error = str(ranks[0].explain(REASON))
    other.join()
    assert error.startswith("rank 2 (process 1 on n2) didn't answer (frozen?")
    assert error.endswith(f"so rank 0 can't go on ({REASON})")


def test_t01_a_rank_of_another_node_that_ended_is_known_from_its_neighbour(
    tmp_path: Path, dead: int
) -> None:
    peers = [Peer("n1", os.getpid()), Peer("n2", os.getpid()), Peer("n2", dead)]
    first, neighbour = make(0, peers, tmp_path, wait_s=30), make(1, peers, tmp_path)
    neighbour.explain(REASON)
    error = first.explain(REASON)
    assert str(error).startswith(f"rank 2 (process {dead} on n2) ended (killed?")


def test_words_of_an_earlier_start_do_not_count_and_go(tmp_path: Path) -> None:
    old = [Peer("n1", 1), Peer("n2", 1)]
    for rank in (0, 1):
        make(rank, old, tmp_path, wait_s=0).explain(REASON)
    assert len(list(tmp_path.iterdir())) == 2
    new = [Peer("n1", os.getpid()), Peer("n2", 1)]
    one = make(1, new, tmp_path)
    assert "rank 0 (process" in str(one.explain(REASON)), "rank 0 of this start said nothing"
    make(0, new, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_room_for_a_word_the_end_of_a_neighbour_is_still_said(
    tmp_path: Path, dead: int
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        peers = [Peer("n1", os.getpid()), Peer("n1", dead)]
        error = make(0, peers, tmp_path).explain(REASON)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []
    assert str(error).startswith(f"rank 1 (process {dead}) ended")


def test_where_all_saw_it_nobody_is_accused(tmp_path: Path) -> None:
    peers = [Peer("n1", os.getpid()), Peer("n2", os.getpid())]
    first, other = make(0, peers, tmp_path, wait_s=30), make(1, peers, tmp_path, wait_s=0)
    other.explain(REASON)
    assert "waited in vain" in str(first.explain(REASON))


def test_the_launcher_names_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QA_DIST_NODE", "n7")
    assert this_process() == Peer("n7", os.getpid())
    monkeypatch.delenv("QA_DIST_NODE")
    assert this_process() == Peer(socket.gethostname(), os.getpid())


def test_hanging_up_ends_connections_but_what_listens_goes_on() -> None:
    program = """
import socket, sys
from qa_dist.training.peers import hang_up
server = socket.create_server(("127.0.0.1", 0))
peer = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
hang_up()
again = socket.create_connection(server.getsockname())
server.settimeout(5)
server.accept()
print("listens")
"""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        words = [sys.executable, "-c", program, str(server.getsockname()[1])]
        child = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        connection, _ = server.accept()
        connection.settimeout(60)
        assert connection.recv(1) == b"", "it was closed"
        out, _ = child.communicate(timeout=60)
        connection.close()
    assert out == "listens\n"
