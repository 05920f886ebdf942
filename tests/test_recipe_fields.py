"""Settings by their full key: the docstrings of help, and what a typo may have meant."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qa_dist.profile import Profile
from qa_dist.recipe import Recipe
from qa_dist.recipe_fields import (
    OTHER_NAMES,
    describe_fields,
    did_you_mean,
    expected,
    find_slot,
    leaf_paths,
    plain_path,
    slots,
)


def test_every_setting_is_described() -> None:
    docs = {doc.path: doc for doc in describe_fields()}
    assert list(docs) == leaf_paths(Recipe)
    assert all(doc.doc for doc in docs.values()), "a field without a docstring has no help"
    rate = docs["train.learning_rate"]
    assert rate == ("train.learning_rate", "float", "3e-05", "Highest rate, after the warm-up.")
    assert docs["model.lower_case"].default == "null"
    assert docs["data.on_bad_record"].doc.startswith('"skip": drop')
    assert all(doc.doc for doc in describe_fields(Profile))


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("train.lr", "train.learning_rate"),
        ("lr", "train.learning_rate"),
        ("learning_rate", "train.learning_rate"),
        ("--train.learning-rate", "train.learning_rate"),
        ("trian.learning_rate", "train.learning_rate"),
        ("data.learning_rate", "train.learning_rate"),
        ("TRAIN.EPOCHS", "train.epochs"),
        ("epoch", "train.epochs"),
        ("modle.name", "model.name"),
        ("model.nmae", "model.name"),
        ("doc_stride", "data.window_overlap_tokens"),
        ("history", "data.history_turns"),
        ("source.0.train", "sources.0.train"),
        ("sources[2].trian", "sources.2.train"),
        ("node", "nodes"),
        ("receipe", "recipe"),
    ],
)
def test_a_typo_is_understood(key: str, meant: str) -> None:
    known = ["recipe", "nodes", *leaf_paths(Recipe)]
    assert did_you_mean(key, known) == f'; did you mean "{meant}"?'


def test_what_is_like_nothing_gets_a_list() -> None:
    assert (
        did_you_mean("_target_", leaf_paths(Recipe)) == "; jobs/launch.py --help lists all of them"
    )
    assert did_you_mean("qqq", ["nodes", "recipe"]) == "; there are nodes, recipe"


def test_other_suites_names_lead_to_settings_that_exist() -> None:
    assert set(OTHER_NAMES.values()) <= set(leaf_paths(Recipe))
    assert not set(OTHER_NAMES) & {path.rpartition(".")[2] for path in leaf_paths(Recipe)}


def test_paths() -> None:
    assert plain_path("sources[12].train") == "sources.12.train"
    assert find_slot(Recipe, "sources.12.train") is slots(Recipe)["sources.0.train"]
    assert find_slot(Recipe, "sources.1000.train") is None
    assert find_slot(Recipe, "sources.-1.train") is None
    assert find_slot(Recipe, "sources.train") is None
    item = find_slot(Profile, "recipe_defaults.train.max_steps")
    assert item is not None and item.kind == "value" and item.takes is str


def test_expected_names_type_and_unit() -> None:
    slot = find_slot(Recipe, "model.lower_case")
    assert slot is not None and expected(slot).startswith("true or false or null (Whether")
    slot = find_slot(Recipe, "train.max_steps")
    assert slot is not None and expected(slot).startswith("a whole number such as 4 (Stop after")


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=300))
def test_no_key_breaks_the_suggestion(key: str) -> None:
    assert did_you_mean(key, leaf_paths(Recipe)).startswith("; ")
