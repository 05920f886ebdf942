"""One rank alone: signals, shares; what a lost rank means. Two ranks: tests/faults/."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

from qa_dist import processes
from qa_dist.training.engine import STOP_SIGNALS, Engine, resolve_precision


@pytest.mark.parametrize("signum", STOP_SIGNALS)
def test_a_stop_signal_only_sets_a_flag(engine: Engine, signum: signal.Signals) -> None:
    engine.watch_for_stop()
    assert not engine.should_stop()
    os.kill(os.getpid(), signum)
    assert engine.should_stop()
    assert engine.should_stop(), "it stays asked for"


def test_t09_a_signal_that_came_while_the_process_was_starting_counts(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_stop_signals", set())
    old = signal.signal(signal.SIGUSR2, processes.note_stop)
    try:
        os.kill(os.getpid(), signal.SIGUSR2)
        engine.watch_for_stop()
        assert engine.should_stop()
        engine.close()
    finally:
        signal.signal(signal.SIGUSR2, old)
    again = Engine("fp32")
    again.watch_for_stop()
    assert not again.should_stop(), "what an earlier training of this process saw doesn't count"
    again.close()


def test_close_gives_signals_back(engine: Engine) -> None:
    before = [signal.getsignal(signum) for signum in STOP_SIGNALS]
    engine.watch_for_stop()
    assert [signal.getsignal(signum) for signum in STOP_SIGNALS] != before
    engine.close()
    assert [signal.getsignal(signum) for signum in STOP_SIGNALS] == before


def test_one_rank_has_all_items_and_its_own_values(engine: Engine) -> None:
    assert (engine.rank, engine.world_size) == (0, 1)
    assert engine.my_share("abc") == [(0, "a"), (1, "b"), (2, "c")]
    assert engine.broadcast({"a": 1}) == {"a": 1}
    assert engine.sum_over_ranks(torch.tensor([2.0])).item() == 2.0
    engine.barrier()


def test_the_only_rank_of_a_cluster_job_needs_no_address(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "0")
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "1")
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # given back at the end
        monkeypatch.delenv(name)
    monkeypatch.setenv("QA_DIST_RENDEZVOUS", str(tmp_path / "rendezvous-1-0.json"))
    threads = torch.get_num_threads()
    engine = Engine("fp32")
    assert (engine.rank, engine.world_size) == (0, 1)
    engine.close()
    torch.set_num_threads(threads)
    assert list(tmp_path.iterdir()) == []


def test_rank_r_of_w_takes_r_and_each_w_th_after_it(engine: Engine) -> None:
    engine.rank, engine.world_size = 1, 3
    assert engine.my_share("abcdef") == [(1, "b"), (4, "e")]


def test_threads_are_shared_by_the_ranks_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("threads are set where there is no CUDA device")
    before = torch.get_num_threads()
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    try:
        Engine("fp32").close()
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


# ---- lost ranks


def test_an_error_of_another_kind_is_no_lost_rank(engine: Engine) -> None:
    engine.world_size = 2
    assert engine.lost_rank(RuntimeError("CUDA out of memory")) is None


def test_with_one_rank_none_can_be_lost(engine: Engine) -> None:
    assert engine.lost_rank(RuntimeError("gloo: Connection closed by peer")) is None


def test_a_failed_collective_is_explained(engine: Engine) -> None:
    engine.world_size = 2
    error = engine.lost_rank(RuntimeError("gloo: Timed out waiting 1800000ms\nmore"))
    assert str(error) == (
        "rank 0 waited in vain for the other ranks (gloo: Timed out waiting 1800000ms)"
    )


# ---- precision


def test_a_precision_that_was_asked_for_is_taken() -> None:
    assert resolve_precision("bf16") == "bf16"
    assert resolve_precision("fp32") == "fp32"


def test_auto_is_what_the_processor_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_precision("auto") in ("bf16", "fp32")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for is_native, precision in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda x=is_native, **_: x)
        assert resolve_precision("auto") == precision
