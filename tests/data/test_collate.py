"""Tensors of windows equal the fast tokenizer's own encoding of the pair; targets hit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prepared_data import logical_windows, make_recipe, prepare, question, write_articles

from qa_dist.data.collate import Batch, collate
from qa_dist.data.prepared import Prepared, read_template
from qa_dist.data.shard_writer import ShardWriter
from qa_dist.data.shards import KIND_CLASS, KIND_NULL, KIND_SPAN, Split, open_split
from qa_dist.records import PAD_MULTIPLE
from qa_dist.tasks import TASKS
from qa_dist.text.windows import PairTemplate

SAMPLE = Path(__file__).resolve().parents[2] / "qa_dist" / "sample"
LENGTH, OVERLAP = 96, 24
UNKNOWN = TASKS["coqa"].ANSWER_CLASSES.index("unknown")


@pytest.fixture(scope="module")
def coqa(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Some of the sample's conversations, in windows that are shorter than their stories."""
    recipe = make_recipe(
        tiny_encoder,
        SAMPLE / "coqa-train.json",
        SAMPLE / "coqa-dev.json",
        task="coqa",
        max_train_examples=60,
        max_dev_examples=40,
        max_length_tokens=LENGTH,
        window_overlap_tokens=OVERLAP,
        max_question_tokens=54,
    )
    return prepare(tmp_path_factory.mktemp("coqa"), recipe, num_shards=2)


def batch_of(split: Split, null_class: int | None = UNKNOWN) -> Batch:
    return collate(split, range(split.num_windows), read_template(split), null_class)


# ---- Against the tokenizer ----


def test_batches_are_what_the_fast_tokenizer_makes_of_the_pair(
    coqa: Prepared, tiny_encoder: Path
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    examples = {
        example.id: (*example.history[-4:], example.question)
        for example in sample_examples("coqa-dev.json")
    }
    split = coqa.open("dev")
    rows = list(logical_windows(coqa, "dev"))
    batch = batch_of(split)
    at = num_windows = num_with_history = 0
    while at < len(rows):
        row = rows[at]
        segments = examples[row["id"]]
        text = tokenizer.sep_token.join(segments)
        same = [other for other in rows if other["id"] == row["id"]]
        assert tokenizer(text, add_special_tokens=False).input_ids == row["question_tokens"]
        wanted = tokenizer(
            text,
            row["context"],
            truncation="only_second",
            max_length=LENGTH,
            stride=OVERLAP,
            return_overflowing_tokens=True,
            padding="max_length",
        )
        assert len(wanted.input_ids) == len(same)
        mask = torch.tensor(wanted.attention_mask).bool()  # (windows, T)
        rows_of = slice(at, at + len(same))
        assert batch.input_ids[rows_of].tolist() == wanted.input_ids
        assert batch.token_type_ids[rows_of].tolist() == wanted.token_type_ids
        assert batch.attention_mask is not None
        assert torch.equal(batch.attention_mask[rows_of], mask)
        assert batch.lengths[rows_of].tolist() == mask.sum(dim=1).tolist()
        sequence_ids = [wanted.sequence_ids(i) for i in range(len(same))]
        of_context = torch.tensor([[owner == 1 for owner in ids] for ids in sequence_ids])
        assert torch.equal(batch.candidate_mask[rows_of], of_context)
        num_with_history += len(segments) > 1
        num_windows += len(same)
        at += len(same)
    assert num_windows == split.num_windows > 50 and num_with_history > 20


def sample_examples(name: str) -> list[Any]:
    stories = json.loads((SAMPLE / name).read_text())["data"]
    passages = [
        TASKS["coqa"].read_passage(story, "", lambda *_: None, for_training=False)
        for story in stories
    ]
    return [example for passage in passages for example in passage.examples]


def test_targets_point_to_the_answers_text(coqa: Prepared, tiny_encoder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    targets = {example.id: example.target for example in sample_examples("coqa-train.json")}
    batch = batch_of(coqa.open("train"))
    width = batch.input_ids.shape[1]
    seen = dict.fromkeys(("span", "null", "yes", "no"), 0)
    for i, row in enumerate(logical_windows(coqa, "train")):
        start, end = int(batch.starts[i]), int(batch.ends[i])
        target = targets[row["id"]]
        if start >= width:
            kind = TASKS["coqa"].ANSWER_CLASSES[start - width]
            assert start == end
            assert kind == target.kind or kind == "unknown"
            seen["null" if kind == "unknown" else kind] += 1
            continue
        seen["span"] += 1
        assert target.kind == "span"
        assert batch.candidate_mask[i, start : end + 1].all()
        shift = int(batch.context_from[i] - batch.context_at[i])
        chars = row["chars"][start + shift][0], row["chars"][end + shift][1]
        assert chars == target.char_span, "all of the answer and nothing else"
        answer = row["context"][chars[0] : chars[1]]
        ids = batch.input_ids[i, start : end + 1].tolist()
        if tokenizer.unk_token_id not in ids:
            plain = tokenizer.backend_tokenizer.normalizer.normalize_str(answer)  # no accents
            assert tokenizer.decode(ids).replace(" ", "") == plain.replace(" ", "")
    assert min(seen.values()) > 0 and seen["span"] > 20, seen


def test_an_answer_is_a_target_only_where_all_of_it_is(tiny_encoder: Path, tmp_path: Path) -> None:
    words = [chr(ord("a") + i % 26) for i in range(90)]
    context = " ".join(words)
    answer, start = " ".join(words[30:50]), len(" ".join(words[:30])) + 1
    paragraph = {"context": context, "qas": [question("q", context, answer, start)]}
    data = write_articles(tmp_path / "data.json", [[paragraph]])
    recipe = make_recipe(
        tiny_encoder, data, data, max_length_tokens=48, window_overlap_tokens=16,
        max_question_tokens=8,
    )  # fmt: skip
    prepared = prepare(tmp_path, recipe)
    rows = list(logical_windows(prepared, "train"))
    assert all(len(row["context_tokens"]) == 90 for row in rows), "control: a token per letter"
    whole = [row["from"] <= 30 and row["to"] >= 50 for row in rows]
    partly = [row["from"] < 50 and row["to"] > 30 for row in rows]
    assert 0 < sum(whole) < sum(partly), "control: the answer is cut by some window"
    assert [row["kind"] == KIND_SPAN for row in rows] == whole
    batch = batch_of(prepared.open("train"), null_class=None)
    for i, row in enumerate(rows):
        if whole[i]:
            at = int(batch.context_at[i]) - row["from"]
            assert (int(batch.starts[i]), int(batch.ends[i])) == (30 + at, 49 + at)
        else:
            assert int(batch.starts[i]) == int(batch.ends[i]) == 0, "the CLS token"


# ---- By hand ----

BERT = PairTemplate((101,), (102,), (102,), (0, 0, 0, 1, 1), 0, 102, 0)
ROBERTA = PairTemplate((0,), (2, 2), (2,), (0, 0, 0, 0, 0), 0, 2, 1)
XLNET = PairTemplate((), (4,), (4, 3), (0, 0, 0, 1, 2), -1, 4, 5)


@pytest.fixture
def split(tmp_path: Path) -> Split:
    """Two shards: a context of tokens 20..25 in two windows, and one of 30..32; all kinds."""
    chars = np.arange(9)
    writer = ShardWriter(tmp_path / "a", 300)
    context = writer.add_context("abcdef", np.arange(20, 26), chars[:6], chars[1:7])
    example = writer.add_example(context, [11, 12], {"id": "q0"})
    writer.add_window(example, (0, 4), (KIND_SPAN, 1, 2), 9)
    writer.add_window(example, (2, 6), (KIND_NULL, 0, 0), 9)
    writer.finish()
    writer = ShardWriter(tmp_path / "b", 300)
    context = writer.add_context("ghi", np.arange(30, 33), chars[:3], chars[1:4])
    example = writer.add_example(context, [13], {"id": "q1"})
    writer.add_window(example, (0, 3), (KIND_CLASS + 1, 0, 2), 7)
    writer.add_window(example, (1, 3), (KIND_SPAN, 2, 2), 6)
    writer.finish()
    return open_split([tmp_path / "a", tmp_path / "b"])


def test_rows_are_put_together_and_padded(split: Split) -> None:
    batch = collate(split, [0, 3], BERT, null_class=None)
    rows = [[101, 11, 12, 102, 20, 21, 22, 23, 102], [101, 13, 102, 31, 32, 102]]
    assert batch.input_ids.tolist() == [row + [0] * (16 - len(row)) for row in rows]
    assert batch.token_type_ids[0].tolist() == [0] * 4 + [1] * 5 + [0] * 7
    assert batch.attention_mask is not None
    assert batch.attention_mask.sum(dim=1).tolist() == batch.lengths.tolist() == [9, 6]
    assert batch.num_tokens == 15
    assert batch.context_at.tolist() == [4, 3] and batch.context_from.tolist() == [0, 1]
    assert [*zip(batch.starts.tolist(), batch.ends.tolist(), strict=True)] == [(5, 6), (4, 4)]
    assert batch.candidate_mask.nonzero().tolist() == [
        *([0, at] for at in (0, 4, 5, 6, 7)),
        *([1, at] for at in (0, 3, 4)),
    ]


def test_targets_that_are_no_spans_lie_behind_the_width_or_at_cls(split: Split) -> None:
    with_class = collate(split, [1, 2], BERT, null_class=2)
    width = with_class.input_ids.shape[1]
    assert with_class.starts.tolist() == with_class.ends.tolist() == [width + 2, width + 1]
    assert not with_class.candidate_mask[:, 0].any(), "CLS is no candidate where a class says null"
    assert collate(split, [1], BERT, None).starts.tolist() == [0]


def test_cls_may_stand_at_the_windows_own_end(split: Split) -> None:
    batch = collate(split, [1, 3], XLNET, null_class=None)
    assert batch.starts[0] == 8 and batch.candidate_mask[0, 8]
    assert batch.candidate_mask[1, 5] and not batch.candidate_mask[1, 8]
    assert batch.input_ids[0, :9].tolist() == [11, 12, 4, 22, 23, 24, 25, 4, 3]
    assert batch.token_type_ids[0, :9].tolist() == [0, 0, 0, 1, 1, 1, 1, 2, 2]


def test_padding_is_the_models_own_and_no_mask_is_made_where_nothing_is_padded(
    split: Split, tmp_path: Path
) -> None:
    batch = collate(split, [2], ROBERTA, null_class=1)
    assert batch.input_ids.tolist() == [[0, 13, 2, 2, 30, 31, 32, 2]]
    assert batch.attention_mask is None
    two = collate(split, [2, 3], ROBERTA, null_class=1)
    assert two.input_ids[1].tolist() == [0, 13, 2, 2, 31, 32, 2, 1]
    assert two.attention_mask is not None and not two.attention_mask[1, -1]


def test_the_width_is_that_of_the_longest_row(split: Split) -> None:
    for windows, width in (([0, 3], 16), ([3], 8), ([2, 3], 8)):
        batch = collate(split, windows, BERT, None)
        assert batch.input_ids.shape == (len(windows), width) and width % PAD_MULTIPLE == 0
        exact = collate(split, windows, BERT, None, pad_multiple=1)
        longest = int(batch.lengths.max())
        assert exact.input_ids.shape == (len(windows), longest)
        assert torch.equal(exact.input_ids, batch.input_ids[:, :longest])


def test_a_row_does_not_depend_on_its_company(split: Split) -> None:
    together = collate(split, [3, 0, 2, 1], BERT, None)
    for i, window in enumerate([3, 0, 2, 1]):
        alone = collate(split, [window], BERT, None)
        size = int(alone.lengths[0])
        assert torch.equal(together.input_ids[i, :size], alone.input_ids[0, :size])
        assert (together.input_ids[i, size:] == BERT.pad_id).all()
        if window != 2:  # its target is a class: counted from the width
            assert together.starts[i] == alone.starts[0]


def test_moving_a_batch_keeps_all_of_it(split: Split) -> None:
    batch = collate(split, [0, 3], BERT, None)
    assert batch.to(torch.device("cpu")) is batch
    moved = batch.to(torch.device("meta"))
    assert {getattr(moved, name).device.type for name in ("input_ids", "starts", "ends")} == {
        "meta"
    }
    assert moved.attention_mask is not None and moved.attention_mask.device.type == "meta"
    assert replace(batch, attention_mask=None).to(torch.device("meta")).attention_mask is None
    assert moved.lengths is batch.lengths and moved.context_at is batch.context_at
