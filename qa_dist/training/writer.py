"""What lets training go on while its state is written: copies that the next step can't change, and
a thread that writes them.

The copies take as much of rank 0's host memory as weights and moments do (12 bytes a parameter in
fp32; for a GPU pinned, which torch rounds up to powers of two), from the first checkpoint on; what
a sharded engine gathers lies beside them for a moment. Knows neither checkpoints nor what is
trained.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress

import torch

_NICENESS = 10
"""Added to the thread's: on a CPU it mustn't take the cores from the step, nor be starved."""


class HostCopies:
    """Copies of named tensors in host memory; the next ones use the same memory again."""

    def __init__(self) -> None:
        self._room: dict[str, torch.Tensor] = {}
        self._copied: torch.cuda.Event | None = None

    def take(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return copies of `tensors`, in which those of the last time end.

        On CUDA the device makes them in its own time, before anything that it is asked for later:
        call `wait` before they are read.
        """
        copies = {name: self._copy(name, tensor.detach()) for name, tensor in tensors.items()}
        self._room = copies  # what isn't there any more is let go
        if any(tensor.is_cuda for tensor in tensors.values()):
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record()
        return copies

    def wait(self) -> None:
        """Wait until the last copies are there."""
        if self._copied:
            self._copied.synchronize()

    def _copy(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        room = self._room.get(name)
        if room is None or (room.shape, room.dtype) != (tensor.shape, tensor.dtype):
            room = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
        return room.copy_(tensor, non_blocking=True)


class Writer:
    """Does one piece of work at a time, behind the back of the thread that asks for it."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Begin `work`; there must be none going on. The process doesn't end before it is done."""
        if self._thread:
            raise RuntimeError("the work before this one wasn't waited for")
        self._thread = threading.Thread(target=self._do, args=(work,), name="writer")
        self._thread.start()

    @property
    def is_busy(self) -> bool:
        """Whether work is going on."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def has_failed(self) -> bool:
        """Whether the work ended with an error, which `wait` will raise."""
        return self._error is not None

    def wait(self) -> None:
        """Wait for the end of the work; raise what it raised, once."""
        if self._thread:
            self._thread.join()
        error, self._error, self._thread = self._error, None, None
        if error:
            raise error

    def _do(self, work: Callable[[], None]) -> None:
        with suppress(OSError):  # Linux' threads each have a niceness of their own
            mine = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, mine, os.getpriority(os.PRIO_PROCESS, mine) + _NICENESS)
        try:
            work()
        except BaseException as error:
            self._error = error
