"""Tags predicted from shards: those of a plain forward pass, for each word of each sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fitted import fit, made_sentences, write_conll
from prepared_data import make_recipe, open_run
from runs import evaluate_all

from qa_dist.data.prepared import Prepared
from qa_dist.data.tokenizer import load_tokenizer
from qa_dist.evaluation.aggregate import aggregate
from qa_dist.files import read_json
from qa_dist.prepare import prepare_element
from qa_dist.run_dir import RunDir


def evaluated(
    root: Path, encoder: Path, num_shards: int = 1, **settings: Any
) -> tuple[RunDir, Prepared, Any]:
    root.mkdir()
    sentences = made_sentences(30)
    sentences.insert(4, [("\u200b", "B-PER")])
    sentences.append([("\u200b", "O"), ("\u200b", "O")])
    path = write_conll(root / "all.conll", sentences, per_document=6)
    recipe = make_recipe(encoder, path, path, "ner", **settings)
    run, prepared = open_run(root, recipe, num_shards)
    for element in range(len(prepared.elements())):
        prepare_element(run, element)
    model = fit(run, prepared)
    evaluate_all(run)
    return run, prepared, model


def rows_of(run: RunDir, prepared: Prepared) -> list[dict[str, Any]]:
    paths = [run.predictions_file(1, path.name) for path in prepared.shards("dev")]
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def test_tags_are_those_of_a_plain_forward_pass(tmp_path: Path, tiny_encoder: Path) -> None:
    run, prepared, model = evaluated(tmp_path / "run", tiny_encoder, max_length_tokens=128)
    rows = rows_of(run, prepared)
    assert len(rows) == 32 and len({tag for row in rows for tag in row["tags"]}) > 2
    assert [row["id"] for row in rows] == [f"sentence-{i:06d}" for i in range(32)]
    labels, backend = prepared.classes("dev"), load_tokenizer(str(tiny_encoder), None).backend
    for row in rows:
        encoding = backend.encode(row["words"], is_pretokenized=True)
        if len(encoding.ids) > 128:
            continue
        ids = torch.tensor([encoding.ids])
        with torch.no_grad():
            hidden = model.encoder(input_ids=ids, attention_mask=torch.ones_like(ids))[0]
            best = model.heads[0].logits(hidden)[0].argmax(-1).tolist()
        firsts = [
            encoding.word_ids.index(i) if i in encoding.word_ids else None
            for i in range(len(row["words"]))
        ]
        assert row["tags"] == ["O" if t is None else labels[best[t]] for t in firsts]
        assert row["exact"] == (row["tags"] == row["gold"])


def test_long_sentences_are_tagged_in_pieces(tmp_path: Path, tiny_encoder: Path) -> None:
    run, prepared, _ = evaluated(tmp_path / "run", tiny_encoder, max_length_tokens=40)
    table = prepared.open("dev")
    rows = rows_of(run, prepared)
    assert table.num_windows > len(rows) == 32
    assert all(len(row["tags"]) == len(row["words"]) == len(row["gold"]) for row in rows)
    assert max(len(row["words"]) for row in rows) > 60


@pytest.mark.parametrize("is_document", [False, True])
def test_scores_are_equal_to_the_last_digit_for_1_2_and_7_shards(
    tmp_path: Path, tiny_encoder: Path, is_document: bool
) -> None:
    found = []
    for num_shards in (1, 2, 7):
        root = tmp_path / str(num_shards)
        settings = {"document_context": is_document, "max_length_tokens": 64}
        run, prepared, _ = evaluated(root, tiny_encoder, num_shards, **settings)
        assert len(prepared.shards("dev")) == num_shards
        assert aggregate(run) == [1]
        scores = read_json(run.scores_file(1))
        del scores["fingerprint"]
        found.append((rows_of(run, prepared), scores))
    assert found[0] == found[1] == found[2]
    assert found[0][1]["num_questions"] == 32
    assert 0 < found[0][1]["scores"]["default"]["f1"] < 100
