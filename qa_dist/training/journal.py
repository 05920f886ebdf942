"""What an attempt reads from its run's folder and writes into it: checkpoints and the heartbeat.

On rank 0 alone, under the attempt's fencing token. A checkpoint is written while training goes on,
one at a time, unless it is waited for. What else looks at checkpoints meanwhile (evaluation) is
told here when one is finished, and asked which it still needs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from qa_dist import faults
from qa_dist.attempts import check_attempt, update_run
from qa_dist.checkpoint import find_checkpoint, save_checkpoint
from qa_dist.files import own_process, read_json, write_status
from qa_dist.recipe import Train
from qa_dist.rotation import rotate
from qa_dist.run_dir import RunDir
from qa_dist.training.writer import HostCopies, Writer

HEARTBEAT_S = 1.0


@dataclass(frozen=True)
class Readers:
    """What others make of checkpoints while training goes on."""

    awaited: Callable[[RunDir], Collection[int]] = lambda run: ()
    """Returns the steps of the checkpoints that mustn't be deleted yet; called in the thread that
    writes."""
    saved: Callable[[bool], None] = lambda is_last: None
    """Called when training begins or goes on and after each periodic checkpoint, and at once
    returns; called with True before the run is said to be done, and may take its time."""


NO_READERS = Readers()


class Journal:
    """One attempt's view of its run's folder; within it as a context, and at its end waited for, a
    checkpoint may be being written."""

    def __init__(
        self, run: RunDir, settings: Train, facts: Mapping[str, Any], fingerprint: str, steps: int
    ) -> None:
        """`facts`: run.json's; `fingerprint`: of the prepared data; `steps`: of the whole run."""
        self.run, self.settings, self.num_steps = run, settings, steps
        self.attempt = int(facts["attempt"])
        self.identity = {"run": str(facts["id"]), "data": fingerprint}
        self.readers = NO_READERS
        self.saved_step = 0
        """Step of the newest checkpoint that this attempt found or wrote."""
        self._step = 0
        """Steps done, as the last heartbeat said."""
        self._last_beat = 0.0
        self._writer = Writer()
        self._pending: tuple[int, bool] | None = None
        """Step of the checkpoint that is being written, and whether it is a periodic one."""
        self._weights, self._moments = HostCopies(), HostCopies()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.finish()
        except Exception as second:
            if error is None:
                raise
            print(f"warning: {second}", flush=True)

    def find(self) -> Path | None:
        """Return the newest valid checkpoint, None for a new run; warn of broken ones."""
        return find_checkpoint(
            self.run.checkpoints,
            self.identity,
            lambda text: print(f"warning: {text}", flush=True),
            is_expected=bool(read_json(self.run.run_json).get("has_checkpoint")),
        )

    def save(
        self,
        weights: Mapping[str, torch.Tensor],
        moments: Mapping[str, torch.Tensor],
        progress: Mapping[str, Any],
        is_periodic: bool,
    ) -> None:
        """Write a checkpoint of `progress`, delete old ones, and tell the readers.

        One that is written only because of a stop (not `is_periodic`) goes with the next periodic
        one, so that an interrupted run leaves the same checkpoints as an uninterrupted one.
        """
        self.finish()
        self._write(weights, moments, progress)
        self._note(int(progress["step"]), is_periodic)

    def save_behind(
        self,
        weights: Mapping[str, torch.Tensor],
        moments: Mapping[str, torch.Tensor],
        progress: Mapping[str, Any],
        is_periodic: bool,
    ) -> None:
        """Do as `save` does, of copies and behind the caller's back: once it is written `look` or
        `finish` tell the readers, and `finish` raises what went wrong."""
        self.finish()
        weights, moments = self._weights.take(weights), self._moments.take(moments)
        progress = dict(progress)

        def write() -> None:
            self._weights.wait()
            self._moments.wait()
            self._write(weights, moments, progress)

        self._pending = int(progress["step"]), is_periodic
        self._writer.start(write)

    def look(self) -> bool:
        """Tell the readers of a checkpoint that is written by now; return whether writing it
        failed: then call `finish`."""
        if not self._writer.is_busy and not self._writer.has_failed:
            self.finish()
        return self._writer.has_failed

    def finish(self) -> None:
        """Wait for the checkpoint that is being written, and tell the readers; raise what writing
        it raised."""
        pending, self._pending = self._pending, None
        self._writer.wait()
        if pending:
            self._note(*pending)

    def _write(
        self,
        weights: Mapping[str, torch.Tensor],
        moments: Mapping[str, torch.Tensor],
        progress: Mapping[str, Any],
    ) -> None:
        step = int(progress["step"])
        save_checkpoint(
            self.run.checkpoints,
            step,
            weights,
            moments,
            progress,
            self.identity,
            self.attempt,
            check_fence=self.check_fence,
        )
        update_run(self.run, has_checkpoint=True)
        rotate(
            self.run,
            self.settings,
            self.num_steps,
            int(progress["best_step"]),
            self.readers.awaited(self.run),
            attempt=self.attempt,
            verified_step=step,
        )

    def _note(self, step: int, is_periodic: bool) -> None:
        """Tell that the checkpoint of a step is there."""
        self.saved_step = step
        faults.reach("train.saved", step)
        self.beat("running", max(step, self._step))
        if is_periodic:
            self.readers.saved(False)

    def check_fence(self) -> None:
        """Raise FencedError if a newer attempt has taken over."""
        check_attempt(self.run, self.identity["run"], self.attempt)

    def beat_if_due(self, step: int) -> None:
        """Write the heartbeat if the last one is a second old."""
        if time.monotonic() - self._last_beat >= HEARTBEAT_S:
            self.beat("running", step)

    def beat(self, state: str, step: int) -> None:
        """Tell who looks at status/ where we are."""
        self._last_beat, self._step = time.monotonic(), step
        self.check_fence()
        write_status(
            self.run.status_file("train", 0),
            {
                "state": state,
                "attempt": self.attempt,
                "step": step,
                "of": self.num_steps,
                "unit": "steps",
                "saved_step": self.saved_step,
                "updated_at": time.time(),
                **own_process(),
            },
        )
