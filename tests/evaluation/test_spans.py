"""What a row of an extractive head holds: candidates, limits, and no answer."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from runs import (
    evaluate_all,
    rows_of,
)

from qa_dist.data.prepared import read_prepared
from qa_dist.data.shards import Shard
from qa_dist.evaluation.elements import marker_file
from qa_dist.files import read_json
from qa_dist.run_dir import RunDir

NewRun = Callable[..., RunDir]


def test_each_question_of_the_shard_has_one_row_in_its_order(evaluated: RunDir) -> None:
    for path in read_prepared(evaluated).shards("dev"):
        shard = Shard(path)
        ids = [shard.example(i)["id"] for i in range(shard.num_examples)]
        lines = evaluated.predictions_file(8, path.name).read_text().splitlines()
        assert [json.loads(line)["id"] for line in lines] == ids
        marker = read_json(marker_file(evaluated, 8, path.name))
        assert marker["rows"] == len(ids) > 0


def test_a_question_of_several_windows_gets_its_best_candidate_of_all(new_run: NewRun) -> None:
    run = new_run("coqa", 1)
    shard = Shard(read_prepared(run).shards("dev")[0])
    assert shard.num_windows > shard.num_examples, "contexts are longer than a window"
    evaluate_all(run)
    for row in rows_of(run):
        scores = [score for _, score, _ in row["n_best"]]
        assert scores == sorted(scores, reverse=True) and row["n_best"][0][0] == row["text"]
        spans = [tuple(span) for _, _, span in row["n_best"] if span]
        assert len(set(spans)) == len(spans), "overlapping windows offer a span once"


def test_a_span_is_the_text_of_its_context(evaluated: RunDir) -> None:
    checked = 0
    for path in read_prepared(evaluated).shards("dev"):
        shard = Shard(path)
        lines = evaluated.predictions_file(8, path.name).read_text().splitlines()
        for number, line in enumerate(lines):
            context = shard.context_text(int(shard["example_context"][number]))
            for text, _, span in json.loads(line)["n_best"]:
                if span:
                    assert context[slice(*span)] == text
                    checked += 1
    assert checked > 50


@pytest.mark.parametrize("head", ["span", "span_crf"])
def test_candidates_keep_to_the_recipes_limits(new_run: NewRun, head: str) -> None:
    limits = ("evaluation.n_best=9", "evaluation.max_answer_tokens=2")
    run = new_run("squad_v2", 1, *limits, f"model.head={head}")
    evaluate_all(run)
    rows = rows_of(run)
    assert 3 < max(len(row["n_best"]) for row in rows) <= 9
    assert all(len(text.split()) <= 2 for row in rows for text, _, _ in row["n_best"])
    is_log_p = all(row["n_best"][0][1] < 0 for row in rows if row["n_best"])
    assert is_log_p == (head == "span_crf")


def test_no_answer_is_the_cls_token_in_squad_and_a_class_in_coqa(
    new_run: NewRun, evaluated: RunDir
) -> None:
    run = new_run("squad_v2", 1)
    evaluate_all(run)
    for row in rows_of(run):
        assert row["null_odds"] is not None
        assert all(span for _, _, span in row["n_best"]), "CLS itself is no candidate"
        assert row["null_exact"] in (0.0, 1.0)
    names = {text for row in rows_of(evaluated) for text, _, span in row["n_best"] if not span}
    assert names == {"yes", "no"}
