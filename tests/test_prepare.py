"""The prepare stage: the same windows in any number of shards, a fingerprint of all they need."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

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

from qa_dist import faults, source_files
from qa_dist import prepare as stage
from qa_dist.data.prepared import Prepared
from qa_dist.data.shards import ARRAYS, verify_shards
from qa_dist.data.tokenizer import load_tokenizer
from qa_dist.files import MARKER, delete_folder, read_json
from qa_dist.prepare import prepare_element, summarize
from qa_dist.recipe import Recipe, Source
from qa_dist.records import InputError
from qa_dist.source_files import source_digest
from qa_dist.windowing import span


@pytest.fixture
def encoder(words_encoder: Path) -> Path:
    return words_encoder


_load_once = cache(load_tokenizer)


@pytest.fixture(autouse=True)
def load_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Load a tokenizer once in this file, not for each of some hundred shards."""
    monkeypatch.setattr(span, "load_tokenizer", _load_once)


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


def test_a_finished_shard_is_left_alone(recipe: Recipe, tmp_path: Path) -> None:
    run, prepared = open_run(tmp_path, recipe, 2)
    for element in range(len(prepared.elements())):
        prepare_element(run, element)
    shards = [path / ARRAYS for split in prepared.num_shards for path in prepared.shards(split)]
    before = [path.stat().st_ino for path in shards]
    broken = shards[1]
    broken.write_bytes(broken.read_bytes()[:-1])
    for element in range(len(prepared.elements())):
        prepare_element(run, element)
        assert read_json(run.status_file("prepare", element))["state"] == "done"
    after = [path.stat().st_ino for path in shards]
    assert [a == b for a, b in zip(before, after, strict=True)] == [p != broken for p in shards]
    verify_shards(prepared.shards("train"))


# ---- Fingerprint ----


# ---- The saved plan ----


def test_a_damaged_index_does_not_stop_a_worker(recipe: Recipe, tmp_path: Path) -> None:
    run, prepared = open_run(tmp_path, recipe)
    index = prepared.folder / "index" / "0-train.npz"
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
    for element in range(len(prepared.elements())):
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


LONG_AGO_S = 1_000_000_000


def test_an_input_that_looks_the_same_is_not_read_again(
    recipe: Recipe, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each element of an array would read all of it."""
    os.utime(data, (LONG_AGO_S, LONG_AGO_S))
    run, prepared = open_run(tmp_path, recipe)
    hashed: list[str] = []

    def digest(source: Source, file: str) -> str:
        hashed.append(file)
        return source_digest(source, file)

    monkeypatch.setattr(source_files, "source_digest", digest)
    prepare_element(run, 0)
    assert not hashed and not prepared.missing("train")
    delete_folder(prepared.shards("train")[0])
    data.touch()
    prepare_element(run, 0)
    assert hashed == ["train"] and not prepared.missing("train"), "its bytes are as they were"


def test_as_many_other_bytes_are_refused(recipe: Recipe, data: Path, tmp_path: Path) -> None:
    os.utime(data, (LONG_AGO_S, LONG_AGO_S))
    run, prepared = open_run(tmp_path, recipe)
    data.write_bytes(data.read_bytes().replace(b"and the end", b"and the END"))
    os.utime(data, (LONG_AGO_S, LONG_AGO_S + 1))
    with pytest.raises(InputError, match=r"train\.json: was changed after this run was launched"):
        prepare_element(run, 0)
    os.utime(data, (LONG_AGO_S, LONG_AGO_S))
    prepare_element(run, 0)  # control: size and time are what was looked at
    assert not prepared.missing("train")


def test_an_input_changed_just_before_the_launch_is_always_read(
    recipe: Recipe, data: Path, tmp_path: Path
) -> None:
    """Another change may have the same time: a file system's clock ticks slowly."""
    data.touch()
    changed_ns = data.stat().st_mtime_ns
    run, _ = open_run(tmp_path, recipe)
    data.write_bytes(data.read_bytes().replace(b"and the end", b"and the END"))
    os.utime(data, ns=(changed_ns, changed_ns))
    with pytest.raises(InputError, match=r"train\.json: was changed after this run was launched"):
        prepare_element(run, 0)


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
