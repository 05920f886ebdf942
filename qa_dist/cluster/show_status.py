"""How runs are, for a person: a table of one run's stages with what is wrong below it, or a line
for each run.

In: what status.py collected. Out: things that rich prints. Reads no files.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from qa_dist.cluster.status import Element, RunStatus, StageStatus

_COLOURS = {
    "done": "green",
    "running": "cyan",
    "waiting": "yellow",
    "failed": "red",
    "missing": "dim",
    "stopped": "yellow",
}
_NOTES = 3
_ERROR_LINES = 6


def show_run(run: RunStatus, now: float | None = None) -> RenderableType:
    """Return one run as a table of stages, and lines for what waits, failed and comes out."""
    parts: list[RenderableType] = [_head(run, time.time() if now is None else now)]
    if run.queue:
        parts.append(
            Text(f"the queue doesn't answer ({run.queue}): this is what the disk says", "yellow")
        )
    table = Table()
    for name in ("stage", "state", "elements", "progress", "rate", "time left", "job", "nodes"):
        table.add_column(name, overflow="fold")
    for stage in run.stages:
        table.add_row(*_cells(stage))
    parts.append(table)
    parts += [Text(line) for line in _figures(run)]
    for stage in run.stages:
        parts += list(_notes(stage))
    return Group(*parts)


def _head(run: RunStatus, now: float) -> Text:
    head = Text(f"{run.recipe}/{run.name}: ")
    head.append(run.state, _COLOURS[run.state])
    head.append(f", attempt {run.attempt}")
    if run.holder:
        head.append(f", process {run.holder.pid} on {run.holder.host}")
    if run.updated_at and run.state != "done":
        head.append(f", last sign {duration(max(0.0, now - run.updated_at))} ago")
    return head.append(f"\n{run.run}", "dim")


def _cells(stage: StageStatus) -> list[str]:
    state = stage.state
    counts = [
        f"{stage.count(one):,} {one}"
        for one in ("done", "running", "waiting", "failed", "missing")
        if stage.count(one)
    ]
    total = len(stage.elements)
    shown = ", ".join(counts) + (f" of {total:,}" if len(counts) == 1 and total > 1 else "")
    progress = f"{stage.step:,} of {stage.of:,} {stage.unit}" if stage.of else ""
    jobs = sorted({e.job.partition("_")[0] for e in stage.elements if e.job}, key=int)
    nodes = sorted({e.nodes for e in stage.elements if e.nodes})
    return [
        stage.stage,
        f"[{_COLOURS[state]}]{state}[/]",
        shown,
        progress,
        f"{stage.rate:.3g} {stage.unit}/s" if stage.rate else "",
        duration(stage.eta_s) if stage.eta_s is not None else "",
        escape(" ".join(jobs)),
        escape(" ".join(nodes)),
    ]


def _figures(run: RunStatus) -> Iterator[str]:
    losses = [("loss", run.loss), ("validation", run.validation_loss)]
    known = [f"{name} {value:.4f}" for name, value in losses if value is not None]
    if known:
        yield ", ".join(known)
    if run.score:
        yield _score(run)


def _score(run: RunStatus) -> str:
    score = run.score
    return f"step {score['step']:.0f}: EM {score['em']:.1f}, F1 {score['f1']:.1f}"


def _notes(stage: StageStatus) -> Iterator[Text]:
    """Say why elements wait or are missing, each reason once; and how those that failed did."""
    for state in ("running", "waiting", "missing"):
        notes = Counter(e.note for e in stage.elements if e.state == state and e.note)
        for note, count in notes.most_common(_NOTES):
            which = f" ({count:,} elements)" if count > 1 else ""
            yield Text(f"{stage.stage} {state}{which}: {note}", _COLOURS[state])
    failed = [element for element in stage.elements if element.state == "failed"]
    for element in failed[:_NOTES]:
        yield Text(_failure(stage, element), "red")
    if len(failed) > _NOTES:
        yield Text(f"... and {len(failed) - _NOTES:,} more elements of {stage.stage} failed", "red")


def _failure(stage: StageStatus, element: Element) -> str:
    lines = element.note.splitlines() or ["no word of why"]
    kept = lines if len(lines) <= _ERROR_LINES else [lines[0], "...", *lines[2 - _ERROR_LINES :]]
    return f"{stage.stage} {element.index} failed: " + "\n    ".join(kept)


def show_runs(runs: Sequence[RunStatus], now: float | None = None) -> RenderableType:
    """Return a line for each run."""
    table = Table()
    for name in ("run", "state", "stage", "progress", "time left", "last score", "last sign"):
        table.add_column(name, overflow="fold")
    now = time.time() if now is None else now
    for run in runs:
        stage = _current(run.stages)
        table.add_row(
            f"{run.recipe}/{run.name}",
            f"[{_COLOURS[run.state]}]{run.state}[/]",
            "" if run.state == "done" else stage.stage,
            "" if run.state == "done" else _progress(stage),
            duration(stage.eta_s) if stage.eta_s is not None else "",
            _score(run) if run.score else "",
            f"{duration(max(0.0, now - run.updated_at))} ago" if run.updated_at else "",
        )
    queue = next((run.queue for run in runs if run.queue), "")
    if not queue:
        return table
    note = f"the queue doesn't answer ({queue}): this is what the disk says"
    return Group(table, Text(note, "yellow"))


def _progress(stage: StageStatus) -> str:
    if stage.of and len(stage.elements) == 1:
        return f"{stage.step:,} of {stage.of:,} {stage.unit}"
    return f"{stage.count('done'):,} of {len(stage.elements):,} elements"


def _current(stages: Iterable[StageStatus]) -> StageStatus:
    """Return the stage that a run's state is about: what failed, runs or waits first."""
    order = ("failed", "running", "waiting", "missing", "done")
    return min(stages, key=lambda stage: order.index(stage.state))


def duration(seconds: float) -> str:
    """Return e.g. "42 s", "7 min", "3 h 20 min" or "2 d 4 h"."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes} min"
    hours = minutes // 60
    if hours < 48:
        return f"{hours} h {minutes % 60} min"
    return f"{hours // 24} d {hours % 24} h"
