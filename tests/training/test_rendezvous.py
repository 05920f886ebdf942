"""How ranks meet through a file: they come in any order, a late one is named, no port is agreed
on."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qa_dist.records import InputError
from qa_dist.training import rendezvous

ROOT = Path(__file__).resolve().parents[2]
RANK = """
import sys
from datetime import timedelta
from pathlib import Path
import torch
from qa_dist.training.rendezvous import join
path, rank, world_size, seconds = sys.argv[1:]
join(Path(path), "gloo", int(rank), int(world_size), timedelta(seconds=float(seconds)))
total = torch.tensor([float(rank)])
torch.distributed.all_reduce(total)
print(total.item())
torch.distributed.destroy_process_group()
"""


def start(path: Path, rank: int, world_size: int, seconds: float) -> subprocess.Popen[str]:
    environ = {**os.environ, "QA_DIST_INTERFACE": "lo", "GLOO_SOCKET_IFNAME": "lo"}
    words = [str(path), str(rank), str(world_size), str(seconds)]
    return subprocess.Popen(
        [sys.executable, "-c", RANK, *words],
        cwd=ROOT,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_ranks_meet_in_any_order_and_leave_no_file(tmp_path: Path) -> None:
    path = tmp_path / "status" / "meeting.json"  # rank 0 makes the folder
    others = [start(path, rank, 3, 60) for rank in (2, 1)]
    time.sleep(0.5)
    ranks = [*others, start(path, 0, 3, 60)]
    for rank in ranks:
        out, err = rank.communicate(timeout=120)
        assert rank.returncode == 0, err
        assert out == "3.0\n"
    assert list(path.parent.iterdir()) == []


def test_t25_a_rank_that_never_comes_is_named(tmp_path: Path) -> None:
    path = tmp_path / "meeting.json"
    ranks = [start(path, 0, 3, 6), start(path, 2, 3, 30)]
    _, err = ranks[0].communicate(timeout=120)
    assert ranks[0].returncode != 0
    assert "MissingRankError: ranks 1 of 3 didn't come within 6 s" in err
    ranks[1].communicate(timeout=120)
    assert ranks[1].returncode != 0, "it doesn't wait for ever either"


def test_a_rank_whose_rank_0_never_comes_says_so(tmp_path: Path) -> None:
    rank = start(tmp_path / "meeting.json", 1, 2, 1)
    _, err = rank.communicate(timeout=120)
    assert "waited 1 s in vain for rank 0's address" in err and "meeting.json" in err


def test_the_interface_decides_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QA_DIST_INTERFACE", "lo")
    assert rendezvous.own_address() == "127.0.0.1"
    monkeypatch.setenv("QA_DIST_INTERFACE", "nosuch0")
    with pytest.raises(InputError, match=r"master_interface=nosuch0: .* it has lo"):
        rendezvous.own_address()
