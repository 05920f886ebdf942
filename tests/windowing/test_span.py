"""Windows of questions about contexts, as shards hold them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prepared_data import (
    logical_windows,
    made_articles,
    make_recipe,
    prepare,
    write_articles,
)

from qa_dist.data.shards import KIND_NULL, Shard
from qa_dist.recipe import Recipe


@pytest.fixture
def recipe(words_encoder: Path, tmp_path: Path) -> Recipe:
    data = write_articles(tmp_path / "train.json", made_articles(8))
    return make_recipe(words_encoder, data, heldout_fraction=0.25)


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
