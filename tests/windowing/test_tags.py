"""Windows of tagged sentences: each word labelled once, at its first token, in any cut."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fitted import made_sentences, write_conll
from prepared_data import make_recipe, prepare

from qa_dist.data.collate import NO_TARGET, collate
from qa_dist.data.prepared import Prepared, read_template
from qa_dist.data.shards import NO_LABEL
from qa_dist.data.tokenizer import load_tokenizer
from qa_dist.prepare import summarize
from qa_dist.recipe import Recipe
from qa_dist.records import InputError
from qa_dist.tasks.fields import NO_SUCH_TYPE, NO_TOKENS

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def made(
    root: Path, encoder: Path, num_shards: int = 1, per_document: int = 0, **settings: Any
) -> tuple[Recipe, Prepared]:
    sentences = made_sentences(24)
    train = write_conll(root / "train.conll", sentences, per_document)
    dev = write_conll(root / "dev.conll", sentences[:9], per_document)
    recipe = make_recipe(encoder, train, dev, "ner", max_length_tokens=48, **settings)
    return recipe, prepare(root, recipe, num_shards)


def labelled_words(prepared: Prepared, split: str) -> dict[str, Counter[tuple[int, str]]]:
    """Return, by sentence, the (first character, label) that batches hold, and how often."""
    table = prepared.open(split)
    found: dict[str, Counter[tuple[int, str]]] = {}
    for window in range(table.num_windows):
        batch = collate(table, [window], read_template(table), 0)
        shard, row = table.locate(window)
        example = int(shard["window_example"][row])
        starts, _ = shard.char_spans(int(shard["example_context"][example]))
        assert batch.labels is not None
        positions = (batch.labels[0] != NO_TARGET).nonzero()[:, 0].tolist()
        assert len(positions) == table.targets()[window] > 0
        shift = int(batch.context_from[0] - batch.context_at[0])
        counter = found.setdefault(shard.example(example)["id"], Counter())
        counter.update((int(starts[p + shift]), LABELS[int(batch.labels[0, p])]) for p in positions)
    return found


@pytest.mark.parametrize("is_document", [False, True])
def test_each_word_is_labelled_once(tmp_path: Path, tiny_encoder: Path, is_document: bool) -> None:
    _, prepared = made(tmp_path, tiny_encoder, per_document=5, document_context=is_document)
    table = prepared.open("train")
    found = labelled_words(prepared, "train")
    examples = [table.shards[0].example(i) for i in range(table.num_examples)]
    assert table.num_windows > len(examples) == 24  # the long ones have several
    assert table.classes == LABELS
    for example, sentence in zip(examples, made_sentences(24), strict=True):
        wanted = {
            (start, tag)
            for (start, _), tag, (word, _) in zip(
                example["words"], example["tags"], sentence, strict=True
            )
            if word != "\u200b"
        }
        assert found[example["id"]] == Counter(wanted)


def test_a_window_is_the_slice_between_cls_and_sep(tmp_path: Path, tiny_encoder: Path) -> None:
    recipe, prepared = made(tmp_path, tiny_encoder)
    table = prepared.open("dev")
    template = read_template(table)
    batch = collate(table, [0], template, 0)
    length = int(batch.lengths[0])
    backend = load_tokenizer(recipe.model.name, None).backend
    wanted = backend.encode(table.shards[0].context_text(0)).ids
    assert batch.input_ids[0, :length].tolist() == wanted
    assert batch.token_type_ids.sum() == 0
    assert template.between == ()


def test_windows_of_a_document_are_filled_with_its_other_sentences(
    tmp_path: Path, tiny_encoder: Path
) -> None:
    lengths = []
    for is_document in (False, True):
        root = tmp_path / str(is_document)
        root.mkdir()
        _, prepared = made(root, tiny_encoder, per_document=8, document_context=is_document)
        table = prepared.open("train")
        lengths.append(np.median(table.lengths()))
        assert table.lengths().max() <= 48
        ids = [table.shards[0].example(i)["id"] for i in range(table.num_examples)]
        groups = {table.shards[0].example(i)["group"] for i in range(table.num_examples)}
        assert ids == [f"sentence-{i:06d}" for i in range(24)] and len(groups) == 3
    assert lengths[0] < 24 < 40 < lengths[1]


def test_any_number_of_shards_holds_the_same(tmp_path: Path, tiny_encoder: Path) -> None:
    found = []
    for num_shards in (1, 3):
        root = tmp_path / str(num_shards)
        root.mkdir()
        _, prepared = made(root, tiny_encoder, num_shards)
        table = prepared.open("train")
        assert len(table.shards) == num_shards
        batch = collate(table, range(table.num_windows), read_template(table), 0)
        assert batch.labels is not None
        found.append((batch.input_ids.tolist(), batch.labels.tolist()))
    assert found[0] == found[1]
    assert found[0] != (found[0][0], found[0][0])


def test_only_chosen_sentences_of_a_document_are_labelled(
    tmp_path: Path, tiny_encoder: Path
) -> None:
    settings = {"document_context": True, "max_train_examples": 7}
    _, prepared = made(tmp_path, tiny_encoder, per_document=8, **settings)
    table, found = prepared.open("train"), labelled_words(prepared, "train")
    assert table.num_examples == len(found) == 7
    for i in range(7):
        example = table.shards[0].example(i)
        assert sum(found[example["id"]].values()) >= len(example["words"]) - 1
    labelled = sum(int((shard["context_labels"] != NO_LABEL).sum()) for shard in table.shards)
    assert labelled == sum(sum(words.values()) for words in found.values())


def test_what_a_model_can_not_get_right_is_counted(tmp_path: Path, tiny_encoder: Path) -> None:
    train = write_conll(tmp_path / "train.conll", [[("Mary", "B-PER"), ("sat", "O")]] * 4)
    dev = write_conll(
        tmp_path / "dev.conll",
        [
            [("Mary", "B-PER"), ("sat", "O")],
            [("Oslo", "B-LOC"), ("is", "O"), ("Mary", "B-PER")],
            [("\u200b", "B-PER")],
            [("\u200b", "O"), ("sat", "O")],
        ],
    )
    recipe = make_recipe(tiny_encoder, train, dev, "ner")
    facts = summarize(prepare(tmp_path, recipe), "dev")
    assert facts["dropped"] == {
        NO_SUCH_TYPE: [1, ["sentence-000001"]],
        NO_TOKENS: [2, ["sentence-000002", "sentence-000003"]],
    }
    assert facts["kept_reasons"] == sorted([NO_SUCH_TYPE, NO_TOKENS])
    assert (facts["examples"], facts["windows"], facts["without_answer"]) == (4, 3, 1)
    assert facts["ceiling_em"] == 50.0
    assert facts["ceiling_f1"] == pytest.approx(100 * (1 + 2 / 3 + 0 + 1) / 4)


def test_bad_lines_are_dropped_and_counted_or_stop(tmp_path: Path, tiny_encoder: Path) -> None:
    path = write_conll(tmp_path / "train.conll", made_sentences(6))
    path.write_text("Mary X-PER\n\n" + path.read_text())
    recipe = make_recipe(tiny_encoder, path, path, "ner")
    facts = summarize(prepare(tmp_path, recipe), "train")
    ((reason, (count, ids)),) = [d for d in facts["dropped"].items() if d[0] != NO_TOKENS]
    assert reason.startswith("last column isn't a tag") and (count, ids) == (1, ["train.conll:1"])
    stopped = make_recipe(tiny_encoder, path, path, "ner", on_bad_record="stop")
    with pytest.raises(InputError, match=r"^train\.conll:1: last column isn't a tag"):
        prepare(tmp_path / "stopped", stopped)
