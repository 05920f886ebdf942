"""Follow a run that was submitted until all its stages have ended, for wait=true.

In: a run and the stages asked for. Out: a bar (or lines) per stage, and how it ended. Only looks:
Ctrl-C ends the looking, the jobs go on.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console

from qa_dist.cluster.heartbeats import read_elements
from qa_dist.cluster.show import StageProgress
from qa_dist.cluster.status import StageStatus, collect
from qa_dist.evaluation.elements import is_each_checkpoint
from qa_dist.files import read_json
from qa_dist.run_dir import RunDir

_POLL_S = 1.0
_ASK_EVERY_S = 15.0  # at the most often, in a long run: all launches ask the same controller
_ASK_SLOWER = 1.2
_MOST_FAILED = 5
_SETTLE_S = 5.0  # a job that has just ended may not have shown its last word on this machine yet


def wait_for_stages(run: RunDir, stages: Sequence[str], console: Console) -> list[StageStatus]:
    """Show each stage until it has ended; return how all of them did.

    With evaluation.when=each_checkpoint those too that training submits.
    """
    if is_each_checkpoint(run):
        stages = list(dict.fromkeys([*stages, *read_json(run.run_json).get("stages", ())]))
    for stage in stages:
        (status,) = collect([run], [stage])[0].stages
        progress = StageProgress(console, stage, len(status.elements))
        try:
            status = _wait_for_stage(run, stage, progress)
        finally:
            progress.finish(status.state)
    return collect([run], stages)[0].stages


def unfinished(ended: Sequence[StageStatus]) -> list[str]:
    """Say what isn't done and why: the first elements that failed, and those that are missing by
    reason."""
    failed = [
        f"{one.stage}, element {e.index}: {e.note}"
        for one in ended
        for e in one.elements
        if e.state == "failed"
    ]
    lines = failed[:_MOST_FAILED]
    if len(failed) > _MOST_FAILED:
        lines.append(f"... and {len(failed) - _MOST_FAILED:,} more elements failed")
    for one in ended:
        by_note: dict[str, list[int]] = {}
        for element in one.elements:
            if element.state == "missing":
                by_note.setdefault(element.note, []).append(element.index)
        for note, indices in by_note.items():
            which = f"element {indices[0]}" if len(indices) == 1 else f"{len(indices):,} elements"
            lines.append(f"{one.stage}, {which}: {note}")
    return lines


def _wait_for_stage(run: RunDir, stage: str, progress: StageProgress) -> StageStatus:
    """Look at its files each second, and ask the queue more and more seldom while all is well."""
    still_since: float | None = None  # when the queue first had nothing of it any more
    ask_after_s, ask_at = _POLL_S, float("-inf")
    status: StageStatus | None = None
    has_told = False
    while True:
        disk = read_elements(run, stage)
        progress.update({one.index: one.heartbeat for one in disk})
        if status is None or time.monotonic() >= ask_at or all(one.is_done for one in disk):
            found = collect([run], [stage])[0]
            if found.queue and not has_told:
                has_told = True
                progress.say(f"the queue doesn't answer ({found.queue}); waiting until it does")
            status = found.stages[0]
            if status.state == "done":
                return status
            if found.queue or status.count("running") or status.count("waiting"):
                still_since = None
                ask_after_s = min(_ASK_EVERY_S, _ASK_SLOWER * ask_after_s)
            else:
                still_since = still_since or time.monotonic()
                if time.monotonic() - still_since > _SETTLE_S:
                    return status
                ask_after_s = _POLL_S
            ask_at = time.monotonic() + ask_after_s
        time.sleep(_POLL_S)
