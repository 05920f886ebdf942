"""Checks of recipes: each setting's range, each relation, and that all faults are said at once."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import FrozenInstanceError, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from qa_dist.recipe import Recipe, Source
from qa_dist.recipe_checks import CHOICES, LIMITS, check_recipe, show_value, text_fault

GOOD = Recipe(
    name="good",
    sources=[Source(task="coqa", train="train.json", dev="dev.json")],
    model=replace(Recipe().model, name="encoder"),
)


def with_value(path: str, value: Any) -> Recipe:
    section, name = path.split(".")
    if section == "sources":
        return replace(GOOD, sources=[replace(GOOD.sources[0], **{name: value})])
    return replace(GOOD, **{section: replace(getattr(GOOD, section), **{name: value})})


def fault_of(recipe: Recipe) -> str:
    (fault,) = check_recipe(recipe)
    return fault


def test_fp16_is_refused_with_the_reason() -> None:
    fault = fault_of(with_value("train.precision", "fp16"))
    assert fault.startswith(
        "train.precision=fp16: expected one of auto, bf16, fp32; fp16 overflows"
    )
    assert "MobileBERT gives NaN" in fault
    assert "overflows" not in fault_of(with_value("train.precision", "int8"))


def test_defaults_need_only_sources_and_a_model() -> None:
    assert check_recipe(GOOD) == []
    keys = {fault.partition("=")[0] for fault in check_recipe(Recipe())}
    assert keys == {"sources", "model.name"}


@pytest.mark.parametrize(
    ("path", "value", "wanted"),
    [
        ("train.learning_rate", 0.0, "a rate, more than 0 and less than 1"),
        ("train.learning_rate", 1.0, "a rate, more than 0 and less than 1"),
        ("train.learning_rate", float("nan"), "a rate"),
        ("train.learning_rate", float("inf"), "a rate"),
        ("train.epochs", 0.0, "a number of passes, more than 0"),
        ("train.epochs", float("inf"), "a number of passes"),
        ("train.max_steps", -1, "a number of steps, at least 0"),
        ("train.warmup_fraction", 1.0, "a share, at least 0 and less than 1"),
        ("train.batch_windows", 0, "a number of windows, at least 1"),
        ("train.clip_norm", -1.0, "a gradient norm, at least 0"),
        ("train.keep_checkpoints", 0, "at least 1"),
        ("train.seed", -1, "at least 0"),
        ("data.history_turns", -1, "a number of turns"),
        ("data.on_bad_record", "ignore", "one of skip, stop"),
        ("model.attention_dropout", 1.0, "less than 1"),
        ("model.head", "spam", "one of span"),
        ("evaluation.when", "never", "one of at_end, each_checkpoint"),
        ("evaluation.n_best", 0, "at least 1"),
        ("sources.task", "nerd", "one of squad, coqa, ner, prompted_qa"),
        ("sources.heldout_fraction", 1.0, "a share"),
        ("sources.max_train_examples", -5, "a number of questions"),
    ],
)
def test_a_value_out_of_range_is_named(path: str, value: Any, wanted: str) -> None:
    key = path.replace("sources.", "sources.0.")
    faults = check_recipe(with_value(path, value))
    assert faults[0].startswith(f"{key}={value}: expected ") and wanted in faults[0]


def test_every_number_has_limits_and_every_table_key_a_field() -> None:
    # a new field without limits, or a misspelt key in the tables, would never be checked
    parts: dict[str, Any] = {"sources": Source()}
    parts |= {f.name: getattr(GOOD, f.name) for f in fields(GOOD) if f.name != "sources"}  # type: ignore[misc]
    numbers, texts = set(), set()
    for section, part in parts.items():
        for item in fields(part) if is_dataclass(part) else ():
            kind = str(item.type)
            if "int" in kind or "float" in kind:
                numbers.add(f"{section}.{item.name}")
            elif kind == "str":
                texts.add(f"{section}.{item.name}")
    assert set(LIMITS) == numbers
    assert set(CHOICES) <= texts


@pytest.mark.parametrize("path", LIMITS)
def test_limits_hold_at_their_bounds(path: str) -> None:
    limits = LIMITS[path]
    for bound, is_open in ((limits.low, limits.low_open), (limits.high, limits.high_open)):
        assert limits.holds(bound) is not is_open
    assert not limits.holds(limits.low - 1) and not limits.holds(limits.high + 1)
    assert not limits.holds(float("nan"))


def test_sources_relations() -> None:
    source = GOOD.sources[0]
    assert check_recipe(replace(GOOD, sources=[source, replace(source, task="ner")])) == []
    no_dev = fault_of(with_value("sources.dev", ""))
    assert no_dev.startswith("sources.0.dev=: expected") and "dev_fraction=0.1" in no_dev
    assert check_recipe(replace(GOOD, sources=[replace(source, dev="", dev_fraction=0.1)])) == []
    both = fault_of(with_value("sources.dev_fraction", 0.1))
    assert "expected 0 where sources.0.dev is given" in both
    nothing_left = replace(source, dev="", dev_fraction=0.5, heldout_fraction=0.5)
    assert fault_of(replace(GOOD, sources=[nothing_left])).startswith(
        "sources.0.heldout_fraction=0.5: expected less than 1 together with sources.0.dev_fraction"
    )
    assert fault_of(with_value("sources.train", "")).startswith("sources.0.train=: expected")


@pytest.mark.parametrize(
    ("tasks", "settings", "start"),
    [
        (["squad", "coqa"], {"head": "causal_lm"}, "model.head=causal_lm: expected one source"),
        (["ner"], {"head": "causal_lm"}, "model.head=causal_lm: expected questions to answer"),
        (["prompted_qa"], {}, "model.head=span: expected causal_lm"),
        (["coqa"], {"head": "span_crf"}, "model.head=span_crf: expected span"),
        (["squad"], {"quantization": "nf4"}, "model.quantization=nf4: expected none"),
        (["squad"], {"head": "causal_lm", "quantization": "nf4"}, "model.quantization=nf4: exp"),
        (["prompted_qa"], {"head": "causal_lm", "freeze_encoder": True}, "model.freeze_encoder"),
        (["prompted_qa"], {"head": "causal_lm", "hidden_dropout": 0.1}, "model.hidden_dropout"),
        (["prompted_qa"], {"head": "causal_lm", "lower_case": True}, "model.lower_case=True"),
        (["squad", "ner"], {"engine": "zero2"}, "train.engine=zero2: expected ddp or fsdp"),
        (
            ["squad", "ner"],
            {"freeze_encoder": True, "gradient_cosine_every_steps": 50},
            "train.gradient_cosine_every_steps=50: expected 0",
        ),
        (["squad", "ner"], {"only": "coqa"}, "train.only=coqa: expected all, or one of squad, ner"),
        (["squad"], {"document_context": True}, "data.document_context=true: expected false"),
        (
            ["squad"],
            {"packing": "on", "attention_dropout": 0.1},
            "model.attention_dropout=0.1: expected 0 with train.packing=on",
        ),
        (["squad"], {"packing": "on"}, ""),
        (["squad"], {"attention_dropout": 0.1}, ""),
        (["squad", "ner"], {"document_context": True}, ""),
        (["squad", "ner"], {"only": "ner"}, ""),
        (["squad", "ner"], {"lora_rank": 4}, ""),
        (["prompted_qa"], {"head": "causal_lm", "quantization": "nf4", "lora_rank": 4}, ""),
    ],
)
def test_heads_tasks_and_several_sources(
    tasks: list[str], settings: dict[str, Any], start: str
) -> None:
    sources = [replace(GOOD.sources[0], task=task) for task in tasks]
    of_train = {k: v for k, v in settings.items() if hasattr(GOOD.train, k)}
    of_model = {k: v for k, v in settings.items() if hasattr(GOOD.model, k)}
    of_data = {k: v for k, v in settings.items() if hasattr(GOOD.data, k)}
    model, train = replace(GOOD.model, **of_model), replace(GOOD.train, **of_train)
    data = replace(GOOD.data, **of_data)
    faults = check_recipe(replace(GOOD, sources=sources, data=data, model=model, train=train))
    assert all(fault.startswith(start) for fault in faults) and bool(faults) == bool(start)


@pytest.mark.parametrize(
    ("length", "overlap", "question", "is_good"),
    [
        (384, 128, 64, True),
        (384, 128, 220, True),  # 384 - 4 - 128 - 256 // 8
        (384, 128, 221, False),
        (384, 384, 64, False),
        (384, 400, 64, False),
        (16, 8, 3, True),  # 16 - 4 - 8 - 1
        (16, 8, 4, False),
        (8, 4, 1, False),
    ],
)
def test_windowing_leaves_room_for_the_question(
    length: int, overlap: int, question: int, is_good: bool
) -> None:
    data = replace(
        GOOD.data,
        max_length_tokens=length,
        window_overlap_tokens=overlap,
        max_question_tokens=question,
    )
    faults = check_recipe(replace(GOOD, data=data))
    assert (not faults) is is_good, faults
    if faults:
        wanted = "max_question_tokens" if overlap < length else "window_overlap_tokens"
        assert faults[0].startswith(f"data.{wanted}=")
        assert f"data.max_length_tokens={length}" in faults[0]


@pytest.mark.parametrize(
    ("changes", "start"),
    [
        ({"min_micro_batches_per_step": 33}, "train.min_micro_batches_per_step=33: expected at mo"),
        ({"max_steps": 5, "warmup_steps": 5}, "train.warmup_steps=5: expected less than train.max"),
        ({"micro_batch_tokens": 383}, "train.micro_batch_tokens=383: expected at least data.max_l"),
    ],
)
def test_step_relations(changes: dict[str, int], start: str) -> None:
    assert fault_of(replace(GOOD, train=replace(GOOD.train, **changes))).startswith(start)


def test_all_faults_are_said_at_once() -> None:
    bad = replace(
        with_value("train.learning_rate", 7.0),
        data=replace(GOOD.data, window_overlap_tokens=400, history_turns=-1),
        evaluation=replace(GOOD.evaluation, when="never"),
    )
    keys = [fault.partition("=")[0] for fault in check_recipe(bad)]
    assert sorted(keys) == [
        "data.history_turns",
        "data.window_overlap_tokens",
        "evaluation.when",
        "train.learning_rate",
    ]


@pytest.mark.parametrize(
    "text", ["a\nb", "a\x00", "\x1b[31m", "\u202e", "\u2028", "\ud800", "x" * 4097]
)
def test_hostile_texts_are_refused_and_shown_on_one_short_line(text: str) -> None:
    assert text_fault(text)
    fault = check_recipe(with_value("sources.train", text))[0]
    assert fault.startswith("sources.0.train=") and fault.isprintable() and len(fault) < 200


@pytest.mark.parametrize("text", ["", "data/ünï cødé/日本.json", "it's 100%.json", "$(touch x)"])
def test_other_texts_are_let_in(text: str) -> None:
    assert not text_fault(text)
    assert show_value(text) == text


def test_recipes_are_frozen_and_import_nothing_heavy() -> None:
    with pytest.raises(FrozenInstanceError):
        GOOD.name = "other"  # type: ignore[misc]
    code = "import sys, qa_dist.recipe; print(*{'torch', 'omegaconf', 'yaml'} & set(sys.modules))"
    folder = Path(__file__).parents[1]
    shown = subprocess.check_output([sys.executable, "-c", code], cwd=folder, text=True)
    assert shown.strip() == ""


def test_tags_have_no_threshold_to_tune() -> None:
    source = replace(GOOD.sources[0], task="ner", heldout_fraction=0.1)
    fault = fault_of(replace(GOOD, sources=[source]))
    assert fault.startswith("sources.0.heldout_fraction=0.1: expected 0")
    assert check_recipe(replace(GOOD, sources=[replace(source, heldout_fraction=0.0)])) == []


@pytest.mark.parametrize(("overlap", "wanted"), [(55, 52), (43, None), (52, None)])
def test_windows_of_tags_need_no_room_for_a_question(overlap: int, wanted: int | None) -> None:
    data = replace(GOOD.data, max_length_tokens=57, window_overlap_tokens=overlap)
    tagged = replace(GOOD, sources=[replace(GOOD.sources[0], task="ner")], data=data)
    faults = check_recipe(tagged)
    given = f"data.window_overlap_tokens={overlap}: expected at most {wanted} with"
    assert faults == [] if wanted is None else faults[0].startswith(given)
    assert check_recipe(replace(tagged, sources=GOOD.sources)) != []
