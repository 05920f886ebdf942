"""The prepare stage: the same windows in any number of shards, a fingerprint of all they need."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prepared_data import (
    logical_windows,
    made_articles,
    make_recipe,
    open_run,
    prepare,
    question,
    write_articles,
)

from qa_dist import faults
from qa_dist import prepare as stage
from qa_dist.data.prepared import Prepared
from qa_dist.data.shards import ARRAYS, KIND_NULL, Shard, verify_shards
from qa_dist.data.tokenizer import load_tokenizer
from qa_dist.files import MARKER, read_json
from qa_dist.prepare import Plan, elements, make_plan, prepare_element, save_plan, summarize
from qa_dist.recipe import Recipe
from qa_dist.records import InputError
from qa_dist.run_dir import RunDir


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer of a few words, and a config: no weights, which aren't needed."""
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertTokenizerFast

    trained = BertWordPieceTokenizer(lowercase=True)
    texts = [p["context"] for article in made_articles(8) for p in article] * 3
    trained.train_from_iterator(texts, vocab_size=200, min_frequency=1, show_progress=False)
    folder = tmp_path_factory.mktemp("encoder")
    BertTokenizerFast(tokenizer_object=trained._tokenizer).save_pretrained(folder)
    config = {"model_type": "bert", "max_position_embeddings": 128}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


_load_once = cache(load_tokenizer)


@pytest.fixture(autouse=True)
def load_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Load a tokenizer once in this file, not for each of some hundred shards."""
    monkeypatch.setattr(stage, "load_tokenizer", _load_once)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_articles(tmp_path / "train.json", made_articles(8))


@pytest.fixture
def recipe(encoder: Path, data: Path) -> Recipe:
    return make_recipe(encoder, data, heldout_fraction=0.25)


def all_windows(prepared: Prepared) -> dict[str, list[dict[str, Any]]]:
    return {split: list(logical_windows(prepared, split)) for split in prepared.num_shards}


def ids(prepared: Prepared, split: str) -> list[str]:
    shards = prepared.open(split).shards
    return [shard.example(i)["id"] for shard in shards for i in range(shard.num_examples)]


def fingerprint(root: Path, recipe: Recipe, **of_data: Any) -> str:
    return make_plan(replace(recipe, data=replace(recipe.data, **of_data)), root).fingerprint


# ---- Shards ----


def test_the_content_does_not_depend_on_the_number_of_shards(
    recipe: Recipe, tmp_path: Path
) -> None:
    made = {num: prepare(tmp_path / str(num), recipe, num) for num in (1, 2, 7)}
    assert [prepared.num_shards["train"] for prepared in made.values()] == [1, 2, 7]
    assert len({prepared.fingerprint for prepared in made.values()}) == 1
    windows = {num: all_windows(prepared) for num, prepared in made.items()}
    assert windows[1] == windows[2] == windows[7]
    assert {split: len(rows) > 5 for split, rows in windows[1].items()} == {
        "train": True,
        "dev": True,
        "heldout": True,
    }
    names = ("examples", "windows", "without_answer", "dropped", "ceiling_em", "tokens_max")
    for split in ("train", "dev", "heldout"):
        first, second = (summarize(made[num], split) for num in (1, 7))
        assert [first[name] for name in names] == [second[name] for name in names]


def test_shards_made_twice_are_byte_identical(recipe: Recipe, tmp_path: Path) -> None:
    first, second = (prepare(tmp_path / name, recipe, 3) for name in ("a", "b"))
    for split in first.num_shards:
        for one, other in zip(first.shards(split), second.shards(split), strict=True):
            for name in (ARRAYS, MARKER):
                assert (one / name).read_bytes() == (other / name).read_bytes()


def test_windows_cover_each_context_and_say_what_they_hold(recipe: Recipe, tmp_path: Path) -> None:
    prepared = prepare(tmp_path, recipe)
    by_id: dict[str, list[dict[str, Any]]] = {}
    for row in logical_windows(prepared, "train"):
        by_id.setdefault(row["id"], []).append(row)
    for rows in by_id.values():
        covered = sorted({at for row in rows for at in range(row["from"], row["to"])})
        assert covered == list(range(len(rows[0]["context_tokens"])))
        for row in rows:
            size = row["to"] - row["from"]
            assert row["length"] == 3 + len(row["question_tokens"]) + size <= 64
            if row["kind"] != KIND_NULL:
                start, end = row["chars"][row["start"]][0], row["chars"][row["end"]][1]
                assert row["context"][start:end] == row["answers"][0]
        answers = rows[0]["answers"]
        assert any(row["kind"] != KIND_NULL for row in rows) == bool(answers)
    assert max(map(len, by_id.values())) > 1, "control: some contexts need several windows"


def test_context_and_question_are_stored_once(recipe: Recipe, tmp_path: Path) -> None:
    shard = Shard(prepare(tmp_path, recipe).shards("train")[0])
    num_contexts = len(shard["context_text_offsets"]) - 1
    assert num_contexts * 3 == shard.num_examples < shard.num_windows


def test_a_finished_shard_is_left_alone(recipe: Recipe, tmp_path: Path) -> None:
    run, prepared = open_run(tmp_path, recipe, 2)
    for element in range(len(elements(prepared))):
        prepare_element(run, element)
    shards = [path / ARRAYS for split in prepared.num_shards for path in prepared.shards(split)]
    before = [path.stat().st_ino for path in shards]
    broken = shards[1]
    broken.write_bytes(broken.read_bytes()[:-1])
    for element in range(len(elements(prepared))):
        prepare_element(run, element)
        assert read_json(run.status_file("prepare", element))["state"] == "done"
    after = [path.stat().st_ino for path in shards]
    assert [a == b for a, b in zip(before, after, strict=True)] == [p != broken for p in shards]
    verify_shards(prepared.shards("train"))


def test_as_many_shards_as_there_are_questions_at_most(encoder: Path, tmp_path: Path) -> None:
    data = write_articles(tmp_path / "a.json", made_articles(2, paragraphs=1, questions=2))
    plan = make_plan(make_recipe(encoder, data, data), tmp_path)
    assert plan.prepared(100, 1).num_shards == {"train": 4, "dev": 4}
    prepared = prepare(tmp_path, make_recipe(encoder, data, data), num_shards=100)
    assert [shard.num_examples for shard in prepared.open("train").shards].count(0) == 2
    assert len(ids(prepared, "train")) == 4


def test_a_complete_split_is_used_whatever_number_of_shards_is_asked_for(
    recipe: Recipe, tmp_path: Path
) -> None:
    prepared = prepare(tmp_path, recipe, 3)
    (prepared.folder / "train-00000-of-00003 (copy)").mkdir()
    plan = make_plan(recipe, tmp_path / "prepared")
    assert plan.prepared(5, 1).num_shards == prepared.num_shards
    (prepared.shards("train")[2] / MARKER).unlink()
    assert plan.prepared(5, 1).num_shards == {**prepared.num_shards, "train": 5}


# ---- Fingerprint ----


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


# ---- The saved plan ----


def test_the_saved_index_is_used_again(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(recipe, tmp_path)
    save_plan(plan)
    monkeypatch.setattr(stage, "_open", None)  # reading the data again would fail
    again = make_plan(recipe, tmp_path)
    for name, values in plan.indexes["train"].arrays().items():
        assert np.array_equal(values, again.indexes["train"].arrays()[name])
    assert again.num_questions == plan.num_questions


@pytest.mark.parametrize("damage", ["facts", "index", "marker"])
def test_what_a_killed_launch_left_of_the_plan_is_mended(
    recipe: Recipe, tmp_path: Path, damage: str
) -> None:
    _, prepared = open_run(tmp_path, recipe)
    index = prepared.folder / "index" / "train.npz"
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


def test_a_damaged_index_does_not_stop_a_worker(recipe: Recipe, tmp_path: Path) -> None:
    run, prepared = open_run(tmp_path, recipe)
    index = prepared.folder / "index" / "train.npz"
    data = bytearray(index.read_bytes())
    data[len(data) // 2] ^= 1
    index.write_bytes(data)
    prepare_element(run, 0)
    assert ids(prepared, "train")


# ---- Splits and subsets ----


def test_splits_share_no_article(recipe: Recipe, data: Path, tmp_path: Path) -> None:
    windows = all_windows(prepare(tmp_path, recipe))
    groups = {split: {row["group"] for row in rows} for split, rows in windows.items()}
    sizes = {split: len(names) for split, names in groups.items()}
    assert sizes == {"train": 4, "dev": 2, "heldout": 2}
    assert len(set().union(*groups.values())) == 8
    articles = read_json(data)["data"]
    asked = {q["id"] for a in articles for p in a["paragraphs"] for q in p["qas"]}
    found = [row["id"] for rows in windows.values() for row in rows]
    assert set(found) == asked


@pytest.mark.parametrize("num_shards", [1, 3])
def test_a_subset_has_exactly_the_size_asked_for(
    encoder: Path, data: Path, tmp_path: Path, num_shards: int
) -> None:
    recipe = make_recipe(encoder, data, data, max_train_examples=10, max_dev_examples=7)
    prepared = prepare(tmp_path, recipe, num_shards)
    chosen = ids(prepared, "train")
    assert len(set(chosen)) == len(chosen) == 10
    assert len(set(ids(prepared, "dev"))) == 7
    other = replace(recipe, sources=[replace(recipe.sources[0], subset_seed=5)])
    assert ids(prepare(tmp_path, other), "train") != chosen, "another seed draws others"


# ---- Bad records ----


def bad_articles() -> list[list[dict[str, Any]]]:
    """Return articles in whose second one a question lies about where its answer stands."""
    articles = made_articles(4, paragraphs=1, questions=2)
    context = articles[1][0]["context"]
    articles[1][0]["qas"].append(question("lie", context, "isn't there", start=3))
    return articles


def test_bad_records_are_skipped_counted_and_named(encoder: Path, tmp_path: Path) -> None:
    data = write_articles(tmp_path / "bad.json", bad_articles())
    good = write_articles(tmp_path / "good.json", made_articles(2, paragraphs=1))
    for num_shards in (1, 2):
        prepared = prepare(tmp_path / str(num_shards), make_recipe(encoder, data, good), num_shards)
        summary = summarize(prepared, "train")
        assert summary["examples"] == len(ids(prepared, "train")) == 8
        [(reason, (count, first))] = summary["dropped"].items()
        assert "isn't in the context" in reason and (count, first) == (1, ["lie"])


def test_bad_records_stop_where_asked(encoder: Path, tmp_path: Path) -> None:
    data = write_articles(tmp_path / "bad.json", bad_articles())
    good = write_articles(tmp_path / "good.json", made_articles(2, paragraphs=1))
    run, prepared = open_run(tmp_path, make_recipe(encoder, data, good, on_bad_record="stop"), 2)
    results = []
    for element in range(len(elements(prepared))):
        try:
            prepare_element(run, element)
            results.append("")
        except InputError as error:
            results.append(str(error))
    assert [bool(result) for result in results] == [True, False, False, False]
    assert "lie" in results[0] and "isn't in the context" in results[0]
    assert "data.on_bad_record=skip" in results[0]
    assert [path.name for path in prepared.missing("train")] == ["train-00000-of-00002"]
    assert not [path for path in prepared.folder.iterdir() if path.name.startswith(".")]


def test_doubled_ids_of_different_shards_are_counted(encoder: Path, tmp_path: Path) -> None:
    articles = made_articles(2, paragraphs=1)
    articles[1][0]["qas"][0]["id"] = articles[0][0]["qas"][0]["id"]
    data = write_articles(tmp_path / "a.json", articles)
    prepared = prepare(tmp_path, make_recipe(encoder, data, data), num_shards=2)
    assert summarize(prepared, "dev")["doubled_ids"] == 1
    plain = write_articles(tmp_path / "b.json", made_articles(2, paragraphs=1))
    other = prepare(tmp_path, make_recipe(encoder, plain, plain), num_shards=2)
    assert summarize(other, "dev")["doubled_ids"] == 0


# ---- Faults ----


def test_p4_input_changed_between_plan_and_worker(
    recipe: Recipe, data: Path, tmp_path: Path
) -> None:
    run, prepared = open_run(tmp_path, recipe)
    data.write_bytes(data.read_bytes() + b"\n")
    with pytest.raises(InputError, match=r"train\.json: was changed after this run was launched"):
        prepare_element(run, 0)
    assert prepared.missing("train") == prepared.shards("train")


def test_a_full_disk_is_named_with_the_room_there_is(recipe: Recipe, tmp_path: Path) -> None:
    run, prepared = open_run(tmp_path, recipe)
    faults.arm("point=prepare.batch;action=enospc")
    try:
        with pytest.raises(InputError) as caught:
            prepare_element(run, 0)
    finally:
        faults.arm("")
    message = str(caught.value)
    assert message.startswith(f"{prepared.shards('train')[0]}: can't be written (No space left")
    assert "bytes are free there" in message and "prepared_dir=" in message
    assert not list(prepared.folder.glob(".train-*"))
    prepare_element(run, 0)
    assert prepared.missing("train") == []


def test_other_errors_pass_as_they_are(recipe: Recipe, tmp_path: Path) -> None:
    run, prepared = open_run(tmp_path, recipe)
    faults.arm("point=prepare.batch;action=raise")
    try:
        with pytest.raises(RuntimeError, match="injected"):
            prepare_element(run, 0)
    finally:
        faults.arm("")
    assert not list(prepared.folder.glob("*train-*"))


def test_windows_that_the_encoder_cannot_hold(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"max_length_tokens=129: .* positions for 128 tokens"):
        fingerprint(tmp_path, recipe, max_length_tokens=129)


def test_all_files_that_are_wrong_are_named_at_once(encoder: Path, tmp_path: Path) -> None:
    recipe = make_recipe(encoder, tmp_path / "none.json", tmp_path)
    with pytest.raises(InputError) as caught:
        make_plan(recipe, tmp_path)
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"sources.0.train={tmp_path}/none.json: there is no such file")
    assert second.startswith(f"sources.0.dev={tmp_path}: is a folder")


def test_a_heartbeat_says_how_far_it_is(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "_BATCH_PASSAGES", 2)
    beats: list[dict[str, Any]] = []
    monkeypatch.setattr(stage, "write_status", lambda path, facts: beats.append(dict(facts)))
    monkeypatch.setattr(stage.time, "monotonic", iter(range(10_000)).__next__)
    run, _ = open_run(tmp_path, recipe)
    prepare_element(run, 0)
    states = [(beat["state"], beat["step"], beat["of"]) for beat in beats]
    assert states[0] == ("running", 0, 0) and states[-1] == ("done", 8, 8)
    assert [step for _, step, _ in states[1:-1]] == [2, 4, 6, 8]
    windows: Sequence[int] = [beat["windows"] for beat in beats[1:]]
    assert 0 < windows[0] < windows[-1]


def test_the_plan_holds_no_more_than_paths_and_numbers(recipe: Recipe, tmp_path: Path) -> None:
    plan = make_plan(recipe, tmp_path)
    assert isinstance(plan, Plan)
    assert plan.num_questions == {"train": 24, "dev": 12, "heldout": 12}
    assert plan.folder == tmp_path / plan.fingerprint and len(plan.fingerprint) == 32
    assert plan.facts["inputs"].keys() == {"train"}
    assert RunDir(tmp_path).status_file("prepare", 0).name == "prepare-0.json"
