"""Prompts and answers in shards: token for token what the model's template gives."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from chat_runs import chat_words, write_questions
from runs import make_run

from qa_dist.contaminated import IN_DEV
from qa_dist.data.collate import collate
from qa_dist.data.prepared import Prepared, read_prepared, read_template
from qa_dist.data.shards import Shard
from qa_dist.data.tokenizer import load_chat_tokenizer
from qa_dist.prepare import summarize
from qa_dist.records import InputError
from qa_dist.tasks.fields import CONTEXT_CUT, CONTEXT_LEFT_OUT
from qa_dist.text.prompts import Ask, Prompter, messages_of
from qa_dist.windowing.text import TOO_LONG, check_prompts


def prepared(model: Path, folder: Path, *more: str) -> Prepared:
    return read_prepared(make_run(chat_words(model, folder), folder, *more))


def text_of(tokens: object, model: Path) -> str:
    return str(load_chat_tokenizer(str(model)).decode(tokens))


@pytest.mark.parametrize("part", ["train", "dev"])
def test_a_window_is_the_whole_conversation(tiny_chat: Path, tmp_path: Path, part: str) -> None:
    table = prepared(tiny_chat, tmp_path).open(part)
    rows = [json.loads(line) for line in (tmp_path / f"{part}.jsonl").read_text().splitlines()]
    tokenizer = load_chat_tokenizer(str(tiny_chat))
    assert table.num_windows == len(rows)
    assert table.classes == []
    batch = collate(table, range(len(rows)), read_template(table), null_class=0, pad_multiple=1)
    for i, row in enumerate(rows):
        ask = Ask("prompted", row["context"], (), row["question"])
        messages = [*messages_of(ask), {"role": "assistant", "content": row["answer"]}]
        whole = tokenizer.apply_chat_template(messages, tokenize=True)["input_ids"][:-1]
        size = int(batch.lengths[i])
        assert batch.input_ids[i, :size].tolist() == whole
        answer = batch.input_ids[i][batch.candidate_mask[i]].tolist()
        assert tokenizer.decode(answer) == f"{row['answer']}<|im_end|>"
        assert whole[-len(answer) :] == answer
        assert table.targets()[i] == len(answer)
    facts = table.shards[0].example(0)
    assert facts["question"] == rows[0]["question"]
    assert facts["answers"] == [rows[0]["answer"]]


def test_long_contexts_are_cut_and_counted(tiny_chat: Path, tmp_path: Path) -> None:
    words = chat_words(tiny_chat, tmp_path)
    rows = [
        {"id": "long", "question": "Why?", "answer": "May.", "context": "It was day 1. " * 200},
        {"id": "short", "question": "Who?", "answer": "Ann.", "context": "Ann."},
        {"id": "never", "question": "Who? " * 200, "answer": "Bob.", "context": "Bob."},
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    of_run = read_prepared(make_run(words, tmp_path))
    facts = summarize(of_run, "train")
    assert facts["dropped"] == {CONTEXT_CUT: [1, ["long"]], TOO_LONG: [1, ["never"]]}
    assert facts["kept_reasons"] == [CONTEXT_CUT]
    assert facts["examples"] == 2
    assert facts["tokens_max"] <= 192


def test_a_dev_question_that_never_fits_stops_it(tiny_chat: Path, tmp_path: Path) -> None:
    words = chat_words(tiny_chat, tmp_path)
    row = {"id": "never", "question": "Who? " * 200, "answer": "Bob.", "context": "Bob."}
    (tmp_path / "dev.jsonl").write_text(json.dumps(row))
    with pytest.raises(InputError, match=r"never: .*don't fit into .*raise the length"):
        make_run(words, tmp_path)


def test_a_dev_question_without_room_for_its_context_is_asked_alone(
    tiny_chat: Path, tmp_path: Path
) -> None:
    prompter = Prompter(load_chat_tokenizer(str(tiny_chat)), "tiny")
    question = "Who?"
    while len(prompter.prompt_tokens(Ask("prompted", "", (), question))) < 175:
        question += " Who?"
    row = {"id": "long", "question": question, "answer": "Bob.", "context": "Bob sat here."}
    short = {"id": "short", "question": "Who?", "answer": "Bob.", "context": "Bob sat here."}
    words = chat_words(tiny_chat, tmp_path)
    (tmp_path / "dev.jsonl").write_text(f"{json.dumps(row)}\n{json.dumps(short)}\n")
    of_run = read_prepared(make_run(words, tmp_path))
    facts = summarize(of_run, "dev")
    assert facts["dropped"] == {CONTEXT_LEFT_OUT: [1, ["long"]]}
    assert facts["kept_reasons"] == [CONTEXT_LEFT_OUT]
    assert facts["examples"] == 2
    prompt = of_run.open("dev").shards[0].ragged("question_tokens", 0).tolist()
    assert prompt == prompter.prompt_tokens(Ask("prompted", "", (), question))
    (tmp_path / "stop").mkdir()
    with pytest.raises(InputError, match=r"long: .*any of its context.*on_bad_record=skip"):
        make_run([*words, "data.on_bad_record=stop"], tmp_path / "stop")


def test_prompts_of_dev_dont_depend_on_the_answer(tiny_chat: Path, tmp_path: Path) -> None:
    words = chat_words(tiny_chat, tmp_path)
    prompts = []
    for answer in ("May.", "Ann found a cat on day 1. " * 20):
        row = {"id": "a", "question": "Why?", "answer": answer, "context": "It was day 1. " * 200}
        (tmp_path / "dev.jsonl").write_text(json.dumps(row))
        shard = Shard(read_prepared(make_run(words, tmp_path / answer[:3])).shards("dev")[0])
        prompts.append(shard.ragged("question_tokens", 0).tolist())
        assert int(shard["window_length"][0]) <= 192
    assert prompts[0] == prompts[1]
    assert 150 < len(prompts[0]) <= 192 - 12


def test_dev_questions_in_the_training_data_are_left_out(tiny_chat: Path, tmp_path: Path) -> None:
    words = chat_words(tiny_chat, tmp_path)
    write_questions(tmp_path / "dev.jsonl", 10, start=20)  # four of them are trained on too
    of_run = read_prepared(make_run(words, tmp_path))
    facts = summarize(of_run, "train")
    assert facts["dropped"] == {IN_DEV: [4, ["q20", "q21", "q22", "q23"]]}
    assert facts["examples"] == 20
    assert summarize(of_run, "dev")["examples"] == 10


def test_coqa_turns_are_turns_of_the_chat(tiny_chat: Path, tmp_path: Path) -> None:
    sample = Path(__file__).resolve().parents[2] / "qa_dist" / "sample" / "coqa-dev.json"
    words = chat_words(
        tiny_chat,
        tmp_path,
        *(f"sources.0.{part}={sample}" for part in ("train", "dev")),
        *("sources.0.max_train_examples=40", "sources.0.max_dev_examples=40"),
        *("data.max_length_tokens=512", "train.micro_batch_tokens=512", "data.history_turns=1"),
        recipe="coqa_qwen_qlora",
    )
    table = read_prepared(make_run(words, tmp_path)).open("dev")
    shard = table.shards[0]
    stories = {s["id"]: s for s in json.loads(sample.read_text())["data"]}
    num_with_history = 0
    prompter = Prompter(load_chat_tokenizer(str(tiny_chat)), "tiny")
    for i in range(shard.num_examples):
        facts = shard.example(i)
        story, turn = facts["id"].rsplit("#", 1)
        questions = [q["input_text"].strip() for q in stories[story]["questions"]]
        answers = [a["input_text"].strip() for a in stories[story]["answers"]]
        at = int(turn) - 1
        history = (questions[at - 1], answers[at - 1]) if at else ()
        ask = Ask("coqa", stories[story]["story"], history, questions[at])
        encoded = prompter.encode(ask, answers[at], 512, answer_room=12)
        assert encoded is not None
        assert shard.ragged("question_tokens", i).tolist() == encoded.prompt
        num_with_history += bool(history)
    assert num_with_history > 10


def test_a_tokenizer_whose_prompts_would_fail_is_named(tiny_chat: Path, tmp_path: Path) -> None:
    check_prompts(str(tiny_chat))
    model = shutil.copytree(tiny_chat, tmp_path / "model")
    (model / "chat_template.jinja").write_text("{{ raise_exception('No system role') }}")
    with pytest.raises(InputError, match=r"model\.name=.*refuses a system message.*No system role"):
        check_prompts(str(model))
