"""Print the logs of one element of a run, and go on printing them until it ends.

In: a run, and which of its elements. Out: lines on stdout, with their rank in front where several
ranks write; a new attempt's files are taken up when they appear. Which state the element is in is
status.py's business.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from qa_dist.cluster.heartbeats import jobs_of
from qa_dist.cluster.run_logs import LogFile, log_files, scheduler_logs
from qa_dist.cluster.status import Element, collect
from qa_dist.profile import STAGES
from qa_dist.records import InputError
from qa_dist.run_dir import RunDir

_POLL_S = 0.5
_ASK_EVERY_S = 5.0


def choose_element(run: RunDir, words: Sequence[str]) -> tuple[str, int]:
    """Return the stage and the element that words name; where they don't, what failed, else what
    runs, else the last that has logs. Raises InputError."""
    if words and words[0] not in STAGES:
        raise InputError(f"{words[0]}: no such stage; expected one of {', '.join(STAGES)}")
    if len(words) > 1:
        if not (words[1].isascii() and words[1].isdigit()):
            raise InputError(f"{words[1]}: expected the number of an element of {words[0]}")
        return words[0], int(words[1])
    (found,) = collect([run], words or STAGES)
    for state in ("failed", "running"):
        for stage in found.stages:
            for element in stage.elements:
                if element.state == state:
                    return stage.stage, element.index
    for stage in reversed(found.stages):
        for element in stage.elements:
            if log_files(run, stage.stage, element.index):
                return stage.stage, element.index
    return found.stages[0].stage, found.stages[0].elements[0].index


def print_logs(run: RunDir, stage: str, element: int) -> None:
    """Print all that the newest attempt wrote. Raises InputError where there is nothing."""
    reader = _Reader(run, stage, element)
    if not reader.print_new(to_end=True):
        state = _state(run, stage, element)
        note = f" ({state.note})" if state and state.note else ""
        raise InputError(
            f"{stage} {element}: it has written no logs yet; it is "
            f"{state.state if state else 'unknown'}{note}"
        )


def follow(run: RunDir, stage: str, element: int) -> None:
    """Print what is there and what comes, until the element has ended."""
    reader = _Reader(run, stage, element)
    asked_at, told = float("-inf"), ""
    while True:
        state = None
        if time.monotonic() - asked_at >= _ASK_EVERY_S:
            state, asked_at = _state(run, stage, element), time.monotonic()
        has_ended = state is not None and state.state not in ("running", "waiting")
        reader.print_new(to_end=has_ended)  # after asking: what it wrote last is there
        if state and has_ended:
            print(f"# {stage} {element}: {state.state}", flush=True)
            return
        note = f"{state.state}: {state.note}" if state and state.note else ""
        if note and note != told:
            told = note
            print(f"# {stage} {element} is {note}", flush=True)
        time.sleep(_POLL_S)


def _state(run: RunDir, stage: str, element: int) -> Element | None:
    (found,) = collect([run], STAGES[: STAGES.index(stage) + 1])
    return next((e for e in found.stages[-1].elements if e.index == element), None)


class _Reader:
    """Reads the logs of the newest attempt from where it stopped."""

    def __init__(self, run: RunDir, stage: str, element: int) -> None:
        self._run, self._stage, self._element = run, stage, element
        self._read: dict[str, int] = {}

    def print_new(self, to_end: bool) -> bool:
        """Print what is new, a half-written last line only with `to_end`; return whether there are
        any logs."""
        logs = log_files(self._run, self._stage, self._element) or self._of_scheduler()
        several = len({log.rank for log in logs}) > 1
        for log in logs:
            self._print(log.path, f"{log.rank}: " if several else "", to_end)
        return bool(logs)

    def _of_scheduler(self) -> list[LogFile]:
        """Return what SLURM wrote about a job whose processes never wrote themselves."""
        job = jobs_of(self._run, self._stage).get(self._element)
        paths = scheduler_logs(self._run, *job) if job else []
        return [LogFile(0, 0, "err", path) for path in paths if path.stat().st_size]

    def _print(self, path: Path, prefix: str, to_end: bool) -> None:
        start = self._read.get(str(path))
        with path.open("rb") as stream:
            stream.seek(start or 0)
            raw = stream.read()
        if start is None:
            print(f"# {path}" + ("" if raw else " (empty)"), flush=True)
        whole = raw if to_end else raw[: raw.rfind(b"\n") + 1]
        self._read[str(path)] = (start or 0) + len(whole)
        for line in whole.decode("utf-8", errors="replace").splitlines():
            print(prefix + line, flush=True)
