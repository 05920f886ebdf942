"""Recipes from files and words: layers, all faults at once, hostile values, and the way back."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qa_dist.recipe import Recipe
from qa_dist.recipe_checks import CHOICES, LIMITS, check_recipe
from qa_dist.recipe_fields import leaf_paths
from qa_dist.recipe_loading import (
    MAY_CHANGE,
    list_recipes,
    load_profile,
    load_recipe,
    load_saved_recipe,
    profile_to_yaml,
    recipe_difference,
    recipe_from_yaml_text,
    recipe_to_yaml,
    split_arguments,
    with_profile_defaults,
)
from qa_dist.records import InputError

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "configs" / "recipes"
PROFILES = ROOT / "slurm" / "profiles"
NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml"))
LAUNCH_KEYS = ("recipe", "profile", "nodes", "gpus_per_node", "name", "stages", "dry_run", "fresh")
GOOD = """\
# A small recipe for tests
sources:
  - task: coqa
    train: train.json
    dev: dev.json
model:
  name: encoder
train:
  learning_rate: 1e-5
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "good.yaml").write_text(GOOD)
    return tmp_path


def faults_of(call: Any, *args: Any) -> list[str]:
    """The lines below the message's first."""
    with pytest.raises(InputError) as caught:
        call(*args)
    first, *lines = str(caught.value).split("\n")
    assert all(line.startswith("  ") for line in lines)
    count = "one thing is" if len(lines) == 1 else f"{len(lines)} things are"
    assert not lines or first == f"{count} wrong in what was asked for; nothing was started:"
    return [line.strip() for line in lines] or [first]


# ---- layers


def test_defaults_then_file_then_command_line(folder: Path) -> None:
    recipe = load_recipe("good", ["train.seed=7", "sources[0].dev=x=y.json"], folder)
    assert recipe.name == "good"
    assert recipe.data == Recipe().data  # defaults
    assert recipe.train == replace(Recipe().train, learning_rate=1e-5, seed=7)
    assert recipe.sources[0].dev == "x=y.json"
    louder = load_recipe("good", ["train.learning_rate=2e-5"], folder)
    assert louder.train.learning_rate == 2e-5


@pytest.mark.parametrize("form", ["sources.0.train", "sources[0].train"])
def test_both_forms_of_an_index(folder: Path, form: str) -> None:
    assert load_recipe("good", [f"{form}=new.json"], folder).sources[0].train == "new.json"


def test_null_and_words_on_the_command_line(folder: Path) -> None:
    recipe = load_recipe(
        "good", ["model.attention_dropout=null", "model.lower_case=no", "model.name=null"], folder
    )
    assert recipe.model.attention_dropout is None
    assert recipe.model.lower_case is False
    assert recipe.model.name == "null"


def test_a_path_works_as_well_as_a_name(folder: Path) -> None:
    by_path = load_recipe(str(folder / "good.yaml"), [], RECIPES)
    assert by_path == load_recipe("good", [], folder)


# ---- all faults at once


def test_faults_of_file_words_and_relations_come_together(folder: Path) -> None:
    (folder / "bad.yaml").write_text(
        GOOD.replace("learning_rate: 1e-5", "lr: 1e-5\n  epochs: 0\n  epochs: 2") + "modle: {}\n"
    )
    words = ["train.seed=soon", "data.window_overlap_tokens=400", "history=3", "nonsense"]
    faults = faults_of(load_recipe, "bad", words, folder)
    path = folder / "bad.yaml"
    wanted = [
        f'{path}:9: train.lr=1e-5: no such setting; did you mean "train.learning_rate"?',
        f"{path}:11: train.epochs=2: is given twice (first in line 10); keep one",
        f"{path}:12: modle={{...}}: no such setting",
        "command line: train.seed=soon: expected a whole number such as 4 (Seeds order, dropout",
        'command line: history=3: no such setting; did you mean "data.history_turns"?',
        "command line: nonsense: expected key=value",
        "command line: data.window_overlap_tokens=400: expected less than data.max_length_tokens",
    ]
    for fault in wanted:
        assert any(found.startswith(fault) for found in faults), (fault, faults)
    assert len(faults) == len(wanted)


def test_ranges_name_the_line_they_come_from(folder: Path) -> None:
    (folder / "bad.yaml").write_text(GOOD.replace("1e-5", "15"))
    (fault,) = faults_of(load_recipe, "bad", [], folder)
    where = f"{folder}/bad.yaml:9"
    assert (
        fault == f"{where}: train.learning_rate=15.0: expected a rate, more than 0 and less than 1"
    )


def test_a_lost_value_is_not_missed_twice(folder: Path) -> None:
    (folder / "bad.yaml").write_text(GOOD.replace("model:\n  name", "modle:\n  name"))
    (fault,) = faults_of(load_recipe, "bad", [], folder)
    assert 'did you mean "model.name"?' in fault
    (folder / "bad.yaml").write_bytes(b"\xff\xfe")
    faults = faults_of(load_recipe, "bad", ["train.seed=x"], folder)
    assert len(faults) == 2 and "isn't UTF-8" in faults[0] and "train.seed=x" in faults[1]


@pytest.mark.parametrize(
    ("word", "start"),
    [
        ("train=5", "train=5: expected its parts, one by one: train.epochs=..."),
        ("sources=x", "sources=x: expected its parts, one by one: sources.0.task=..."),
        ("sources.0=x", "sources.0=x: expected its parts, one by one: sources.0.task=..."),
        ("sources.1.task=coqa", "sources.1.train=: expected a local file or a hub name"),
        ("sources.5.task=coqa", "sources.5: expected sources.1 first"),
        ("sources.-1.task=coqa", "sources.-1.task=coqa: no such setting"),
        (
            "train.precision=fp16",
            "train.precision=fp16: expected one of auto, bf16, fp32; fp16 over",
        ),
        ("model.name=${oc.env:USER}", "model.name=${oc.env:USER}: expected no ${...}: nothing is"),
        ("=5", "=5: no such setting"),
    ],
)
def test_bad_words(folder: Path, word: str, start: str) -> None:
    assert any(start in fault for fault in faults_of(load_recipe, "good", [word], folder))


def test_a_key_given_twice_in_two_forms(folder: Path) -> None:
    words = ["sources.0.dev=a", "sources[0].dev=b"]
    assert faults_of(load_recipe, "good", words, folder) == [
        "command line: sources[0].dev=b: is given twice; keep one"
    ]
    (fault,) = faults_of(split_arguments, words, LAUNCH_KEYS)
    assert fault.endswith("is given twice; keep one")


# ---- names


def test_an_unknown_recipe_gets_a_suggestion() -> None:
    (fault,) = faults_of(load_recipe, "coqa_elektra", [], RECIPES)
    assert 'did you mean "coqa_electra"? recipes: academic_qwen_qlora, coqa_' in fault
    (fault,) = faults_of(load_profile, "debugg", PROFILES)
    assert 'did you mean "debug"? profiles: a100x8, cpu, debug' in fault


HOSTILE_NAMES = [
    "../good",
    "..",
    "/etc/passwd",
    "a/b",
    "a\nb",
    "a b",
    "a'b",
    'a"b',
    "a\\b",
    "%j",
    "$(touch canary)",
    "`touch canary`",
    "x; touch canary",
    "x" * 300,
    "",
    "-rf",
    ".hidden",
    "ünï",
    "a\x00b",
    "good\n.yaml",
]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_hostile_recipe_names_are_refused(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (fault,) = faults_of(load_recipe, name, [], folder)
    assert fault.startswith("recipe=") and fault.isprintable() and len(fault) < 250
    assert [path.name for path in folder.iterdir()] == ["good.yaml"]


@pytest.mark.parametrize("name", ["a b.yaml", "x'.yaml", "-x.yaml", "%j.yaml"])
def test_a_files_name_becomes_a_folder_so_it_is_checked(folder: Path, name: str) -> None:
    (folder / name).write_text(GOOD)
    (fault,) = faults_of(load_recipe, str(folder / name), [], folder)
    assert "a name starts with a letter or digit" in fault


@pytest.mark.parametrize(
    "value",
    ["a\nb", "a\rb", "a\x1b[2Jb", "x" * 4097, "${oc.env:SECRET}", "\u202egnp.json", "a\x00b"],
)
def test_hostile_values_are_refused(folder: Path, value: str) -> None:
    (fault,) = faults_of(load_recipe, "good", [f"sources.0.train={value}"], folder)
    assert fault.startswith("command line: sources.0.train=") and fault.isprintable()
    assert len(fault) < 400


def test_values_are_never_run_or_filled_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("SECRET", "canary-5417")
    payload = "$(touch canary) `touch canary` '; touch canary; #"
    recipe = load_recipe("good", [f"sources.0.train={payload}"], folder)
    assert recipe.sources[0].train == payload
    for text in ("$SECRET", "~/x", "{SECRET}", "%(SECRET)s", "__import__('os')"):
        recipe = load_recipe("good", [f"model.name={text}"], folder)
        assert recipe.model.name == text
        assert "canary-5417" not in recipe_to_yaml(recipe)
    assert (
        "canary-5417"
        not in faults_of(load_recipe, "good", ["model.name=${oc.env:SECRET}"], folder)[0]
    )
    assert [path.name for path in folder.iterdir()] == ["good.yaml"]


# ---- words


def test_split_arguments() -> None:
    words = ["recipe=coqa_bert", "nodes=2", "train.seed=a=b", "sources[0].dev="]
    assert split_arguments(words, LAUNCH_KEYS) == (
        {"recipe": "coqa_bert", "nodes": "2"},
        ["train.seed=a=b", "sources[0].dev="],
    )
    assert split_arguments([], LAUNCH_KEYS) == ({}, [])


def test_all_bad_words_at_once() -> None:
    words = ["train.lr=1", "modle.name=x", "nodes", "2", "node=2", "name=", "recipe=a", "recipe=b"]
    assert faults_of(split_arguments, [*words, "what", "--help"], LAUNCH_KEYS) == [
        'command line: train.lr=1: no such setting; did you mean "train.learning_rate"?',
        'command line: modle.name=x: no such setting; did you mean "model.name"?',
        "command line: nodes 2: expected nodes=2",
        'command line: node=2: no such setting; did you mean "nodes"?',
        "command line: name=: expected a value after the =",
        "command line: recipe=b: recipe is given twice; keep one",
        "command line: what: expected key=value",
        "command line: --help: expected key=value",
    ]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(max_size=40), max_size=5))
def test_no_words_break_split_arguments(words: list[str]) -> None:
    try:
        launch, overrides = split_arguments(words, LAUNCH_KEYS)
    except InputError as error:
        assert all(line.isprintable() for line in str(error).split("\n"))
    else:
        assert len(launch) + len(overrides) == len(words)


# ---- there and back


def a_value_of(path: str) -> st.SearchStrategy[Any]:
    """Values that the field may take, relations aside."""
    table_key = path.replace("sources.0.", "sources.")
    if path == "model.lower_case":
        return st.sampled_from([None, True, False])
    if isinstance(_default_of(path), bool):
        return st.booleans()
    limits = LIMITS.get(table_key)
    if limits is None:
        letters = st.characters(exclude_categories=("Cc", "Cf", "Cs", "Zl", "Zp"))
        texts = st.text(letters, min_size=1, max_size=20)
        return texts.filter(lambda text: "${" not in text and text != "???")
    if isinstance(_default_of(path), int):
        return st.integers(int(limits.low), int(min(limits.high, 10**6)))
    return st.floats(
        limits.low,
        limits.high,
        exclude_min=limits.low_open,
        exclude_max=limits.high_open,
        allow_subnormal=False,
    )


def _default_of(path: str) -> Any:
    value: Any = load_recipe("tiny_coqa", [], RECIPES)
    for part in path.split("."):
        value = value[int(part)] if part.isdigit() else getattr(value, part)
    return value


FREE = [
    path
    for path in leaf_paths(Recipe)
    if path not in ("name", "train.only")  # which names one of the sources
    and path.replace("sources.0.", "sources.") not in CHOICES
]


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_every_value_comes_back_from_words_and_from_yaml(data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(FREE))
    value = data.draw(a_value_of(path))
    text = "null" if value is None else str(value)
    try:
        recipe = load_recipe("tiny_coqa", [f"{path}={text}"], RECIPES)
    except InputError as error:
        # alone, every value is fine: only its relation to another, which is named, may be wrong
        assert len([other for other in leaf_paths(Recipe) if other in str(error)]) >= 2
        return
    found: Any = recipe
    for part in path.split("."):
        found = found[int(part)] if part.isdigit() else getattr(found, part)
    assert found == value and type(found) is (type(value) if found is not None else type(None))
    assert recipe_from_yaml_text(recipe_to_yaml(recipe)) == recipe


@pytest.mark.parametrize(
    "text", ["null", "~", "yes", "1e-5", "a: b", "# x", "- x", "'", " x ", "日本"]
)
def test_awkward_texts_survive_yaml(folder: Path, text: str) -> None:
    recipe = load_recipe("good", [f"model.name={text}"], folder)
    path = folder / "saved.yaml"
    path.write_text(recipe_to_yaml(recipe), encoding="utf-8")
    assert load_saved_recipe(path) == recipe


def test_saved_yaml_is_whole_ordered_and_stable(folder: Path) -> None:
    recipe = load_recipe("good", [], folder)
    text = recipe_to_yaml(recipe)
    assert text == recipe_to_yaml(recipe_from_yaml_text(text))
    tops = [line.partition(":")[0] for line in text.splitlines() if line[0] not in " -"]
    assert tops == ["name", "sources", "data", "model", "train", "evaluation"]
    assert all(path.rpartition(".")[2] in text for path in leaf_paths(Recipe))


def test_a_saved_recipe_without_a_name_is_refused() -> None:
    (fault,) = faults_of(recipe_from_yaml_text, GOOD)
    assert "name=''" in fault


# ---- resuming


def test_only_what_leaves_training_alone_may_change(folder: Path) -> None:
    saved = load_recipe("good", [], folder)
    allowed = [
        "train.log_every_steps=1",
        "train.keep_checkpoints=9",
        "train.checkpoint_every_steps=7",
        "data.num_shards=3",
        "evaluation.n_best=5",
        "evaluation.batch_tokens=9999",
    ]
    assert recipe_difference(saved, saved) == []
    assert recipe_difference(saved, load_recipe("good", allowed, folder)) == []
    words = ["train.learning_rate=3e-05", "model.lower_case=false", "model.name=other"]
    assert recipe_difference(saved, load_recipe("good", [*allowed, *words], folder)) == [
        "model.name: 'encoder' -> 'other'",
        "model.lower_case: null -> False",
        "train.learning_rate: 1e-05 -> 3e-05",
    ]
    two = replace(saved, sources=[*saved.sources, *saved.sources])
    assert "sources.1.task: (none) -> 'coqa'" in recipe_difference(saved, two)


def test_the_room_for_answers_may_not_change_where_prompts_depend_on_it() -> None:
    for name, lines in (
        ("academic_qwen_qlora", ["evaluation.max_new_tokens: 128 -> 64"]),
        ("tiny_coqa", []),
    ):
        saved = load_recipe(name, ["evaluation.max_new_tokens=128"], RECIPES)
        asked = load_recipe(
            name, ["evaluation.max_new_tokens=64", "evaluation.tie_margin=0.2"], RECIPES
        )
        assert recipe_difference(saved, asked) == lines


@pytest.mark.parametrize("path", [p for p in FREE if not p.startswith("evaluation.")])
def test_every_other_setting_is_compared(path: str) -> None:
    # a new field is compared unless MAY_CHANGE names it, with a reason
    saved = load_recipe("tiny_coqa", [], RECIPES)
    section, _, name = path.replace("sources.0.", "sources.").partition(".")
    part = saved.sources[0] if section == "sources" else getattr(saved, section)
    changed = replace(part, **{name: "changed"})
    asked = replace(saved, **{section: [changed] if section == "sources" else changed})
    assert bool(recipe_difference(saved, asked)) is (path.replace(".0.", ".*.") not in MAY_CHANGE)


# ---- what is shipped


@pytest.mark.parametrize("path", sorted(PROFILES.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_profiles(path: Path) -> None:
    profile = load_profile(path.stem, PROFILES)
    assert profile.name == path.stem
    readme = (PROFILES.parent / "README.md").read_text()
    assert f"`{path.stem}`" in readme


@pytest.mark.parametrize("name", NAMES)
def test_shipped_recipes(name: str) -> None:
    recipe = load_recipe(name, [], RECIPES)
    assert recipe.name == name and check_recipe(recipe) == []
    assert recipe_from_yaml_text(recipe_to_yaml(recipe)) == recipe
    lines = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    assert 10 <= len(lines) <= 25 and max(map(len, lines)) <= 100
    head = " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))
    for word in ("Papers?", "Hardware", "Expected", "Run"):
        assert re.search(f"{word}: ", head), f"the head doesn't say {word}"
    assert f"python jobs/launch.py recipe={name}" in head
    load_recipe(name, with_profile_defaults([], load_profile("debug", PROFILES)), RECIPES)


def test_the_recipes_that_were_promised() -> None:
    assert set(NAMES) >= {
        "tiny_coqa",
        "coqa_bert",
        "coqa_albert",
        "coqa_roberta",
        "coqa_mobilebert",
        "coqa_tinybert",
        "coqa_electra",
        "squad1_bert",
        "squad2_spanbert",
        "squad2_spanbert_crf",
        "squad2_electra",
        "academic_qwen_qlora",
        "coqa_qwen_qlora",
    }
    spanbert = load_recipe("squad2_spanbert", [], RECIPES)
    train, data = spanbert.train, spanbert.data
    assert (data.max_length_tokens, data.window_overlap_tokens) == (384, 128)
    assert (train.epochs, train.batch_windows, train.learning_rate) == (6, 8, 3e-5)
    assert (train.weight_decay, train.warmup_steps, train.clip_norm) == (0.01, 500, 1.0)


def test_the_spanbert_recipes_differ_in_the_heads_line_only() -> None:
    def lines(name: str) -> list[str]:
        text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
        return [line for line in text.splitlines() if not line.startswith("#")]

    plain, crf = lines("squad2_spanbert"), lines("squad2_spanbert_crf")
    assert [line for line in crf if line not in plain] == ["  head: span_crf"]
    assert [line for line in crf if line != "  head: span_crf"] == plain
    recipes = [load_recipe(n, [], RECIPES) for n in ("squad2_spanbert", "squad2_spanbert_crf")]
    assert [recipe.model.head for recipe in recipes] == ["span", "span_crf"]
    assert [recipe.model.lower_case for recipe in recipes] == [False, False]
    alike = [replace(r, name="", model=replace(r.model, head="span")) for r in recipes]
    assert alike[0] == alike[1]


def test_list_recipes(folder: Path) -> None:
    (folder / "bare.yaml").write_bytes(b"a: \xff")
    assert list_recipes(folder) == [("bare", ""), ("good", "A small recipe for tests")]
    assert [name for name, head in list_recipes(RECIPES) if head] == NAMES
    assert list_recipes(folder / "none") == []


# ---- profiles


def test_profiles() -> None:
    debug, local = load_profile("debug", PROFILES), load_profile("local", PROFILES)
    assert debug.where == "process" and debug.recipe_defaults["train.max_steps"] == "2"
    assert local.where == "local" and local.recipe_defaults == {}
    assert load_profile("local", PROFILES, ["gpus_per_node=2"]).gpus_per_node == 2
    assert "recipe_defaults:\n  train.max_steps: '2'\n" in profile_to_yaml(debug)


def test_profile_faults_come_together(folder: Path) -> None:
    (folder / "p.yaml").write_text(
        "wher: local\ngpus_per_node: -5\nrecipe_defaults:\n  train.max_stps: 2\n  train.seed: x\n"
    )
    faults = faults_of(load_profile, "p", folder, ["timeout_min=0"])
    parts = [
        'wher=local: no such setting; did you mean "where"?',
        "p.yaml:2: gpus_per_node=-5: expected a number of GPUs",
        "command line: timeout_min=0: expected a number of minutes",
        'train.max_stps=2: no such setting; did you mean "train.max_steps"?',
        "train.seed=x: expected a whole number",
    ]
    assert len(faults) == len(parts)
    for part in parts:
        assert any(part in fault for fault in faults), part


def test_the_command_line_wins_over_a_profile(folder: Path) -> None:
    debug = load_profile("debug", PROFILES)
    words = ["train.max_steps=9", "sources[0].max_dev_examples=5"]
    recipe = load_recipe("good", with_profile_defaults(words, debug), folder)
    assert recipe.train.max_steps == 9
    assert recipe.sources[0].max_dev_examples == 5
    assert recipe.sources[0].max_train_examples == 64


def test_loading_is_light() -> None:
    code = (
        "import sys, qa_dist.recipe_loading; print(*{'torch', 'transformers'} & set(sys.modules))"
    )
    shown = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True)
    assert shown.strip() == ""
