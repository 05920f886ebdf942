"""Which run is meant, and what to say where none is."""

from __future__ import annotations

from pathlib import Path

import pytest
from fabricated import fabricate

from qa_dist.cluster.find_runs import all_runs, find_run, read_words
from qa_dist.files import read_json, write_json
from qa_dist.records import InputError


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
