"""Reading YAML: text until a field says what it is; every fault has its line; nothing is run."""

from __future__ import annotations

from pathlib import Path

import pytest

from qa_dist.profile import Profile
from qa_dist.recipe import Recipe
from qa_dist.recipe_reading import MAX_FILE_BYTES, Reading, put_value, read_text, read_yaml
from qa_dist.records import InputError


def reading_of(text: str, root: type = Recipe) -> Reading:
    reading = Reading(root, "r.yaml")
    read_yaml(reading, text)
    return reading


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("train: {learning_rate: 1e-5}", "train.learning_rate", "1e-5"),
        ("train:\n  epochs: 3", "train.epochs", "3"),
        ("model: {lower_case: no}", "model.lower_case", "no"),
        ("model: {lower_case: null}", "model.lower_case", None),
        ("model: {lower_case: }", "model.lower_case", None),
        ("model: {lower_case: ~}", "model.lower_case", None),
        ("model: {name: no}", "model.name", "no"),  # YAML 1.1 would make it False
        ("model: {name: 'null'}", "model.name", "null"),
        ("model: {name: 2020-01-01}", "model.name", "2020-01-01"),
        ("sources:\n  - task: coqa\n  - dev: d", "sources.1.dev", "d"),
        ("train.epochs: 2", "train.epochs", "2"),
        ("sources[0].task: coqa", "sources.0.task", "coqa"),
    ],
)
def test_values_stay_text(text: str, path: str, value: str | None) -> None:
    reading = reading_of(text)
    assert reading.problems == []
    assert reading.values[path] == value


def test_an_empty_section_is_all_defaults() -> None:
    reading = reading_of("train:\n  # epochs: 3\nmodel:\n  name: x\n")
    assert reading.problems == [] and reading.values == {"model.name": "x"}


def test_values_know_their_line() -> None:
    reading = reading_of("# head\ntrain:\n  epochs: 3\n\n  seed: 1\n")
    assert reading.origins == {"train.epochs": "r.yaml:3", "train.seed": "r.yaml:5"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "r.yaml: is empty"),
        ("# only a comment\n", "r.yaml: is empty"),
        ("- task: coqa\n", "r.yaml: [...]: expected lines `key: value`"),
        ("just words\n", "r.yaml: just words: expected lines `key: value`"),
        ("train:\n\tseed: 1\n", "r.yaml:2:1: isn't valid YAML: found character '\\t'"),
        ("train: {seed: 1\n", "r.yaml:2:1: isn't valid YAML"),
        ("a: b: c\n", "r.yaml:1:5: isn't valid YAML: mapping values are not allowed here"),
        ("train: {seed: 1}\n---\nmodel: {}\n", "r.yaml:2:1: isn't valid YAML"),
        ("x: \x01\n", "r.yaml: isn't valid YAML"),
        ("[" * 600, "r.yaml"),
        ("train: [1]\n", "r.yaml:1: train=[...]: expected lines `key: value` below it"),
        ("train: 3\n", "r.yaml:1: train=3: expected lines `key: value` below it"),
        ("sources: {task: coqa}\n", "r.yaml:1: sources={...}: expected a list"),
        ("sources: [coqa]\n", "r.yaml:1: sources.0=coqa: expected lines `key: value`"),
        ("sources:\n  - [a]\n", "r.yaml:2: sources.0=[...]: expected lines `key: value`"),
        ("train:\n  epochs: [1]\n", "r.yaml:2: train.epochs=[...]: expected a number such as"),
        ("train:\n  epochs: {a: 1}\n", "r.yaml:2: train.epochs={...}: expected a number such"),
        ("train:\n  seed: 1.0\n", "r.yaml:2: train.seed=1.0: expected a whole number"),
        ("train:\n  seed: null\n", "r.yaml:2: train.seed=null: expected a whole number"),
        ("train: {seed: 1, seed: 2}\n", "r.yaml:1: train.seed=2: is given twice (first in line 1)"),
        (
            "train: {seed: 1}\ntrain: {}\n",
            "r.yaml:2: train={...}: is given twice (first in line 1)",
        ),
        ("train: {seed: 1}\ntrain.seed: 2\n", "r.yaml:2: train.seed=2: is given twice"),
        ("model:\n  name: ${oc.env:HOME}\n", "r.yaml:2: model.name=${oc.env:HOME}: expected no ${"),
        ("model:\n  name: ???\n", "r.yaml:2: model.name=???: expected text"),
        ('model:\n  name: "a\\nb"\n', "r.yaml:2: model.name='a\\nb': expected no line breaks"),
        ("model: &m {name: x}\ntrain:\n  <<: *m\n", "r.yaml:1: train.<<={...}: no such setting"),
        ("model: &m\n  name: *m\n", "r.yaml:1: model.name={...}: expected text"),
        ("? [a, b]\n: c\n", "r.yaml:2: [...]=c: no such setting"),
        ("model: {name: !!binary aGk=}\n", "r.yaml:1: model.name=aGk=: expected no YAML tag"),
    ],
)
def test_one_fault_one_line(text: str, problem: str) -> None:
    (found,) = reading_of(text).problems
    assert found.startswith(problem), found
    assert "\n" not in found


def test_a_bad_line_does_not_hide_the_next() -> None:
    text = "train:\n  lr: 1\n  epochs: x\nmodle:\n  name: x\ndata: []\n"
    problems = reading_of(text).problems
    assert [problem.split(":")[1] for problem in problems] == ["2", "3", "5", "6"]
    assert 'did you mean "train.learning_rate"?' in problems[0]


def test_nothing_is_run(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    for text in (
        f"model: {{name: !!python/object/apply:os.system ['touch {canary}']}}",
        f"model: !!python/object/new:os.system ['touch {canary}']",
        f"model: {{name: $(touch {canary})}}",
        f"model: {{_target_: os.system, command: touch {canary}}}",
        f"__import__('os').system('touch {canary}'): 1",
    ):
        reading_of(text)
    assert not canary.exists()
    (problem,) = reading_of("model: !!python/name:os.system {}").problems
    assert "expected no YAML tag" in problem


def test_files_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(b"name: caf\xe9\n")
    with pytest.raises(InputError, match=r"isn't UTF-8 \(byte 0xe9 at offset 9\)"):
        read_text(path)
    path.write_bytes(b" " * (MAX_FILE_BYTES + 1))
    with pytest.raises(InputError, match="expected a short YAML file"):
        read_text(path)
    with pytest.raises(InputError, match="can't be read"):
        read_text(tmp_path)
    with pytest.raises(InputError, match="can't be read"):
        read_text(tmp_path / "none.yaml")
    path.write_bytes(b"\xef\xbb\xbfname: x\r\n")  # as Windows editors save it
    reading = reading_of(read_text(path))
    assert reading.values == {"name": "x"}


@pytest.mark.parametrize(
    ("path", "text", "is_good"),
    [
        ("train.learning_rate", "1e-5", True),
        ("train.learning_rate", "3e5", True),
        ("train.learning_rate", ".5", True),
        ("train.learning_rate", "true", False),
        ("train.learning_rate", "1,5", False),
        ("train.learning_rate", "", False),
        ("train.max_steps", "4", True),
        ("train.max_steps", "4.0", False),
        ("train.max_steps", "1e3", False),
        ("train.max_steps", "0x10", False),
        ("train.max_steps", "9" * 4000, True),  # its range is check_recipe's business
        ("train.max_steps", "none", False),
        ("model.lower_case", "Yes", True),
        ("model.lower_case", "off", True),
        ("model.lower_case", "none", True),
        ("model.lower_case", "2", False),
        ("model.hidden_dropout", "null", True),
        ("model.name", "", True),
        ("model.name", "none", True),
    ],
)
def test_types(path: str, text: str, is_good: bool) -> None:
    reading = Reading(Recipe, "r.yaml")
    put_value(reading, path, text, "here")
    assert (not reading.problems) is is_good, reading.problems
    assert (path in reading.values) is is_good


def test_a_table_takes_texts_only() -> None:
    reading = reading_of("recipe_defaults:\n  train.seed: 1\n  model.name: x\n", Profile)
    assert reading.problems == []
    assert reading.values["recipe_defaults.train.seed"] == "1"
    (problem,) = reading_of("recipe_defaults: {train: {seed: 1}}", Profile).problems
    assert problem.startswith("r.yaml:1: recipe_defaults.train={...}: expected text")


def test_sentences_about_lost_values_are_known() -> None:
    reading = Reading(Recipe, "r.yaml")
    put_value(reading, "train.batch_window", "8", "here")  # meant train.batch_windows
    put_value(reading, "data.max_length_tokens", "many", "here")
    assert reading.is_about_blamed("train.batch_windows=32: expected")
    assert reading.is_about_blamed("data.window_overlap_tokens=9: at most data.max_length_tokens=3")
    assert not reading.is_about_blamed("train.batch=1: expected")
    assert not reading.is_about_blamed("data.max_length=1: expected")
