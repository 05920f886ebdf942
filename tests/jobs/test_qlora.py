"""Both QLoRA recipes as a user launches them: prepared, trained, evaluated and scored."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from chat_runs import chat_words, write_questions
from zygote import Zygote

from qa_dist.evaluation.compare import read_answers
from qa_dist.evaluation.outcome import read_outcome
from qa_dist.files import read_json
from qa_dist.run_dir import RunDir
from qa_dist.text.metrics import CoqaGold, score_coqa

ROOT = Path(__file__).resolve().parents[2]
SAMPLE, RECIPES = ROOT / "qa_dist" / "sample", ROOT / "configs" / "recipes"
TWO_STEPS = ("train.max_steps=2", "train.checkpoint_every_steps=2")


def test_academic(lm_zygote: Zygote, tiny_chat: Path, tmp_path: Path) -> None:
    words = chat_words(tiny_chat, tmp_path, *TWO_STEPS, f"runs_dir={tmp_path / 'runs'}")
    write_questions(tmp_path / "train.jsonl", 24, start=84)  # eight are dev questions too
    dry = lm_zygote.run("launch", *words, "dry_run=true")
    assert dry.status == 0, dry.text
    assert "8 of 24 questions are in the dev data too and will be left out" in dry.text
    assert not (tmp_path / "runs").exists()
    child = lm_zygote.run("launch", *words)
    assert child.status == 0, child.text
    assert "8 of 24 questions are in the dev data too and will be left out" in child.text
    assert "train: dropped 8: its question is in the dev data too" in child.text
    assert "base: the same model, adapter off" in child.text
    run = RunDir(tmp_path / "runs" / "academic_qwen_qlora" / "main")
    scores = read_json(run.scores_file(2))
    assert scores["scores"].keys() == {"tuned", "base", "floor"}
    assert sum(scores["compared"][name] for name in ("win", "tie", "loss")) == 10
    assert scores["scores"]["tuned"]["refusals_expected"] == 2
    report = (run.root / "report" / "step-00000002.md").read_text()
    assert report.count("**Expected:**") == 10


def test_coqa(lm_zygote: Zygote, tiny_chat: Path, tmp_path: Path) -> None:
    words = chat_words(
        tiny_chat,
        tmp_path,
        *TWO_STEPS,
        *("data.max_length_tokens=448", "train.micro_batch_tokens=448"),
        f"sources.0.train={SAMPLE / 'coqa-train.json'}",
        f"sources.0.dev={SAMPLE / 'coqa-dev.json'}",
        *("sources.0.max_train_examples=16", "sources.0.max_dev_examples=24"),
        *("evaluation.max_new_tokens=4", f"runs_dir={tmp_path / 'runs'}"),
        recipe="coqa_qwen_qlora",
    )
    child = lm_zygote.run("launch", *words)
    assert child.status == 0, child.text
    run = RunDir(tmp_path / "runs" / "coqa_qwen_qlora" / "main")
    scores = read_json(run.scores_file(2))
    answers = read_json(run.predictions / "step-00000002" / "official.json")
    rows = {
        row["id"]: row
        for line in next(run.predictions.rglob("dev-*.jsonl")).read_text().splitlines()
        for row in [json.loads(line)]
    }
    assert len(answers) == len(rows) == 24
    golds = {i: CoqaGold(r["facets"]["domain"], tuple(r["answers"])) for i, r in rows.items()}
    ours = {f"{a['id']}#{a['turn_id']}": a["answer"] for a in answers}
    official = score_coqa(golds, ours, rounded=False)["overall"]
    # As an encoder's run is read, to be set beside it.
    figures = read_outcome(run, RECIPES).sources["coqa"].figures
    parts = read_answers(run, 2)["coqa"].parts
    for metric in ("em", "f1"):
        assert math.isclose(scores["scores"]["tuned"][metric], official[metric])
        assert figures[metric] == scores["scores"]["tuned"][metric]
        assert math.isclose(sum(part for part, _ in parts[metric].values()) / 24, official[metric])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train.engine=fsdp"], "4-bit weights can't be shared out"),
        (["train.engine=zero2"], "train.optimizer=paged_adamw_8bit: expected adamw"),
        (["evaluation.max_new_tokens=192"], "as the prompt must fit too"),
        (["sources.0.train=nowhere/at/all.jsonl"], "there is no such file"),
    ],
)
def test_what_cant_work_is_said_before_anything_is_written(
    lm_zygote: Zygote, tiny_chat: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    given = chat_words(tiny_chat, tmp_path, *words, f"runs_dir={tmp_path / 'runs'}")
    child = lm_zygote.run("launch", *given)
    assert child.status == 2, child.text
    assert message in " ".join(child.text.split())
    assert not (tmp_path / "runs").exists()


def test_an_encoder_isnt_a_chat_model(
    lm_zygote: Zygote, tiny_encoder: Path, tmp_path: Path
) -> None:
    words = [*chat_words(tiny_encoder, tmp_path), f"runs_dir={tmp_path / 'runs'}"]
    child = lm_zygote.run("launch", *words)
    assert child.status == 2, child.text
    assert "has no chat template" in " ".join(child.text.split())
