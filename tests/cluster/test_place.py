"""What this machine gives to a run, and what it can't give."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qa_dist.cluster import place
from qa_dist.cluster.place import count_gpus, find_place
from qa_dist.profile import Profile
from qa_dist.records import InputError


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Six cores and two GPUs."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)))
    monkeypatch.setattr(place, "count_gpus", lambda: 2)
    return monkeypatch


def test_all_gpus_and_cores_are_taken_unless_said_otherwise(machine: pytest.MonkeyPatch) -> None:
    found = find_place(Profile(where="local"))
    assert (found.num_ranks, found.num_gpus, found.max_parallel, found.num_cores) == (2, 2, 6, 6)
    found = find_place(Profile(where="local", gpus_per_node=1, max_parallel=3))
    assert (found.num_ranks, found.num_gpus, found.max_parallel) == (1, 1, 3)


def test_without_gpus_there_is_one_rank_or_as_many_as_asked(machine: pytest.MonkeyPatch) -> None:
    assert find_place(Profile(where="local", gpus_per_node=0)).num_ranks == 1
    found = find_place(Profile(where="local", gpus_per_node=0, ranks_per_node=4))
    assert (found.num_ranks, found.num_gpus) == (4, 0)


def test_in_process_there_is_one_rank(machine: pytest.MonkeyPatch) -> None:
    found = find_place(Profile(where="process"))
    assert (found.num_ranks, found.num_gpus) == (1, 1)


def test_more_gpus_than_there_are_is_refused(machine: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="gpus_per_node=3: this machine shows 2 GPUs"):
        find_place(Profile(where="local", gpus_per_node=3))


def test_ranks_have_a_gpu_each_or_none(machine: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="ranks_per_node=4 with gpus_per_node=2"):
        find_place(Profile(where="local", ranks_per_node=4))


@pytest.mark.parametrize(
    ("visible", "count"), [("", 0), ("-1", 0), ("0", 1), ("2, 3", 2), ("GPU-8f4a,MIG-1/2", 2)]
)
def test_visible_devices_decide(monkeypatch: pytest.MonkeyPatch, visible: str, count: int) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert count_gpus() == count


def test_nvidia_smi_is_asked_where_nothing_is_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert count_gpus() == 0
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: H200 (UUID: x)'\necho 'GPU 1: H200 (UUID: y)'\n")
    tool.chmod(0o700)
    assert count_gpus() == 2
