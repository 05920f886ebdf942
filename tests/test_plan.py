"""The plan: a fingerprint of all that windows need, an index that outlives a killed launch."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from fitted import made_sentences, write_conll
from prepared_data import (
    made_articles,
    make_recipe,
    open_run,
    prepare,
    write_articles,
)

from qa_dist.data.tokenizer import load_tokenizer
from qa_dist.files import MARKER
from qa_dist.plan import Plan, make_plan
from qa_dist.recipe import Recipe
from qa_dist.records import InputError
from qa_dist.run_dir import RunDir
from qa_dist.windowing import span


@pytest.fixture
def encoder(words_encoder: Path) -> Path:
    return words_encoder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_articles(tmp_path / "train.json", made_articles(8))


@pytest.fixture
def recipe(encoder: Path, data: Path) -> Recipe:
    return make_recipe(encoder, data, heldout_fraction=0.25)


def fingerprint(root: Path, recipe: Recipe, **of_data: Any) -> str:
    return make_plan(replace(recipe, data=replace(recipe.data, **of_data)), root).fingerprint


_load_once = cache(load_tokenizer)


@pytest.fixture(autouse=True)
def load_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Load a tokenizer once in this file, not for each of some hundred shards."""
    monkeypatch.setattr(span, "load_tokenizer", _load_once)


def test_as_many_shards_as_there_are_questions_at_most(encoder: Path, tmp_path: Path) -> None:
    data = write_articles(tmp_path / "a.json", made_articles(2, paragraphs=1, questions=2))
    plan = make_plan(make_recipe(encoder, data, data), tmp_path)
    assert plan.prepared(100, 1).num_shards == {"train": 4, "dev": 4}
    prepared = prepare(tmp_path, make_recipe(encoder, data, data), num_shards=100)
    assert [shard.num_examples for shard in prepared.open("train").shards].count(0) == 2
    assert prepared.open("train").num_examples == 4


def test_a_complete_split_is_used_whatever_number_of_shards_is_asked_for(
    recipe: Recipe, tmp_path: Path
) -> None:
    prepared = prepare(tmp_path, recipe, 3)
    (prepared.folder / "train-00000-of-00003 (copy)").mkdir()
    plan = make_plan(recipe, tmp_path / "prepared")
    assert plan.prepared(5, 1).num_shards == prepared.num_shards
    (prepared.shards("train")[2] / MARKER).unlink()
    assert plan.prepared(5, 1).num_shards == {**prepared.num_shards, "train": 5}


def test_the_fingerprint_covers_what_windows_depend_on(
    recipe: Recipe, data: Path, encoder: Path, tmp_path: Path
) -> None:
    first = fingerprint(tmp_path, recipe)
    source = recipe.sources[0]
    others = {
        "windowing": fingerprint(tmp_path, recipe, window_overlap_tokens=15),
        "length": fingerprint(tmp_path, recipe, max_length_tokens=65),
        "question": fingerprint(tmp_path, recipe, max_question_tokens=31),
        "history": fingerprint(tmp_path, recipe, history_turns=1),
        "policy": fingerprint(tmp_path, recipe, on_bad_record="stop"),
        "subset": fingerprint(tmp_path, replace(recipe, sources=[replace(source, subset_seed=1)])),
        "case": fingerprint(
            tmp_path, replace(recipe, model=replace(recipe.model, lower_case=False))
        ),
    }
    data.write_bytes(data.read_bytes().replace(b"mat", b"hat", 1))
    others["one letter of the data"] = fingerprint(tmp_path, recipe)
    data.write_bytes(data.read_bytes().replace(b"hat", b"mat", 1))
    assert fingerprint(tmp_path, recipe) == first
    own = shutil.copytree(encoder, tmp_path / "own")
    renamed = replace(recipe, model=replace(recipe.model, name=str(own)))
    assert fingerprint(tmp_path, renamed) == first, "where the tokenizer lies doesn't matter"
    path = own / "tokenizer.json"
    path.write_text(path.read_text().replace("[UNK]", "[unk]"))
    others["tokenizer"] = fingerprint(tmp_path, renamed)
    assert len({first, *others.values()}) == 1 + len(others), others


def test_the_fingerprint_does_not_cover_shards_places_and_training(
    recipe: Recipe, data: Path, tmp_path: Path
) -> None:
    first = fingerprint(tmp_path, recipe)
    moved = tmp_path / "elsewhere.json"
    shutil.copy(data, moved)
    source = replace(recipe.sources[0], train=str(moved))
    same = [
        fingerprint(tmp_path, recipe, num_shards=7),
        fingerprint(tmp_path / "other", recipe),
        fingerprint(tmp_path, replace(recipe, sources=[source])),
        fingerprint(tmp_path, replace(recipe, name="x", train=replace(recipe.train, seed=1))),
    ]
    assert set(same) == {first}


def test_planning_writes_nothing(recipe: Recipe, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    make_plan(recipe, tmp_path / "prepared").prepared(2, 2)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("damage", ["facts", "index", "marker"])
def test_what_a_killed_launch_left_of_the_plan_is_mended(
    recipe: Recipe, tmp_path: Path, damage: str
) -> None:
    _, prepared = open_run(tmp_path, recipe)
    index = prepared.folder / "index" / "0-train.npz"
    whole = index.read_bytes()
    if damage == "facts":
        (prepared.folder / "facts.json").unlink()
    elif damage == "index":
        index.write_bytes(whole[:50])
    else:
        (prepared.folder / "index" / MARKER).unlink()
    prepare(tmp_path, recipe)
    assert index.read_bytes() == whole
    assert (prepared.folder / "facts.json").exists()


def test_windows_that_the_encoder_cannot_hold(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"max_length_tokens=129: .* positions for 128 tokens"):
        fingerprint(tmp_path, recipe, max_length_tokens=129)


def test_packing_of_a_family_that_cannot_be_packed(recipe: Recipe, tmp_path: Path) -> None:
    packed = replace(recipe, train=replace(recipe.train, packing="on"))
    fingerprint(tmp_path, packed)
    folder = shutil.copytree(recipe.model.name, tmp_path / "mobile")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "mobilebert"}))
    mobile = replace(packed, model=replace(recipe.model, name=str(folder)))
    with pytest.raises(InputError, match=r"packing=on: .*mobile is a mobilebert; bert, roberta"):
        fingerprint(tmp_path, mobile)
    fingerprint(tmp_path, replace(mobile, train=recipe.train))


def test_all_files_that_are_wrong_are_named_at_once(encoder: Path, tmp_path: Path) -> None:
    recipe = make_recipe(encoder, tmp_path / "none.json", tmp_path)
    with pytest.raises(InputError) as caught:
        make_plan(recipe, tmp_path)
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"sources.0.train={tmp_path}/none.json: there is no such file")
    assert second.startswith(f"sources.0.dev={tmp_path}: is a folder")


def test_the_plan_holds_no_more_than_paths_and_numbers(recipe: Recipe, tmp_path: Path) -> None:
    plan = make_plan(recipe, tmp_path)
    assert isinstance(plan, Plan)
    assert plan.num_questions == {"train": 24, "dev": 12, "heldout": 12}
    assert plan.folder == tmp_path / plan.fingerprint and len(plan.fingerprint) == 32
    assert plan.facts["sources"][0]["inputs"].keys() == {"train"}
    assert RunDir(tmp_path).status_file("prepare", 0).name == "prepare-0.json"


# ---- labels of words


def test_documents_and_sentences_are_different_data(encoder: Path, tmp_path: Path) -> None:
    path = write_conll(tmp_path / "train.conll", made_sentences(6), per_document=2)
    recipe = make_recipe(encoder, path, path, "ner")
    plans = [
        make_plan(
            replace(recipe, data=replace(recipe.data, document_context=by_document)), tmp_path
        )
        for by_document in (False, True)
    ]
    assert plans[0].fingerprint != plans[1].fingerprint
    assert [len(plan.indexes[0]["train"]) for plan in plans] == [6, 3]
    assert plans[0].num_questions == plans[1].num_questions == {"train": 6, "dev": 6}


def test_a_training_file_without_entities_is_refused_before_anything_is_written(
    encoder: Path, tmp_path: Path
) -> None:
    train = write_conll(tmp_path / "train.conll", [[("a", "O")]])
    dev = write_conll(tmp_path / "dev.conll", made_sentences(2))
    with pytest.raises(InputError, match=r"train\.conll: no sentence that can be used has an ent"):
        make_plan(make_recipe(encoder, train, dev, "ner"), tmp_path / "prepared")
    assert not (tmp_path / "prepared").exists()
    assert make_plan(make_recipe(encoder, dev, train, "ner"), tmp_path / "prepared").labels
