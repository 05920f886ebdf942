"""What a person sees in the terminal: plan, progress of each stage, summary of prepared data, table
of scores.

rich where stdout is a terminal, plain lines where it isn't (a log file, a pipe). Reads dicts,
writes text; knows no files and no stages.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from qa_dist.cluster.submitted import Submitted
from qa_dist.evaluation.elements import is_each_checkpoint
from qa_dist.files import read_json
from qa_dist.records import show_threshold
from qa_dist.run_dir import RunDir

if TYPE_CHECKING:
    from rich.progress import Progress

_PLAIN_EVERY_S = 10.0


class StageProgress:
    """The progress of one stage: a bar in a terminal; elsewhere a line now and then."""

    def __init__(self, console: Console, stage: str, num_elements: int) -> None:
        self._console, self._stage, self._num_elements = console, stage, num_elements
        self._started = time.monotonic()
        self._last_line = self._started
        self._bar: Progress | None = None
        elements = f" ({num_elements} elements)" if num_elements > 1 else ""
        if console.is_terminal:
            self._bar = _progress_bar(console)
            self._bar.start()
            self._task = self._bar.add_task(f"{stage:9s}{elements}", total=None, unit="", note="")
        else:
            console.print(f"{stage}{elements} ...", highlight=False)

    def update(self, statuses: Mapping[int, Mapping[str, Any]]) -> None:
        """Show how far the elements are."""
        known = [status for status in statuses.values() if status.get("of")]
        done = sum(int(status["step"]) for status in known)
        total = sum(int(status["of"]) for status in known)
        if known and len(known) < self._num_elements:
            total = (
                total * self._num_elements // len(known)
            )  # those not started: as long as the others
        unit = str(known[0].get("unit", "")) if known else ""
        note = next((str(s["note"]) for s in known if s.get("note")), "")
        if self._bar:
            self._bar.update(self._task, completed=done, total=total or None, unit=unit, note=note)
        elif known and time.monotonic() - self._last_line >= _PLAIN_EVERY_S:
            self._last_line = time.monotonic()
            seconds = self._last_line - self._started
            self._console.print(
                f"{self._stage}: {done} of {total} {unit}, {seconds:.0f} s {note}".rstrip(),
                highlight=False,
            )

    def say(self, text: str) -> None:
        """Print a line beside the progress."""
        self._console.print(f"{self._stage}: {text}", highlight=False, soft_wrap=True)

    def finish(self, state: str) -> None:
        """End the bar, or write a last line."""
        if self._bar:
            self._bar.stop()
        else:
            seconds = time.monotonic() - self._started
            self._console.print(f"{self._stage}: {state} after {seconds:.1f} s", highlight=False)


def _progress_bar(console: Console) -> Progress:
    from rich.progress import (  # which a submit doesn't show
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )


def show_submitted(console: Console, jobs: Sequence[Submitted], run: RunDir) -> None:
    """Print what was submitted: stage, job id, elements, what it waits for, and its logs."""
    if not jobs:
        return
    table = Table(title=f"submitted, attempt {jobs[0].attempt}", title_justify="left")
    for name in ("stage", "job", "elements", "after", "logs"):
        table.add_column(name, overflow="fold")
    folder = os.path.relpath(run.logs)
    for job in jobs:
        count = f"{len(job.elements):,}"
        after = ", ".join(map(str, job.after))
        table.add_row(job.stage, str(job.job), count, after, f"{folder}/{job.stage}-*")
    console.print(table)
    if is_each_checkpoint(run) and any(job.stage == "train" for job in jobs):
        later = [s for s in ("evaluate", "aggregate") if s in read_json(run.run_json)["stages"]]
        if later:
            text = f"{', '.join(later)}: submitted by the training job at each checkpoint"
            console.print(text, highlight=False)


def show_prepared(
    console: Console, summaries: Mapping[str, Mapping[str, Any]], windows_per_s: float
) -> None:
    """Print what was prepared: counts, lengths, ceiling, what was dropped; and how fast it was."""

    def say(text: str) -> None:
        console.print(f"  {escape(text)}", highlight=False, soft_wrap=True)

    for split, facts in summaries.items():
        say(
            f"{split}: {facts['examples']:,} examples, {facts['windows']:,} windows; tokens: mean "
            f"{facts['tokens_mean']:.0f}, 95 % under {facts['tokens_p95']}, longest "
            f"{facts['tokens_max']}; {facts['bytes'] / max(1, facts['windows']):,.0f} bytes per "
            "window"
        )
        if facts["ceiling_f1"]:  # of answers in the context alone
            say(
                f"{split}: ceiling (the targets themselves against the references): EM "
                f"{facts['ceiling_em']:.1f}, F1 {facts['ceiling_f1']:.1f}"
            )
        if facts["cut_questions"]:
            say(f"{split}: {facts['cut_questions']:,} questions with history cut short")
        if facts.get("without_answer"):
            say(
                f"{split}: {facts['without_answer']:,} questions have no answer in any window "
                "(unanswerable, or longer than a window)"
            )
        for reason, (count, ids) in sorted(facts["dropped"].items()):
            what = "kept" if reason in facts["kept_reasons"] else "dropped"
            say(f"{split}: {what} {count:,}: {reason} (first: {', '.join(ids)})")
        if facts.get("doubled_ids"):
            say(
                f"{split}: {facts['doubled_ids']} question ids occur more than once; each counts "
                "once in the scores"
            )
    say(f"{windows_per_s:,.0f} windows/s, start of the processes included")


_COLUMNS = {"em": "EM", "f1": "F1", "keyword_overlap": "keyword overlap"}


def show_scores(console: Console, scores: Mapping[str, Any], recipe: str) -> None:
    """Print a checkpoint's figures with intervals, a table for each source."""
    for name, of_source in scores.get("sources", {"": scores}).items():
        title = f"{recipe}, step {scores['step']}{name and ', '}{name}"
        is_tagged = "precision" in of_source["scores"][of_source["headline"]]
        (_show_entities if is_tagged else _show_questions)(console, of_source, title)
    if "sources" in scores:
        mean = scores["scores"]["mean"]
        line = f"mean of the sources: EM {mean['em']:.1f}, F1 {mean['f1']:.1f}"
        console.print(line, highlight=False)


def _show_questions(console: Console, scores: Mapping[str, Any], title: str) -> None:
    """Print EM and F1, of written answers keyword overlap too: all thresholds (or models), then by
    answer type, turn and domain."""
    num, groups = scores["num_questions"], scores["num_groups"]
    over = f"{num:,} questions" + (f" of {groups:,} stories" if groups != num else "")
    metrics = {m: c for m, c in _COLUMNS.items() if m in scores["scores"][scores["headline"]]}
    table = _table(f"{title}: {over}", "questions", *metrics.values())
    for name, figures in scores["scores"].items():
        mark = " *" if name == scores["headline"] and len(scores["scores"]) > 1 else ""
        table.add_row(
            _label(name, figures) + mark, f"{num:,}", *_cells(figures, metrics), style="bold"
        )
    for kind, rows in scores["by"].items():
        table.add_section()
        for row, figures in rows.items():
            label = f"{kind.replace('_', ' ')}: {row}"
            table.add_row(escape(label), f"{figures['num_questions']:,}", *_cells(figures, metrics))
    console.print(table)
    notes = "[..]: 95 % bootstrap interval."
    if compared := scores.get("compared"):
        notes += (
            f" base: the same model, adapter off; floor: another question's answer. By overlap "
            f"tuned wins {compared['win']}, ties {compared['tie']}, loses {compared['loss']}; "
            "report/ shows each question."
        )
    elif "oracle" in scores["scores"]:
        notes += " *: the threshold used below it; oracle was chosen on dev itself: an upper bound."
    console.print(escape(notes), highlight=False)
    if "own_history" in scores:
        _show_own_history(console, scores)


def _show_own_history(console: Console, scores: Mapping[str, Any]) -> None:
    """Print what becomes of EM and F1 when the history holds the model's own answers."""
    own, gold = scores["own_history"], scores["scores"][scores["headline"]]
    columns = ("EM", "F1", "F1 with gold answers", "gap")
    table = _table("the model's own answers as history", *columns)
    gap = own["gap"]["f1"]
    interval = f"{gap['mean']:.1f} \\[{gap['low']:.1f}, {gap['high']:.1f}]"
    table.add_row("all", *_cells(own, ("em", "f1")), f"{gold['f1']:.1f}", interval, style="bold")
    for kind, rows in own["by"].items():
        table.add_section()
        for row, figures in rows.items():
            f1 = scores["by"][kind][row]["f1"]
            label = escape(f"{kind.replace('_', ' ')}: {row}")
            cells = _cells(figures, ("em", "f1"))
            table.add_row(label, *cells, f"{f1:.1f}", f"{f1 - figures['f1']:.1f}")
    console.print(table)
    note = "gap: gold less own, the price of wrong answers; paired interval over stories."
    console.print(note, highlight=False)


def _show_entities(console: Console, scores: Mapping[str, Any], title: str) -> None:
    """Print precision, recall and F1 of entities in both readings, then by type; and what single
    words and whole sentences score."""
    num, groups = scores["num_questions"], scores["num_groups"]
    over = f"{num:,} sentences" + (f" of {groups:,} documents" if groups != num else "")
    table = _table(f"{title}: {over}", "entities", "precision", "recall", "F1")
    rows = scores["by"]["entity_type"]
    metrics = ("precision", "recall", "f1")
    for name, figures in scores["scores"].items():
        count = sum(row["num_entities"] for row in rows.values())
        table.add_row(f"all, {name}", f"{count:,}", *_cells(figures, metrics), style="bold")
    table.add_section()
    for row, figures in rows.items():
        table.add_row(escape(row), f"{figures['num_entities']:,}", *_cells(figures, metrics))
    console.print(table)
    headline = scores["scores"][scores["headline"]]
    words, sentences = _cells(headline, ("accuracy", "em"))
    console.print(
        f"Words tagged rightly: {words} %; sentences without a fault: {sentences} %. "
        f"{escape('[..]')}: 95 % bootstrap interval. default: tags as conlleval reads them; "
        "strict: as IOB2.",
        highlight=False,
    )


def _table(title: str, *columns: str) -> Table:
    """Return an empty table: labels on the left, then columns of numbers."""
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in columns:
        table.add_column(name, justify="right")
    return table


def _label(name: str, figures: Mapping[str, Any]) -> str:
    if name == "always_answer":
        return "all"
    if "keyword_overlap" in figures:  # written answers: tuned, base, floor
        return name
    threshold = figures["threshold"]
    at = "" if threshold is None or name == "at_0" else f" ({show_threshold(threshold)})"
    return "all, no-answer threshold 0" if name == "at_0" else f"all, threshold {name}{at}"


def _cells(figures: Mapping[str, float], metrics: Iterable[str]) -> list[str]:
    return [
        f"{figures[m]:.1f} \\[{figures[m + '_low']:.1f}, {figures[m + '_high']:.1f}]"
        for m in metrics
    ]
