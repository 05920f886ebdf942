"""Follow a run that was submitted until all its stages have ended, for wait=true.

In: a run and the stages asked for. Out: a bar (or lines) per stage, and how it ended. Only looks:
Ctrl-C ends the looking, the jobs go on.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console

from qa_dist.cluster.show import StageProgress
from qa_dist.cluster.status import StageStatus, collect
from qa_dist.evaluation.elements import is_each_checkpoint
from qa_dist.files import read_json, read_status
from qa_dist.run_dir import RunDir

_POLL_S = 1.0
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
    still_since = time.monotonic()
    has_told = False
    while True:
        found = collect([run], [stage])[0]
        if found.queue and not has_told:
            has_told = True
            progress.say(f"the queue doesn't answer ({found.queue}); waiting until it does")
        status = found.stages[0]
        files = {e.index: read_status(run.status_file(stage, e.index)) for e in status.elements}
        progress.update(files)
        if status.state == "done":
            return status
        if found.queue or status.count("running") or status.count("waiting"):
            still_since = time.monotonic()
        elif time.monotonic() - still_since > _SETTLE_S:
            return status
        time.sleep(_POLL_S)
