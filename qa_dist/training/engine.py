"""Ranks, devices and precision behind a few calls: the only place that knows Accelerate.

In: the environment that the launcher set (RANK, WORLD_SIZE, LOCAL_RANK; MASTER_ADDR and MASTER_PORT
or, for rendezvous.py, QA_DIST_RENDEZVOUS; QA_DIST_TIMEOUT_S, the longest wait for a peer).
Out: the device, small reductions, and the flag "someone asked us to stop". Must not know what is
trained.
"""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn

from qa_dist.processes import note_stop, stop_signals
from qa_dist.records import PAD_MULTIPLE
from qa_dist.training import rendezvous
from qa_dist.training.peers import LostRankError, Peers, this_process

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)
TIMEOUT_VARIABLE = "QA_DIST_TIMEOUT_S"
_TICK_S = 2.0  # between signs of life of a rank that works alone
_MEET_S = 300.0  # a node that loads torch from a busy file system takes minutes


def resolve_precision(precision: str) -> str:
    """Return "bf16" or "fp32"; "auto" is bf16 where the processor computes it natively, else
    fp32."""
    if precision != "auto":
        return precision
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "fp32"


class _Vote:
    """A number on its way from the device to the host, which waits for no more than what it was
    computed from."""

    def __init__(self, value: torch.Tensor) -> None:
        is_cuda = value.device.type == "cuda"
        self._host = torch.empty(value.shape, pin_memory=is_cuda)
        self._host.copy_(value, non_blocking=True)
        self._event = torch.cuda.Event() if is_cuda else None  # type: ignore[no-untyped-call]
        if self._event:
            self._event.record()

    def read(self) -> float:
        if self._event:
            self._event.synchronize()
        return float(self._host.item())


class Engine:
    """One rank of a run."""

    def __init__(self, precision: str, folder: Path | None = None) -> None:
        """`precision`: "bf16" or "fp32". `folder`: one that all ranks see, for their last words."""
        from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs

        self.precision = precision
        on_cpu = not torch.cuda.is_available()
        self.world_size = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        self.timeout_s = float(os.environ.get(TIMEOUT_VARIABLE, "300"))
        """How long a rank waits for another that gives no sign of life."""
        if on_cpu:
            local_size = int(os.environ.get("LOCAL_WORLD_SIZE", str(self.world_size)))
            torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // local_size))
        # Encoders' buffers are constants (position ids); sending them would be a collective in each
        # forward.
        handlers: list[Any] = [DistributedDataParallelKwargs(broadcast_buffers=False)]
        meeting = os.environ.get(rendezvous.VARIABLE)
        if self.world_size > 1 or meeting:  # a job's only rank as well, since RANK is set
            backend = "gloo" if on_cpu else "nccl"
            timeout = timedelta(seconds=self.timeout_s)
            if meeting:
                if not on_cpu:
                    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
                patience = max(timeout, timedelta(seconds=_MEET_S))
                rendezvous.join(
                    Path(meeting), backend, self.rank, self.world_size, timeout, patience
                )
            handlers.append(InitProcessGroupKwargs(backend=backend, timeout=timeout))
        self._accelerator = Accelerator(
            cpu=on_cpu,
            kwargs_handlers=handlers,
        )
        self.device: torch.device = self._accelerator.device
        # Tensor cores take rows of 8 tokens; a CPU would only compute the padding.
        self.pad_multiple = 1 if on_cpu else PAD_MULTIPLE
        self._peers = Peers(self.rank, self.gather(this_process()), folder)
        self._on_cpu: torch.distributed.ProcessGroup | None = None  # the default one
        if self.world_size > 1 and not on_cpu:
            timeout = timedelta(seconds=self.timeout_s)
            self._on_cpu = torch.distributed.new_group(backend="gloo", timeout=timeout)
        self._stop_asked = False
        self._stop_vote: _Vote | None = None
        self._old_handlers: dict[signal.Signals, Any] = {}

    def wrap_replicated(self, model: nn.Module) -> Any:
        """Return the model under DDP: gradients are averaged over ranks."""
        with warnings.catch_warnings():
            # torch 2.13 prefers a name that older versions, and Accelerate, don't know yet.
            warnings.filterwarnings("ignore", ".broadcast_buffers. is deprecated", FutureWarning)
            return self._accelerator.prepare(model)

    def autocast(self) -> torch.autocast:
        """Return the context in which losses are computed: bf16 where it is safe, or fp32."""
        is_bf16 = self.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=is_bf16)

    def sum_over_ranks(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum over all ranks, on each rank; no host synchronisation."""
        if self.world_size > 1:
            torch.distributed.all_reduce(values)
        return values

    def my_share(self, items: Iterable[Any]) -> list[tuple[int, Any]]:
        """Return this rank's items with their numbers: r, r + W, r + 2W ..."""
        return [(i, x) for i, x in enumerate(items) if i % self.world_size == self.rank]

    def broadcast(self, value: Any) -> Any:
        """Return rank 0's value on each rank."""
        if self.world_size == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """Return each rank's value, by rank, on each rank."""
        values = [value] * self.world_size
        if self.world_size > 1:
            torch.distributed.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.world_size > 1:
            torch.distributed.barrier()

    @contextmanager
    def others_wait(self) -> Iterator[None]:
        """Within it rank 0 works alone, on the disk; the others wait as long as it gives signs of
        life, even if that is longer than a collective may take."""
        if self.world_size == 1:
            yield
        elif self.rank > 0:
            yield
            while not self._tick(is_over=False):
                pass
        else:
            is_over = threading.Event()

            def tick_on() -> None:
                with suppress(RuntimeError):  # a rank is lost: seen below
                    while not is_over.wait(_TICK_S):
                        self._tick(is_over=False)

            thread = threading.Thread(target=tick_on, daemon=True)
            thread.start()
            try:
                yield
            finally:
                is_over.set()
                thread.join()
            self._tick(is_over=True)

    def _tick(self, is_over: bool) -> bool:
        """Return whether rank 0 says that it is over; all ranks call it equally often."""
        flag = torch.tensor(float(is_over))
        torch.distributed.all_reduce(flag, group=self._on_cpu)
        return bool(flag.item())

    def lost_rank(self, error: RuntimeError) -> LostRankError | None:
        """Return what a failed collective means: which ranks are gone; None if `error` isn't
        one."""
        is_collective = isinstance(error, torch.distributed.DistError) or any(
            word in str(error).lower() for word in ("gloo", "nccl")
        )
        if self.world_size == 1 or not is_collective:
            return None
        return self._peers.explain(str(error).strip().splitlines()[0])

    @contextmanager
    def lost_ranks_named(self) -> Iterator[None]:
        """Within it a failed collective raises LostRankError."""
        try:
            yield
        except RuntimeError as error:
            lost = self.lost_rank(error)
            if lost is None:
                raise
            raise lost from error

    # -- stop --------------------------------------------------------------------------------------

    def watch_for_stop(self) -> None:
        """From now on a stop signal only sets a flag; all ranks agree on it at the next step
        boundary."""

        def note(signum: int, frame: FrameType | None) -> None:
            self._stop_asked = True
            note_stop(signum, frame)

        for signum in STOP_SIGNALS:
            self._old_handlers[signum] = old = signal.signal(signum, note)
            self._stop_asked |= old is note_stop and signum in stop_signals()  # at the start

    def ask_to_stop(self) -> None:
        """Do as a stop signal to this rank does."""
        self._stop_asked = True

    def should_stop(self) -> bool:
        """Return whether any rank was asked to stop: the same answer on each rank.

        On CUDA the answer is one call old: to read the newest, the host would wait for all that
        the device was given.
        """
        if self.world_size == 1:
            return self._stop_asked
        asked = torch.full((1,), float(self._stop_asked), device=self.device)
        new = _Vote(self.sum_over_ranks(asked))
        old, self._stop_vote = self._stop_vote, new
        vote = old if self.device.type == "cuda" else new
        return vote is not None and vote.read() > 0

    def close(self) -> None:
        """Give signals back and leave the process group, so that no rank aborts at exit."""
        for signum, handler in self._old_handlers.items():
            signal.signal(signum, handler)
        self._old_handlers.clear()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        self._accelerator.free_memory()
