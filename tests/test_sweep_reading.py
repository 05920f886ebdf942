"""From lists on a command line to runs; all that is wrong with them at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from qa_dist.recipe_loading import ProblemsError
from qa_dist.sweep_reading import MAX_RUNS, expand


def names(seeds: str | None, *overrides: str) -> list[str]:
    return [member.name for member, _ in expand("main", seeds, overrides)]


def test_one_run_for_each_combination_with_its_settings() -> None:
    found = expand("main", "1,2", ["train.learning_rate=1e-5,3e-5", "train.epochs=2"])
    assert [member.name for member, _ in found] == [
        "main-learning_rate_1e-05-seed_1",
        "main-learning_rate_1e-05-seed_2",
        "main-learning_rate_3e-05-seed_1",
        "main-learning_rate_3e-05-seed_2",
    ]
    member, settings = found[2]
    assert settings == ["train.epochs=2", "train.learning_rate=3e-5", "train.seed=1"]
    assert member.values == {"train.learning_rate": 3e-5, "train.seed": 1}


def test_without_lists_there_is_no_sweep_and_one_seed_is_one() -> None:
    assert expand("main", None, ["train.seed=3", "train.learning_rate=1e-5"]) == []
    assert names("3") == ["main-seed_3"]
    assert names(None, "train.seed=1,2") == names("1,2")


def test_names_depend_on_nothing_but_the_runs_own_values() -> None:
    few = names("1,2", "train.learning_rate=1e-5,3e-5", "data.history_turns=0,2")
    many = names("2,4,1", "data.history_turns=2,0,1", "train.learning_rate=0.00003,1E-5,0.1")
    assert set(few) < set(many)


def test_numbers_truths_choices_and_encoders_are_lists_but_not_paths_of_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(names(None, "model.lower_case=true,null")) == 2
    assert len(names(None, "train.precision=bf16, fp32")) == 2
    assert len(names(None, "model.name=bert-base-uncased,google/electra-base")) == 2
    assert names(None, "sources.0.train=a,b.json") == []
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a,b").mkdir()
    assert names(None, "model.name=a,b") == [], "a folder that is there"


WRONG = {
    "twice": (None, ["train.learning_rate=1e-5,0.00001"], "0.00001 is there twice; keep one"),
    "seed twice": ("1,01", [], "seeds=1,01: 01 is there twice"),
    "empty": (None, ["train.learning_rate=1e-5,,3e-5"], "a value on each side of each comma"),
    "end": ("1,", [], "seeds=1,: expected a value on each side of each comma"),
    "type": (None, ["train.epochs=1,two"], "train.epochs=two: expected a number such as 3e-5"),
    "both": ("1,2", ["train.seed=3"], "seeds=1,2: train.seed=3 is given as well"),
    "hostile": (None, ["train.epochs=1,$(touch x)"], "train.epochs=$(touch x): expected a number"),
    "many": (",".join(map(str, range(MAX_RUNS + 1))), [], f"expected at most {MAX_RUNS}"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said(case: str) -> None:
    seeds, overrides, message = WRONG[case]
    with pytest.raises(ProblemsError) as caught:
        expand("main", seeds, overrides)
    assert message in str(caught.value) and len(caught.value.problems) == 1


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(ProblemsError) as caught:
        expand("main", "a,1,1", ["train.epochs=x,y"])
    assert len(caught.value.problems) == 4
