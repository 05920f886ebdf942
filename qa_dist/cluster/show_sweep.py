"""A sweep, for a person: what was submitted, how its runs are, and the table of results.

In: dataclasses of others. Out: what rich prints. Reads no files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from qa_dist.cluster.show_status import show_runs
from qa_dist.cluster.status import RunStatus
from qa_dist.cluster.submitted import Submitted
from qa_dist.evaluation.sweep_table import NOTE, run_cells, setting_cells, title
from qa_dist.evaluation.sweep_table import Table as Results
from qa_dist.profile import STAGES
from qa_dist.run_dir import RunDir, SweepDir


def show_submitted(console: Console, submitted: Mapping[RunDir, Sequence[Submitted]]) -> None:
    """Print the jobs of each run; what several runs wait for stands in each of their rows."""
    if not any(submitted.values()):
        return
    table = Table(title="submitted", title_justify="left")
    for name in ("run", *STAGES):
        table.add_column(name, overflow="fold")
    for run, jobs in submitted.items():
        ids = [" ".join(str(job.job) for job in jobs if job.stage == stage) for stage in STAGES]
        table.add_row(run.root.name, *(ids if jobs else ["all there", "", "", ""]))
    console.print(table)


def show_results(console: Console, results: Results, folder: SweepDir) -> None:
    """Print the results, and where they are kept."""
    console.print(*_tables(results), sep="\n", highlight=False)
    shown, runs = os.path.relpath(folder.results_md), os.path.relpath(folder.root.parent)
    console.print(f"results:      {shown} and .json", highlight=False, soft_wrap=True)
    console.print(f"TensorBoard:  tensorboard --logdir {runs}", highlight=False, soft_wrap=True)


def show_status(found: Sequence[RunStatus], results: Results) -> RenderableType:
    """Return how the runs of a sweep are, and what has come out so far."""
    parts: list[RenderableType] = [show_runs(list(found))] if found else []
    begun = {run.name for run in found}
    others = [row.run for row in results.runs if row.run not in begun]
    if others:
        parts.append(Text(f"not begun: {', '.join(others)}", "dim"))
    return Group(*parts, *_tables(results))


def _tables(results: Results) -> Iterator[RenderableType]:
    yield title(results)
    for cells in filter(None, (setting_cells(results), run_cells(results))):
        head, *rows = cells
        table = Table()
        first_figure = head.index("runs" if "runs" in head else "step")
        for place, name in enumerate(head):
            is_figure = place >= first_figure
            table.add_column(name, justify="right" if is_figure else "left", overflow="fold")
        for row in rows:
            is_best = any(cell.endswith("*") for cell in row[first_figure:])
            table.add_row(*map(escape, row), style="bold" if is_best else "")
        yield table
    yield Text(NOTE)
