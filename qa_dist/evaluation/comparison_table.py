"""A comparison as tables of text: for the terminal, and as a Markdown file.

In: compare.py's dataclasses. Out: titles, heads and rows. Knows no files and no rich.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from qa_dist.evaluation.compare import Paired, Side
from qa_dist.records import show_threshold
from qa_dist.text.bootstrap import Difference

_SURE = 0.05


@dataclass(frozen=True)
class TextTable:
    """One table; the first column stands left, figures right."""

    title: str
    head: list[str]
    rows: list[list[str]]
    note: str


def tables(sides: Sequence[Side], pairs: Sequence[Paired]) -> list[TextTable]:
    """Return all there is to show, in order: results, differences, learning curves."""
    found = [results_table(sides)]
    if pairs:
        found.append(pairs_table(pairs))
    if len(sides) > 1 and pairs and any(o.epochs for side in sides for o in side.outcomes):
        found.append(epochs_table(sides))
    return found


def results_table(sides: Sequence[Side]) -> TextTable:
    """Return a row for each side and source: scores, what it took, and the published figure."""
    head = ["", "questions", "EM", "F1", "threshold", "untrained F1", "own history F1", "gap"]
    head += ["parameters", "windows/s", "s/step", "memory GB", "published EM", "published F1"]
    names_sources = any(len(side.sources) > 1 for side in sides)
    rows = []
    for side in sides:
        for source in side.sources:
            name = f"{_side_name(side)}: {source}" if names_sources else _side_name(side)
            rows.append([name, *_score_cells(side, source), *_cost_cells(side)])
    note = "[..]: 95 % bootstrap interval over questions (stories for CoQA); +-: over seeds."
    counts: dict[str, set[int]] = {}
    for outcome in (outcome for side in sides for outcome in side.outcomes):
        for source, scores in outcome.sources.items():
            counts.setdefault(source, set()).add(scores.num_questions)
    if any(len(found) > 1 for found in counts.values()):
        note += " The rows were scored on different numbers of questions."
    kept = [place for place in range(len(head)) if place == 0 or any(r[place] != "-" for r in rows)]
    return TextTable(
        "results, last scored checkpoint",
        [head[place] for place in kept],
        [[row[place] for place in kept] for row in rows],
        note,
    )


def _score_cells(side: Side, source: str) -> list[str]:
    all_scores = [outcome.sources[source] for outcome in side.outcomes]
    one = all_scores[0]
    own = _mean([scores.own["f1"] if scores.own else None for scores in all_scores])
    floor = _mean([scores.floor["f1"] if scores.floor else None for scores in all_scores])
    f1 = _mean(side.values(source, "f1"))
    return [
        f"{one.num_questions:,}",
        _score(side, source, "em"),
        _score(side, source, "f1"),
        f"{one.headline}{'' if one.threshold is None else f' {show_threshold(one.threshold)}'}",
        _figure(floor),
        _figure(own),
        _figure(None if own is None or f1 is None else f1 - own),
    ]


def _cost_cells(side: Side) -> list[str]:
    one = side.outcomes[0]
    return [
        "-" if one.parameters is None else f"{one.parameters:,}",
        _figure(_mean([o.windows_per_s for o in side.outcomes])),
        _figure(_mean([o.step_s for o in side.outcomes]), 3),
        _figure(max((o.memory_gb for o in side.outcomes if o.memory_gb), default=None)),
        (one.published.em if one.published else None) or "-",
        (one.published.f1 if one.published else None) or "-",
    ]


def pairs_table(pairs: Sequence[Paired]) -> TextTable:
    """Return a row for each pair: the differences with intervals and p-values."""
    head = ["", "questions", "EM", "p", "F1", "p"]
    names_sources = len({pair.source for pair in pairs}) > 1
    rows = [
        [
            f"{pair.second} - {pair.first}{names_sources * f': {pair.source}'}",
            f"{pair.num_questions:,}",
            *(cell for metric in ("em", "f1") for cell in _difference(pair.differences[metric])),
        ]
        for pair in pairs
    ]
    note = (
        "Points, [..]: 95 %. Paired bootstrap over the questions (stories for CoQA) that both "
        "sides answered; seeds are taken together. *: p < 0.05."
    )
    for pair in pairs:
        if pair.num_left_out:
            count = f"{pair.num_left_out:,} questions of {pair.source}"
            note += f" {count} that {pair.second} or {pair.first} alone has are left out."
    return TextTable("differences", head, rows, note)


def epochs_table(sides: Sequence[Side]) -> TextTable:
    """Return a row for each side and epoch: losses and scores, means over seeds."""
    rows = []
    for side in sides:
        numbers = sorted({e.epoch for outcome in side.outcomes for e in outcome.epochs})
        for number in numbers:
            there = [e for o in side.outcomes for e in o.epochs if e.epoch == number]
            values = (
                (_mean([e.train_loss for e in there]), 4),
                (_mean([e.validation_loss for e in there]), 4),
                (_mean([e.em for e in there]), 1),
                (_mean([e.f1 for e in there]), 1),
            )
            cells = [_figure(value, digits) for value, digits in values]
            rows.append([side.name, str(number), *cells])
    note = (
        "Training loss: mean over the epoch. Validation loss and scores: at the last checkpoint "
        "within it."
    )
    head = ["", "epoch", "training loss", "validation loss", "EM", "F1"]
    return TextTable("by epoch", head, rows, note)


def to_markdown(found: Sequence[TextTable]) -> str:
    """Return the tables as a Markdown file."""
    lines: list[str] = []
    for table in found:
        lines += [f"## {table.title[0].upper()}{table.title[1:]}", ""]
        marks = ["---", *["---:"] * (len(table.head) - 1)]
        for row in (table.head, marks, *table.rows):
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |")
        lines += ["", table.note, ""]
    return "\n".join(lines)


def _side_name(side: Side) -> str:
    one = side.outcomes[0]
    unfinished = one.of is not None and one.step < one.of
    return f"{side.name} (step {one.step} of {one.of})" if unfinished else side.name


def _score(side: Side, source: str, metric: str) -> str:
    values = side.values(source, metric)
    if len(values) > 1:
        mean, std = statistics.fmean(values), statistics.stdev(values)
        return f"{mean:.1f} +- {std:.2f} ({len(values)} seeds)"
    figures = side.outcomes[0].sources[source].figures
    return (
        f"{figures[metric]:.1f} [{figures[f'{metric}_low']:.1f}, {figures[f'{metric}_high']:.1f}]"
    )


def _difference(difference: Difference) -> list[str]:
    mark = " *" if difference.p_value < _SURE else ""
    interval = f"{difference.mean:+.2f} [{difference.low:+.2f}, {difference.high:+.2f}]"
    return [interval, f"{difference.p_value:.4f}{mark}"]


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


def _figure(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
