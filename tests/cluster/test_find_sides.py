"""Families, runs and sweeps by their names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qa_dist.cluster.find_sides import find_sides
from qa_dist.records import InputError
from qa_dist.run_dir import RunDir, SweepDir
from qa_dist.sweep import Member, write_sweep


def make_run(runs: Path, name: str, created: str = "2026-01-01", scored: bool = True) -> RunDir:
    run = RunDir(runs / name)
    run.scores.mkdir(parents=True)
    run.run_json.write_text(json.dumps({"created": created}))
    if scored:
        run.scores_file(4).write_text("{}")
    return run


def names(found: list[tuple[str, list[RunDir]]]) -> dict[str, list[str]]:
    return {name: [run.root.name for run in runs] for name, runs in found}


def test_a_family_is_main_of_each_recipe_else_the_newest_scored(tmp_path: Path) -> None:
    make_run(tmp_path, "coqa_bert/main", "2026-01-01")
    make_run(tmp_path, "coqa_bert/later", "2026-01-05")
    make_run(tmp_path, "coqa_albert/old", "2026-01-01")
    make_run(tmp_path, "coqa_albert/new", "2026-01-02")
    make_run(tmp_path, "coqa_albert/newest", "2026-01-03", scored=False)
    make_run(tmp_path, "coqa_electra/main", scored=False)
    make_run(tmp_path, "tiny_coqa/main")
    make_run(tmp_path, "coqashort/main")
    found, is_family, notes = find_sides(["coqa"], tmp_path)
    assert names(found) == {"coqa_albert/new": ["new"], "coqa_bert/main": ["main"]}
    assert is_family
    assert notes == [
        "coqa_albert: 1 other run with scores; coqa_albert/new is taken, the newest",
        "coqa_electra: no run has scores yet",
    ]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("train.seed", {"coqa_bert/s": ["s-1", "s-2"]}),
        ("train.learning_rate", {"coqa_bert/s-2": ["s-2"]}),
    ],
)
def test_a_family_takes_all_seeds_of_a_sweep_but_one_run_of_another(
    tmp_path: Path, key: str, expected: dict[str, list[str]]
) -> None:
    for name, day in (("before", "01"), ("s-1", "02"), ("s-2", "03")):
        make_run(tmp_path, f"coqa_bert/{name}", f"2026-01-{day}")
    folder = SweepDir(tmp_path / "coqa_bert" / "s.sweep")
    folder.root.mkdir()
    write_sweep(folder, "coqa_bert", [Member(f"s-{value}", {key: value}) for value in (1, 2)])
    found, is_family, notes = find_sides(["coqa"], tmp_path)
    assert names(found) == expected and is_family
    ((side, runs),) = expected.items()
    others = "2 other runs" if len(runs) == 1 else "1 other run"
    assert notes == [f"coqa_bert: {others} with scores; {side} is taken, the newest"]


def test_a_family_without_scores_is_an_error(tmp_path: Path) -> None:
    make_run(tmp_path, "coqa_electra/main", scored=False)
    with pytest.raises(InputError, match="coqa: coqa_electra: no run has scores yet"):
        find_sides(["coqa"], tmp_path)


def test_runs_are_sides_in_their_order(tmp_path: Path) -> None:
    for name in ("b/main", "a/main"):
        make_run(tmp_path, name)
    found, is_family, notes = find_sides(["b/main", "a/main"], tmp_path)
    assert list(names(found)) == ["b/main", "a/main"] and not is_family and not notes


@pytest.mark.parametrize("words", [["nothing"], ["a/main", "nothing"]])
def test_a_name_that_is_nothing_is_refused(tmp_path: Path, words: list[str]) -> None:
    make_run(tmp_path, "a/main")
    with pytest.raises(InputError, match=r"nothing: holds no run\.json"):
        find_sides(words, tmp_path)


def test_a_sweep_is_a_side_for_each_setting(tmp_path: Path) -> None:
    members = []
    for rate in (1e-5, 3e-5):
        for seed in (1, 2):
            name = f"s-{rate}-{seed}"
            values = {"train.learning_rate": rate, "train.seed": seed}
            members.append(Member(name, values))
            make_run(tmp_path, f"r/{name}", scored=(rate, seed) != (3e-5, 2))
    folder = SweepDir(tmp_path / "r" / "s.sweep")
    folder.root.mkdir()
    write_sweep(folder, "r", members)
    found, is_family, notes = find_sides(["r/s"], tmp_path)
    assert names(found) == {
        "r/s learning_rate=1e-05": ["s-1e-05-1", "s-1e-05-2"],
        "r/s learning_rate=3e-05": ["s-3e-05-1"],
    }
    assert not is_family
    assert notes == ["r/s: 1 of its runs have no scores yet, and are left out"]


def test_a_sweep_without_scores_is_an_error(tmp_path: Path) -> None:
    folder = SweepDir(tmp_path / "r" / "s.sweep")
    folder.root.mkdir(parents=True)
    write_sweep(folder, "r", [Member("s-1", {"train.seed": 1})])
    with pytest.raises(InputError, match="r/s: none of its runs has scores yet"):
        find_sides(["r/s"], tmp_path)
