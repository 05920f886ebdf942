"""Names of a sweep's runs, and what sweep.json keeps."""

from __future__ import annotations

from pathlib import Path

import pytest

from qa_dist.run_dir import NAME, SweepDir, check_name
from qa_dist.sweep import Member, Value, label, read_sweep, run_name, show, sweeps_of, write_sweep

RATE, SEED = "train.learning_rate", "train.seed"


def test_a_name_tells_the_runs_own_values() -> None:
    assert run_name("main", {RATE: 3e-5, SEED: 1}) == "main-learning_rate_3e-05-seed_1"
    assert run_name("main", {"model.lower_case": None}) == "main-lower_case_null"
    assert label("model.name") == "model.name", "there is another setting called name"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1e-5, "1e-05"), (0.5, "0.5"), (-0.0, "0.0"), (3, "3"), (True, "true"), (None, "null")],
)
def test_a_value_is_shown_in_one_way(value: Value, shown: str) -> None:
    assert show(value) == shown


@pytest.mark.parametrize(
    "value", ["/data/a b", "a..b", "x\ny", "$(touch x)", "bert/base", "%j'\"", "é" * 200, "../../x"]
)
def test_s14_hostile_values_make_legal_names_that_differ(value: str) -> None:
    name = run_name("main", {"model.name": value, SEED: 1})
    assert NAME.fullmatch(check_name(name, "name"))
    assert name != run_name("main", {"model.name": f"{value}/", SEED: 1})


def test_long_names_are_shortened_and_stay_different() -> None:
    base = "a" * 60
    names = {run_name(base, {RATE: 1e-5, SEED: seed}) for seed in range(20)}
    assert len(names) == 20 and all(NAME.fullmatch(name) for name in names)
    assert all(name.startswith("a" * 55 + "-") for name in names)


def test_what_is_written_is_read_and_each_run_is_there_once(tmp_path: Path) -> None:
    folder = SweepDir(tmp_path / "main.sweep")
    assert read_sweep(folder) is None
    one, two = (Member(f"main-seed_{seed}", {SEED: seed}) for seed in (1, 2))
    write_sweep(folder, "tiny", [one, two, one])
    sweep = read_sweep(folder)
    assert sweep and (sweep.recipe, sweep.keys, sweep.members) == ("tiny", [SEED], [one, two])
    assert folder.name == "main"
    assert sweeps_of(folder.run("main-seed_2")) == [folder]
    assert sweeps_of(folder.run("main-seed_3")) == []
