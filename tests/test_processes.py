"""Which processes live, and ending one with what it started."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time

import pytest
from zygote import wait_until

from qa_dist.processes import (
    children_of,
    is_alive,
    kill_with_children,
    leave_torch_out,
    quick_start,
)


def test_this_process_is_alive() -> None:
    assert is_alive(os.getpid())


def test_a_process_that_ended_is_gone_even_before_it_is_reaped() -> None:
    process = subprocess.Popen(["sleep", "60"])
    assert is_alive(process.pid)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    os.kill(process.pid, 0)  # control: a zombie still answers
    assert not is_alive(process.pid)
    process.wait()
    assert not is_alive(process.pid)


def test_a_process_is_killed_with_its_children() -> None:
    parent = subprocess.Popen(["sh", "-c", "sleep 60 & sleep 60 & wait"])
    while len(children_of(parent.pid)) < 2:
        time.sleep(0.01)
    children = children_of(parent.pid)
    kill_with_children(parent.pid)
    assert parent.wait(10) == -9
    wait_until(lambda: not any(map(is_alive, children)), "each dies in its own time", 30)
    kill_with_children(parent.pid)  # gone already: nothing to do


def test_a_process_that_never_was_has_no_children() -> None:
    assert children_of(2**22 + 1) == []


def test_garbage_is_looked_for_again_after_a_quick_start() -> None:
    with pytest.raises(ZeroDivisionError), quick_start():
        assert not gc.isenabled()
        with quick_start():
            pass
        assert not gc.isenabled(), "the outer one still goes on"
        raise ZeroDivisionError
    assert gc.isenabled()


@pytest.mark.parametrize("is_left_out", [True, False])
def test_a_tokenizer_is_loaded_without_torch(is_left_out: bool) -> None:
    code = (
        "import sys\n"
        "from qa_dist.data.tokenizer import load_tokenizer\n"
        "from qa_dist.processes import leave_torch_out\n"
        f"{'leave_torch_out()' if is_left_out else ''}\n"
        "tokenizer = load_tokenizer('qa_dist/sample/encoder', None)\n"
        "print(tokenizer.backend.encode('the old mill').ids, 'torch' in sys.modules)\n"
        "import torch"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *_, is_loaded = done.stdout.split()
    assert is_loaded == str(not is_left_out), "control: transformers loads it where it can"
    assert not done.stderr


def test_torch_that_is_there_already_stays() -> None:
    import torch

    leave_torch_out()
    assert sys.modules["torch"] is torch


def test_what_is_lasting_is_never_looked_through_again() -> None:
    gc.unfreeze()
    try:
        with quick_start():
            pass
        assert gc.get_freeze_count() == 0
        with quick_start(is_lasting=True):
            loaded = [{"a": []} for _ in range(1000)]
        assert gc.get_freeze_count() > len(loaded)
        assert gc.isenabled()
    finally:
        gc.unfreeze()
