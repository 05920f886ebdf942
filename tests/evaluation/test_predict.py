"""Checkpoint x shard -> predictions: the same for any cut, redone byte for byte, never half."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runs import (
    add_noisy_checkpoint,
    evaluate_all,
    fired,
    rows_of,
    temporary_files,
    with_each_checkpoint,
)

from qa_dist import faults
from qa_dist.checkpoint import prune_checkpoints, save_checkpoint
from qa_dist.data.prepared import read_prepared
from qa_dist.evaluation import predict
from qa_dist.evaluation.aggregate import aggregate
from qa_dist.evaluation.elements import elements, is_evaluated, origin
from qa_dist.evaluation.predict import evaluate_element
from qa_dist.files import read_json
from qa_dist.models import attention, build_model
from qa_dist.recipe_loading import load_saved_recipe
from qa_dist.records import InputError
from qa_dist.run_dir import RunDir, step_name

NewRun = Callable[..., RunDir]


def scores_of(run: RunDir) -> dict[str, Any]:
    """Return all figures; the thresholds lie between logits, whose last bits depend on batches."""
    scores = dict(read_json(run.scores_file(8)))
    del scores["run"], scores["fingerprint"]
    for figures in scores["scores"].values():
        del figures["threshold"]
    return scores


# ---- the same for any cut


@pytest.mark.parametrize("kind", ["coqa", "squad_v2"])
def test_e05_scores_are_equal_to_the_last_digit_for_1_2_and_7_shards(
    new_run: NewRun, kind: str
) -> None:
    scores, rows = [], []
    for num_shards in (1, 2, 7):
        run = new_run(kind, num_shards)
        assert read_prepared(run).num_shards["dev"] == num_shards
        evaluate_all(run)
        aggregate(run)
        scores.append(scores_of(run))
        rows.append([(row["id"], row["text"], row["exact"], row["f1"]) for row in rows_of(run)])
    assert scores[0] == scores[1] == scores[2]
    assert rows[0] == rows[1] == rows[2]
    texts, f1s = {text for _, text, _, _ in rows[0]}, {f1 for _, _, _, f1 in rows[0]}
    assert len(texts) > 5 and len(f1s) > 1, "control: answers and scores differ"


@pytest.mark.parametrize(
    "settings", [("coqa",), ("squad_v2", "model.head=span_crf")], ids=["span", "span_crf"]
)
def test_packed_batches_give_the_same_answers(new_run: NewRun, settings: tuple[str, ...]) -> None:
    kind, *more = settings
    rows = []
    for packing in ("off", "on"):
        run = new_run(kind, 1, f"train.packing={packing}", *more)
        recipe, prepared = load_saved_recipe(run.recipe), read_prepared(run)
        model: Any = predict.load_trained(run, recipe, prepared, None)
        assert model.is_packed == (packing == "on")
        evaluate_all(run)
        rows.append(rows_of(run))
    for ours, theirs in zip(*rows, strict=True):
        assert [ours[k] for k in ("id", "text", "f1")] == [theirs[k] for k in ("id", "text", "f1")]
        assert ours["null_odds"] == pytest.approx(theirs["null_odds"], abs=0.02)
    assert len({row["text"] for row in rows[0]}) > 5, "control: answers differ"


def test_where_batches_cant_be_packed_they_are_padded(
    new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run("coqa", 1, "train.packing=on")  # trained on another machine
    recipe, prepared = load_saved_recipe(run.recipe), read_prepared(run)
    monkeypatch.setattr(attention, "_obstacles", lambda *_: iter(["this GPU is too old"]))
    with pytest.raises(InputError, match="this GPU is too old"):
        attention.resolve_packing("on", recipe.model, "bf16")
    model: Any = predict.load_trained(run, recipe, prepared, None)
    assert not model.is_packed


def test_another_batch_size_gives_the_same_answers(new_run: NewRun) -> None:
    runs = [new_run("coqa", 1), new_run("coqa", 1, "evaluation.batch_tokens=96")]
    for run in runs:
        evaluate_all(run)
    one, other = map(rows_of, runs)
    for ours, theirs in zip(one, other, strict=True):
        assert (ours["id"], ours["text"], ours["f1"]) == (
            theirs["id"],
            theirs["text"],
            theirs["f1"],
        )
        assert ours["null_odds"] == pytest.approx(theirs["null_odds"], abs=0.02), (
            "the head's weights are thousands of times those of a trained one"
        )


# ---- once, and whole


def test_a_done_element_is_left_alone(copied: RunDir) -> None:
    path = copied.predictions_file(8, elements(copied)[0][2])
    before = path.stat().st_mtime_ns
    evaluate_element(copied, 0)
    assert path.stat().st_mtime_ns == before
    assert read_json(copied.status_file("evaluate", 0))["state"] == "done"


def test_e01_a_failed_element_leaves_nothing_and_is_redone_byte_for_byte(
    copied: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "faults.log"
    monkeypatch.setenv(faults.LOG_VARIABLE, str(log))
    step, _, shard = elements(copied)[max(elements(copied))]
    path = copied.predictions_file(step, shard)
    whole = path.read_bytes()
    path.unlink()
    faults.arm("point=evaluate.before_rename;action=raise")
    try:
        with pytest.raises(RuntimeError, match="injected"):
            evaluate_all(copied)
    finally:
        faults.arm("")
    assert fired(log) == [("evaluate.before_rename", "raise", 8)]
    assert not path.exists() and not is_evaluated(copied, step, shard)
    assert temporary_files(copied) == []
    evaluate_all(copied)
    assert path.read_bytes() == whole


def test_e04_a_checkpoint_is_not_rotated_away_while_it_is_evaluated(
    copied: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_noisy_checkpoint(copied, step=12)
    copied.predictions_file(8, elements(copied)[0][2]).unlink()
    deleted = []

    def origin_after_a_rotation(run: RunDir, step: int) -> dict[str, str]:
        deleted.append(prune_checkpoints(run.checkpoints, 1, None, attempt=1))
        return origin(run, step)

    monkeypatch.setattr(predict, "origin", origin_after_a_rotation)
    evaluate_element(copied, 0)
    assert deleted == [[]] and is_evaluated(copied, 8, elements(copied)[0][2])
    assert prune_checkpoints(copied.checkpoints, 1, None, attempt=1) == [8]


def test_a_checkpoint_that_has_gone_is_named(copied: RunDir) -> None:
    with_each_checkpoint(copied, every=2)
    numbers = list(elements(copied))
    shutil.rmtree(copied.checkpoints / step_name(8))
    evaluate_element(copied, numbers[0])  # is done all the same
    path = copied.predictions_file(8, elements(copied)[numbers[0]][2])
    path.write_text("")
    with pytest.raises(InputError, match=r"step-00000008: has no MANIFEST.* to go on without it"):
        evaluate_element(copied, numbers[0])
    shutil.rmtree(path.parent)
    with pytest.raises(InputError, match=f"element {numbers[0]} can't be evaluated"):
        evaluate_element(copied, numbers[0])


def test_damaged_weights_are_refused_by_name(copied: RunDir) -> None:
    weights = copied.checkpoints / step_name(8) / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    copied.predictions_file(8, elements(copied)[0][2]).unlink()
    with pytest.raises(InputError, match=f"{weights}.*launch the run again"):
        evaluate_element(copied, 0)


def test_a_damaged_shard_is_refused_by_name(new_run: NewRun) -> None:
    run = new_run("coqa", 1)
    path = read_prepared(run).shards("heldout")[0] / "arrays.bin"
    raw = bytearray(path.read_bytes())
    raw[200] ^= 1
    path.write_bytes(raw)
    with pytest.raises(InputError, match=f"{path}.*launch the run again"):
        evaluate_element(run, 0)


# ---- the model before training


def test_the_floor_is_what_the_model_says_before_its_first_step(new_run: NewRun) -> None:
    run = new_run("coqa", 2, "evaluation.floor=true")
    evaluate_all(run)
    floor, trained = rows_of(run, step=0), rows_of(run)
    assert [row["id"] for row in floor] == [row["id"] for row in trained]
    assert [row["null_odds"] for row in floor] != [row["null_odds"] for row in trained]
    recipe, prepared = load_saved_recipe(run.recipe), read_prepared(run)
    model = build_model(recipe, [prepared.classes("dev")])
    facts = read_json(run.run_json)
    identity = {"run": facts["id"], "data": facts["prepared"]["fingerprint"]}
    state = model.state_dict()
    save_checkpoint(run.checkpoints, 9, state, {}, {"step": 9}, identity, attempt=1)
    evaluate_all(run)
    assert rows_of(run, step=9) == floor, "a checkpoint of the same weights says the same"


def test_the_floor_is_scored_at_step_0_and_shifts_no_element(new_run: NewRun) -> None:
    plain = new_run("coqa", 2)
    run = new_run("coqa", 2, "evaluation.floor=true")
    with_each_checkpoint(run, every=4)
    with_each_checkpoint(plain, every=4)
    evaluate_all(run)
    assert elements(run) == elements(plain)
    assert aggregate(run)[-1] == 8
    assert sorted(path.name for path in run.scores.glob("*.json")) == [
        "step-00000000.json",
        "step-00000008.json",
    ]
    assert not plain.predictions_file(0, "dev-00000-of-00002").exists()


def test_an_element_killed_after_the_floor_is_redone(new_run: NewRun) -> None:
    run = new_run("coqa", 1, "evaluation.floor=true")
    shard = read_prepared(run).shards("dev")[0].name
    element = next(n for n, (_, split, _) in elements(run).items() if split == "dev")
    with pytest.raises(OSError):
        faults.arm("point=evaluate.before_rename;step=8;action=enospc")
        try:
            evaluate_element(run, element)
        finally:
            faults.arm("")
    assert is_evaluated(run, 0, shard) and not is_evaluated(run, 8, shard)
    before = run.predictions_file(0, shard).stat().st_mtime_ns
    evaluate_element(run, element)
    assert is_evaluated(run, 8, shard)
    assert run.predictions_file(0, shard).stat().st_mtime_ns == before, "the floor is there"
