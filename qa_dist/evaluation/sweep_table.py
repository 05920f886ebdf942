"""The results of a sweep: a row for each run, and for each setting the mean and spread over seeds.

In: sweep.json and its runs' scores/*.json. Out: results.json and results.md in the sweep's folder,
written by each run's aggregate stage, so that the last one to finish has it all; written anew at
any time. Figures are those of the last checkpoint, at the headline threshold. No torch, no numpy.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TypeVar

from qa_dist.files import read_status, write_json, write_text
from qa_dist.lock import locked
from qa_dist.run_dir import RunDir, SweepDir
from qa_dist.sweep import SEED, Member, Value, label, read_sweep, show, sweeps_of

_WAIT_S = 60.0


@dataclass(frozen=True)
class RunRow:
    """One run."""

    run: str
    values: dict[str, Value]
    step: int | None
    """The last checkpoint's; None: the run isn't done, its scores are missing."""
    em: float | None
    """In percent."""
    f1: float | None
    is_best: bool = False


@dataclass(frozen=True)
class SettingRow:
    """All seeds of one setting; figures are None without any run that is done."""

    values: dict[str, Value]
    n: int
    """Runs that are done; the figures are over these."""
    of: int
    """Runs that there are to be."""
    em: float | None
    em_std: float | None
    """Sample standard deviation over seeds; None with fewer than two."""
    f1: float | None
    f1_std: float | None
    is_best: bool = False


_Row = TypeVar("_Row", RunRow, SettingRow)


@dataclass(frozen=True)
class Table:
    """A sweep's results."""

    name: str
    recipe: str
    keys: list[str]
    runs: list[RunRow]
    settings: list[SettingRow]

    @property
    def num_done(self) -> int:
        return sum(row.step is not None for row in self.runs)


def update_sweeps(run: RunDir) -> None:
    """Write the results anew of each sweep that a run belongs to."""
    for folder in sweeps_of(run):
        update_sweep(folder)


def update_sweep(folder: SweepDir) -> Table | None:
    """Write a sweep's results anew from its runs' scores, one writer at a time; return them."""
    lock = folder.root / "results.lock"
    with locked(lock, "its results are being written", _WAIT_S, lambda text: None):
        table = make_table(folder)
        if table is not None:
            write_json(folder.results_json, asdict(table))
            write_text(folder.results_md, to_markdown(table))
        return table


def make_table(folder: SweepDir) -> Table | None:
    """Return a sweep's results; None if there is no sweep."""
    sweep = read_sweep(folder)
    if sweep is None:
        return None
    members = sorted(sweep.members, key=lambda member: _order(member.values))
    runs = [_read_run(folder, member) for member in members]
    settings = [_read_setting(rows) for rows in _by_setting(runs)]
    return Table(folder.name, sweep.recipe, sweep.keys, _mark(runs), _mark(settings))


def _order(values: dict[str, Value]) -> list[tuple[str, float, str]]:
    """Sort numbers as numbers, words as words."""
    return [
        ("", float(value), "") if isinstance(value, int | float) else ("text", 0.0, show(value))
        for value in values.values()
    ]


def _read_run(folder: SweepDir, member: Member) -> RunRow:
    """Return the figures of a run that was trained to its end, and scored there."""
    run = folder.run(member.name)
    training = read_status(run.status_file("train", 0))
    scores = {}
    if training.get("state") == "done":
        scores = read_status(run.scores_file(int(training["of"])))
    if not scores:
        return RunRow(member.name, member.values, None, None, None)
    figures = scores["scores"][scores["headline"]]
    return RunRow(member.name, member.values, scores["step"], figures["em"], figures["f1"])


def _by_setting(runs: Sequence[RunRow]) -> list[list[RunRow]]:
    """Return the runs that differ in the seed alone together."""
    found: dict[str, list[RunRow]] = {}
    for row in runs:
        found.setdefault(str(_without_seed(row.values)), []).append(row)
    return list(found.values())


def _without_seed(values: dict[str, Value]) -> dict[str, Value]:
    return {path: value for path, value in values.items() if path != SEED}


def _read_setting(rows: Sequence[RunRow]) -> SettingRow:
    em = [row.em for row in rows if row.em is not None]
    f1 = [row.f1 for row in rows if row.f1 is not None]
    return SettingRow(_without_seed(rows[0].values), len(f1), len(rows), *_spread(em), *_spread(f1))


def _spread(figures: Sequence[float]) -> tuple[float | None, float | None]:
    """Return mean and sample standard deviation."""
    mean = statistics.fmean(figures) if figures else None
    return mean, statistics.stdev(figures) if len(figures) > 1 else None


def _mark(rows: Sequence[_Row]) -> list[_Row]:
    """Mark the row with the best F1, if there are several to choose from; not among runs on other
    sources, whose scores don't compare."""
    is_one_task = all("train.only" not in row.values for row in rows)
    scored = [row for row in rows if row.f1 is not None and is_one_task]
    best = max(scored, key=lambda row: row.f1 or 0.0) if len(scored) > 1 else None
    return [replace(row, is_best=row is best) for row in rows]


# ---- for a person

Cells = list[list[str]]
NOTE = "*: the best F1, chosen on these very questions. std: over seeds (sample), of the runs done."


def run_cells(table: Table) -> Cells:
    """Return a head and a line for each run."""
    lines = [["run", *map(label, table.keys), "step", "EM", "F1"]]
    for row in table.runs:
        figures = [_figure(row.em), _figure(row.f1) + _star(row)]
        step = "missing" if row.step is None else str(row.step)
        lines.append([row.run, *map(show, row.values.values()), step, *figures])
    return lines


def setting_cells(table: Table) -> Cells:
    """Return a head and a line for each setting; nothing where each has a single run."""
    if all(row.of == 1 for row in table.settings):
        return []
    keys = [label(key) for key in table.keys if key != SEED]
    lines = [[*(keys or ["seeds"]), "runs", "EM mean", "EM std", "F1 mean", "F1 std"]]
    for row in table.settings:
        count = str(row.n) if row.n == row.of else f"{row.n} of {row.of}"
        values = [show(value) for value in row.values.values()] or ["all"]
        figures = [_figure(row.em), _figure(row.em_std, 2)]
        figures += [_figure(row.f1) + _star(row), _figure(row.f1_std, 2)]
        lines.append([*values, count, *figures])
    return lines


def _figure(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _star(row: RunRow | SettingRow) -> str:
    return " *" if row.is_best else ""


def title(table: Table) -> str:
    """Return e.g. "tiny_coqa/main: 5 of 6 runs are done"."""
    return f"{table.recipe}/{table.name}: {table.num_done} of {len(table.runs)} runs are done"


def to_markdown(table: Table) -> str:
    """Return the results as a Markdown file."""
    lines = [f"# {title(table)}", ""]
    for cells in filter(None, (setting_cells(table), run_cells(table))):
        head, *rows = cells
        lines += [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows)]
        lines.append("")
    return "\n".join([*lines, NOTE, ""])
