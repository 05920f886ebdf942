"""Which run is meant, and what to say where none is."""

from __future__ import annotations

from pathlib import Path

import pytest
from fabricated import fabricate

from qa_dist.cluster.find_runs import all_runs, find_run, find_sweep, read_words, sweep_runs
from qa_dist.files import read_json, write_json
from qa_dist.records import InputError
from qa_dist.run_dir import SweepDir
from qa_dist.sweep import Member, write_sweep


def test_a_folder_and_a_name_mean_the_same_run(tmp_path: Path) -> None:
    run = fabricate(tmp_path).run
    assert find_run(str(run.root), Path("nowhere")) == run
    assert find_run("tiny/one", tmp_path / "runs") == run


def test_a_wrong_name_names_the_nearest(tmp_path: Path) -> None:
    fabricate(tmp_path)
    with pytest.raises(InputError, match=r"tiny/won: holds no run.json .* did you mean tiny/one\?"):
        find_run("tiny/won", tmp_path / "runs")
    with pytest.raises(InputError, match="there is no run in"):
        find_run("tiny/one", tmp_path / "elsewhere")


def test_runs_are_ordered_by_what_they_say_not_by_the_clock_of_files(tmp_path: Path) -> None:
    older, newer = (fabricate(tmp_path, name=name).run for name in ("older", "newer"))
    facts = read_json(newer.run_json)
    write_json(newer.run_json, {**facts, "created": "2027-01-01T00:00:00+0000"})
    write_json(older.run_json, read_json(older.run_json))
    assert all_runs(tmp_path / "runs") == [newer, older]


def test_a_sweep_is_found_by_name_and_folder_and_is_no_run(tmp_path: Path) -> None:
    run = fabricate(tmp_path, name="many-seed_1").run
    folder = SweepDir(tmp_path / "runs" / "tiny" / "many.sweep")
    members = [Member(f"many-seed_{seed}", {"train.seed": seed}) for seed in (1, 2)]
    write_sweep(folder, "tiny", members)
    for word in ("tiny/many", "tiny/many.sweep", str(folder.root)):
        assert find_sweep(word, tmp_path / "runs") == folder
    assert sweep_runs(folder) == [run], "the other wasn't launched yet"
    assert all_runs(tmp_path / "runs") == [run]
    with pytest.raises(InputError, match="is a sweep; give one of its runs: tiny/many-seed_1"):
        find_run("tiny/many", tmp_path / "runs")
    fabricate(tmp_path, name="many")
    assert find_sweep("tiny/many", tmp_path / "runs") is None, "a run's own name comes first"


def test_words_flags_and_the_folder_of_runs() -> None:
    words = ["run=tiny/one", "--json", "runs_dir=/data/runs"]
    assert read_words(words, 1, ("--json",)) == (["tiny/one"], {"--json"}, Path("/data/runs"))
    assert read_words([], 1) == ([], set(), Path("runs"))


@pytest.mark.parametrize(
    ("words", "said"),
    [(["--jsn"], "--jsn: no such option; there are: --json"), (["a", "b"], "b: ")],
)
def test_other_words_are_refused(words: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_words(words, 1, ("--json",))
