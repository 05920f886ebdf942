"""Copies that stay as they are, and work behind the back of who asked for it."""

from __future__ import annotations

import os
import threading

import pytest
import torch

from qa_dist.training.writer import HostCopies, Writer


def test_copies_stay_as_they_were_and_their_memory_is_used_again() -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    copies = HostCopies()
    first = copies.take({"weight": weight, "transposed": weight.T})
    copies.wait()
    weight += 1
    assert torch.equal(first["weight"], torch.arange(6.0).reshape(2, 3))
    assert torch.equal(first["transposed"], torch.arange(6.0).reshape(2, 3).T)
    second = copies.take({"weight": weight})
    assert torch.equal(second["weight"], weight)
    assert second["weight"].data_ptr() == first["weight"].data_ptr()
    assert set(second) == {"weight"}


@pytest.mark.parametrize("other", [torch.ones(3), torch.ones(2, 2, dtype=torch.uint8)])
def test_a_tensor_of_another_kind_gets_room_of_its_own(other: torch.Tensor) -> None:
    copies = HostCopies()
    copies.take({"weight": torch.zeros(2, 2)})
    copy = copies.take({"weight": other})["weight"]
    assert copy.dtype == other.dtype and torch.equal(copy, other)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_copies_are_pinned_and_nobody_waits_for_the_device() -> None:
    weight = torch.ones(1 << 20, device="cuda")
    copies = HostCopies()
    copies.take({"weight": weight})  # makes room
    torch.cuda.set_sync_debug_mode("error")
    try:
        copy = copies.take({"weight": weight})["weight"]
        weight += 1
    finally:
        torch.cuda.set_sync_debug_mode("default")
    copies.wait()
    assert copy.is_pinned() and copy.eq(1).all()


def test_work_goes_on_behind_at_a_low_priority() -> None:
    go, seen = threading.Event(), []

    def work() -> None:
        go.wait()
        seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    writer = Writer()
    writer.wait()  # there is nothing yet
    writer.start(work)
    assert writer.is_busy and not seen
    with pytest.raises(RuntimeError, match="wasn't waited for"):
        writer.start(work)
    go.set()
    writer.wait()
    assert seen == [min(19, before + 10)] and not writer.is_busy
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before


def test_what_work_raises_is_raised_to_who_waits_once() -> None:
    def work() -> None:
        raise OSError("no room")

    writer = Writer()
    writer.start(work)
    with pytest.raises(OSError, match="no room"):
        writer.wait()
    assert not writer.has_failed
    writer.wait()
