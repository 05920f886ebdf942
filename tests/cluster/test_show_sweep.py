"""What a person sees of a sweep."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from qa_dist.cluster.show_sweep import show_results, show_status, show_submitted
from qa_dist.cluster.submitted import Submitted
from qa_dist.evaluation.sweep_table import make_table
from qa_dist.run_dir import RunDir, SweepDir
from qa_dist.sweep import Member, write_sweep


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=120)


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_jobs_of_each_run_stand_in_a_row(console: Console) -> None:
    one = Submitted("prepare", 7, [0, 1], [], 1, True)
    train = Submitted("train", 8, [0], [7], 1, False)
    show_submitted(console, {RunDir(Path("a")): [one, train], RunDir(Path("b")): []})
    lines = [line.split("│")[1:-1] for line in text(console).splitlines() if "│" in line]
    cells = [[cell.strip() for cell in line] for line in lines]
    assert cells == [["a", "7", "8", "", ""], ["b", "all there", "", "", ""]]


def test_nothing_submitted_is_no_table(console: Console) -> None:
    show_submitted(console, {RunDir(Path("a")): []})
    assert text(console) == ""


def test_results_say_where_they_are_and_what_is_missing(console: Console, tmp_path: Path) -> None:
    folder = SweepDir(tmp_path / "tiny" / "main.sweep")
    write_sweep(folder, "tiny", [Member("main-seed_[1]", {"train.seed": 1})])
    table = make_table(folder)
    assert table
    show_results(console, table, folder)
    assert "0 of 1 runs are done" in text(console) and "main.sweep/results.md" in text(console)
    assert "main-seed_[1]" in text(console), "no markup"
    console.print(show_status([], table))
    assert "not begun: main-seed_[1]" in text(console)
