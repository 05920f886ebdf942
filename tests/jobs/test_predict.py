"""The recipe for named entities from launch to jobs/predict.py, from the outside."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from fitted import made_sentences, write_conll
from zygote import Zygote

from jobs import predict
from qa_dist.files import read_json
from qa_dist.records import InputError
from qa_dist.run_dir import RunDir

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def ner_run(zygote: Zygote, tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run of the recipe on small data, launched twice: the second time there's nothing to do."""
    root = tmp_path_factory.mktemp("ner")
    path = write_conll(root / "all.conll", made_sentences(28), per_document=4)
    words = [
        *("recipe=ner_conll2003_bert", "profile=debug", "name=main"),
        *(f"runs_dir={root / 'runs'}", f"prepared_dir={root / 'prepared'}"),
        *(f"model.name={tiny_encoder}", f"sources.0.train={path}", f"sources.0.dev={path}"),
        *("data.max_length_tokens=64", "data.window_overlap_tokens=16", "train.max_steps=90"),
        *("train.learning_rate=5e-3", "train.batch_windows=16", "evaluation.num_resamples=20"),
    ]
    child = zygote.run("launch", *words)
    assert child.status == 0, child.text
    assert "28 sentences of 7 documents" in child.text and "all, strict" in child.text
    run = RunDir(root / "runs" / "ner_conll2003_bert" / "main")
    before = run.scores_file(90).read_bytes()
    child = zygote.run("launch", *words)
    assert child.status == 0, child.text
    assert run.scores_file(90).read_bytes() == before
    return run


def test_the_recipe_learns_small_data(ner_run: RunDir) -> None:
    scores = read_json(ner_run.scores_file(90))
    assert scores["headline"] == "default"
    assert scores["scores"]["default"]["f1"] > 95
    assert scores["by"]["entity_type"].keys() == {"LOC", "PER"}


def test_entities_for_people_and_for_programs(
    ner_run: RunDir, run_job: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "Anna Lee went to\nNew York."
    done = run_job("predict", str(ner_run.root), "--text", text)
    assert (done.returncode, done.stderr) == (0, "")
    assert [" ".join(line.split()) for line in done.stdout.splitlines()] == [
        "ner_conll2003_bert/main, step 90",
        "ner: 2 entities",
        "PER 0-8 Anna Lee",
        "LOC 17-25 New York",
    ]
    assert predict.main([str(ner_run.root), f"--text={text}", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["found"]
    assert found["entities"][1] == {"type": "LOC", "start": 17, "end": 25, "text": "New York"}


def test_what_can_not_be_asked_is_said(
    ner_run: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(ner_run.root)
    for words, said in [
        ([run], "--text: expected a text to read"),
        (["--text", "a"], "which run?"),
        ([run, "--text"], "--text: expected once, with some words"),
        ([run, "--text", "a", "--text", "b"], "--text: expected once"),
        ([run, "--text", "a", "--question", "b?"], "answers no questions"),
        ([run, "--text", "a", "--speed"], "--speed: no such option; there are: --json, --text"),
        (["nowhere", "--text", "a", f"runs_dir={tmp_path}"], "holds no run.json"),
    ]:
        assert predict.main(words) == 2
        assert said in capsys.readouterr().err
    assert predict.main([]) == 0 and "--question" in capsys.readouterr().out


def test_lines_of_answers() -> None:
    found = {"run": "a/b", "step": 3, "found": []}
    given = {"source": "squad", "answer": "8,848.86 metres", "start": 20, "end": 35}
    none = {"source": "coqa", "answer": "", "start": None, "end": None}
    word = {"source": "coqa", "answer": "yes\x1b", "start": None, "end": None}
    assert predict.lines({**found, "found": [given, none, word]}) == [
        "a/b, step 3",
        "squad: 8,848.86 metres  (characters 20-35)",
        "coqa: no answer",
        "coqa: yes\\x1b",
    ]


def test_options_may_look_like_words() -> None:
    rest, given = predict.take_options(["r", "--text", "--question", "--question=a=b", "--json"])
    assert (rest, given) == (["r", "--json"], {"--text": "--question", "--question": "a=b"})
    with pytest.raises(InputError):
        predict.take_options(["--question", ""])
