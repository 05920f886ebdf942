"""Means and spreads over seeds from the runs' own scores; what isn't done is shown as missing."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from qa_dist.evaluation.sweep_table import (
    make_table,
    run_cells,
    setting_cells,
    to_markdown,
    update_sweep,
    update_sweeps,
)
from qa_dist.files import read_json, write_json, write_status
from qa_dist.run_dir import SweepDir
from qa_dist.sweep import Member, run_name, write_sweep

RATE, SEED = "train.learning_rate", "train.seed"


@pytest.fixture
def folder(tmp_path: Path) -> SweepDir:
    """A sweep of two rates with three seeds; nothing is done yet."""
    folder = SweepDir(tmp_path / "tiny" / "main.sweep")
    values = [{RATE: rate, SEED: seed} for rate in (3e-5, 1e-5) for seed in (10, 9, 1)]
    write_sweep(folder, "tiny", [Member(run_name("main", one), one) for one in values])
    return folder


def score(folder: SweepDir, name: str, f1: float, step: int = 8, of: int = 8) -> None:
    """Leave what a run leaves that was trained and scored."""
    run = folder.run(name)
    write_status(run.status_file("train", 0), {"state": "done", "step": of, "of": of})
    figures = {"at_0": {"em": 0.0, "f1": 0.0}, "tuned": {"em": f1 - 10, "f1": f1}}
    write_json(run.scores_file(step), {"step": step, "headline": "tuned", "scores": figures})


def test_mean_and_sample_deviation_over_the_seeds_of_each_setting(folder: SweepDir) -> None:
    for seed, f1 in ((1, 50.0), (9, 60.0), (10, 70.0)):
        score(folder, f"main-learning_rate_1e-05-seed_{seed}", f1)
    score(folder, "main-learning_rate_3e-05-seed_1", 65.0)
    table = make_table(folder)
    assert table
    slow, fast = table.settings
    assert (slow.n, slow.of, slow.em, slow.f1) == (3, 3, 50.0, 60.0)
    assert slow.f1_std == 10.0, "of a sample: n - 1"
    assert (fast.n, fast.of, fast.f1, fast.f1_std) == (1, 3, 65.0, None)
    assert (slow.is_best, fast.is_best) == (False, True)
    assert [row.run for row in table.runs if row.is_best] == ["main-learning_rate_1e-05-seed_10"]
    assert [row.values[SEED] for row in table.runs] == [1, 9, 10, 1, 9, 10], "numbers as numbers"


def test_what_is_not_done_is_missing_not_zero(folder: SweepDir) -> None:
    name = "main-learning_rate_1e-05-seed_1"
    score(folder, name, 50.0, step=4, of=8)
    table = make_table(folder)
    assert table and table.num_done == 0, "an earlier checkpoint's scores don't count"
    assert [cells[3:] for cells in run_cells(table)[1:]] == [["missing", "-", "-"]] * 6
    assert setting_cells(table)[1] == ["1e-05", "0 of 3", "-", "-", "-", "-"]
    score(folder, name, 50.0)
    run = folder.run(name)
    table = make_table(folder)
    assert table and table.num_done == 1
    write_status(run.status_file("train", 0), {"state": "running", "step": 8, "of": 8})
    table = make_table(folder)
    assert table and table.num_done == 0, "trained anew"


def test_without_seeds_there_is_nothing_to_average(tmp_path: Path) -> None:
    folder = SweepDir(tmp_path / "main.sweep")
    write_sweep(folder, "tiny", [Member(f"main-learning_rate_{r}", {RATE: r}) for r in (0.1, 0.2)])
    table = make_table(folder)
    assert table and setting_cells(table) == [] and len(run_cells(table)) == 3
    assert make_table(SweepDir(tmp_path / "none.sweep")) is None


def test_runs_on_other_sources_have_no_best(tmp_path: Path) -> None:
    folder = SweepDir(tmp_path / "tiny" / "main.sweep")
    values = [{"train.only": only} for only in ("all", "ner")]
    write_sweep(folder, "tiny", [Member(run_name("main", one), one) for one in values])
    score(folder, "main-only_all", 50.0)
    score(folder, "main-only_ner", 60.0)
    table = make_table(folder)
    assert table and [row.f1 for row in table.runs] == [50.0, 60.0]
    assert not any(row.is_best for row in table.runs)


def test_each_run_that_ends_writes_the_table_anew(folder: SweepDir) -> None:
    names = [f"main-learning_rate_{rate}-seed_{s}" for rate in ("1e-05", "3e-05") for s in (1, 9)]

    def end(name: str, f1: float) -> None:
        score(folder, name, f1)
        update_sweeps(folder.run(name))

    threads = [threading.Thread(target=end, args=(name, 50.0 + i)) for i, name in enumerate(names)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    written = read_json(folder.results_json)
    assert sum(row["step"] is not None for row in written["runs"]) == 4, "the last one has all"
    before = folder.results_md.read_bytes()
    assert b"tiny/main: 4 of 6 runs are done" in before
    folder.results_md.unlink()
    table = update_sweep(folder)
    assert table and folder.results_md.read_bytes() == before
    assert to_markdown(table).count("missing") == 2
