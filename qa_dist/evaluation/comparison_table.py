"""A comparison as tables of text: for the terminal, and as a Markdown file.

In: compare.py's dataclasses. Out: titles, heads and rows. Knows no files and no rich.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from qa_dist.evaluation.compare import METRICS, Paired, Side
from qa_dist.evaluation.outcome import Scores
from qa_dist.records import show_threshold
from qa_dist.text.bootstrap import Difference

_SURE = 0.05
_WITHOUT_THRESHOLD = ("default", "tuned")
"""Headlines of tags and of written answers (a tuned threshold is a number)."""


@dataclass(frozen=True)
class TextTable:
    """One table; the first column stands left, figures right."""

    title: str
    head: list[str]
    rows: list[list[str]]
    note: str


def tables(sides: Sequence[Side], pairs: Sequence[Paired]) -> list[TextTable]:
    """Return all there is to show, in order: scores, cost, differences, learning curves. What all
    sides' names begin with stands in the first title alone."""
    names = [side.name for side in sides]
    start = common_start(names)
    short = dict(zip(names, (name[len(start) :] for name in names), strict=True))
    sides = [replace(side, name=short[side.name]) for side in sides]
    pairs = [replace(pair, first=short[pair.first], second=short[pair.second]) for pair in pairs]
    scores, cost = scores_table(sides), cost_table(sides)
    found = [
        replace(scores, title=f"{start.rstrip(' /')}: {scores.title}" if start else scores.title)
    ]
    if len(cost.head) > 1:
        found.append(cost)
    if pairs:
        found.append(pairs_table(pairs))
    if len(sides) > 1 and pairs and any(o.epochs for side in sides for o in side.outcomes):
        found.append(epochs_table(sides))
    return found


def common_start(names: Sequence[str]) -> str:
    """Return what several names begin with, up to and with a space or slash: the rest of none is
    empty."""
    ends = [place + 1 for place, letter in enumerate(names[0]) if letter in " /"]
    starts = [names[0][:end] for end in ends if len(names) > 1]
    shared = [s for s in starts if all(n.startswith(s) and len(n) > len(s) for n in names)]
    return max(shared, key=len, default="")


def scores_table(sides: Sequence[Side]) -> TextTable:
    """Return a row for each side and source: scores, and the published figure."""
    units = _units(source for side in sides for source in side.sources)
    head = ["", units, "EM", "F1", "threshold", "untrained F1", "own history F1", "gap"]
    head += ["published EM", "published F1"]
    names_sources = any(len(side.sources) > 1 for side in sides)
    rows = []
    for side in sides:
        for source in side.sources:
            name = f"{_side_name(side)}: {source}" if names_sources else _side_name(side)
            rows.append([name, *_score_cells(side, source), *_published_cells(side)])
    note = f"[..]: 95 % bootstrap interval over {_drawn(units)}; +-: over seeds."
    counts: dict[str, set[int]] = {}
    outcomes = [outcome for side in sides for outcome in side.outcomes]
    for outcome in outcomes:
        for source, scores in outcome.sources.items():
            counts.setdefault(source, set()).add(scores.num_questions)
    if any(len(found) > 1 for found in counts.values()):
        note += f" The rows were scored on different numbers of {units}."
    if any(outcome.published and not outcome.published.applies for outcome in outcomes):
        note += (
            " Published figures are left out where model, head or data differ from the recipe's."
        )
    return _without_empty_columns(TextTable("scores, last scored checkpoint", head, rows, note))


def cost_table(sides: Sequence[Side]) -> TextTable:
    """Return a row for each side: what it took."""
    head = ["", "parameters", "windows/s", "s/step", "memory GB"]
    rows = [[_side_name(side), *_cost_cells(side)] for side in sides]
    note = "Parameters: those of a checkpoint. Speed: of training. Memory: the most of rank 0."
    return _without_empty_columns(TextTable("cost", head, rows, note))


def _without_empty_columns(table: TextTable) -> TextTable:
    rows, places = table.rows, range(len(table.head))
    kept = [p for p in places if p == 0 or any(row[p] != "-" for row in rows)]
    cut = [[row[p] for p in kept] for row in (table.head, *rows)]
    return replace(table, head=cut[0], rows=cut[1:])


def _units(sources: Iterable[str]) -> str:
    """Return what is counted of sources: "ner2" is the second of task ner."""
    return "sentences" if all(s.rstrip("0123456789") == "ner" for s in sources) else "questions"


def _drawn(units: str) -> str:
    """Return what the bootstrap draws."""
    return {"sentences": "documents"}.get(units, "questions (CoQA: stories; NER: documents)")


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
        _threshold(one),
        _figure(floor),
        _figure(own),
        _figure(None if own is None or f1 is None else f1 - own),
    ]


def _threshold(scores: Scores) -> str:
    if scores.threshold is not None:
        return f"{scores.headline} {show_threshold(scores.threshold)}"
    return "-" if scores.headline in _WITHOUT_THRESHOLD else scores.headline.replace("_", " ")


def _published_cells(side: Side) -> list[str]:
    """Return the published EM and F1, if they are about what all its runs trained."""
    found = [outcome.published for outcome in side.outcomes]
    one = found[0]
    if one is None or not all(published and published.applies for published in found):
        return ["-", "-"]
    return [one.em or "-", one.f1 or "-"]


def _cost_cells(side: Side) -> list[str]:
    one = side.outcomes[0]
    mark = " (adapters)" if one.adapters_only else ""
    return [
        "-" if one.parameters is None else f"{one.parameters:,}{mark}",
        _figure(_mean([o.windows_per_s for o in side.outcomes])),
        _figure(_mean([o.step_s for o in side.outcomes]), 3),
        _figure(max((o.memory_gb for o in side.outcomes if o.memory_gb), default=None)),
    ]


def pairs_table(pairs: Sequence[Paired]) -> TextTable:
    """Return a row for each pair and figure: the difference with interval and p-value."""
    sources = {pair.source for pair in pairs}
    units = _units(sources)
    rows = [
        [
            f"{pair.second} - {pair.first}{(len(sources) > 1) * f': {pair.source}'}",
            f"{pair.num_questions:,}",
            metric.upper(),
            *_difference(pair.differences[metric]),
        ]
        for pair in pairs
        for metric in METRICS
    ]
    note = (
        f"Points, [..]: 95 %. Paired bootstrap over the {_drawn(units)} that both "
        "sides answered; seeds are taken together. *: p < 0.05."
    )
    for pair in pairs:
        if pair.num_left_out:
            count = f"{pair.num_left_out:,} {_units([pair.source])} of {pair.source}"
            note += f" {count} that {pair.second} or {pair.first} alone has are left out."
    return TextTable("differences", ["", units, "figure", "difference", "p"], rows, note)


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
        title = table.title if ":" in table.title else table.title.capitalize()
        lines += [f"## {title}", ""]
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
