"""What is missing of a run, and the stages one by one."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console
from runs import artefacts
from zygote import Zygote

from qa_dist.checkpoint import list_steps
from qa_dist.cluster import pipeline
from qa_dist.cluster.pipeline import is_trained, run_stage_here
from qa_dist.evaluation.elements import is_evaluated
from qa_dist.files import read_json, write_status
from qa_dist.recipe import Recipe
from qa_dist.recipe_loading import load_saved_recipe
from qa_dist.run_dir import RunDir


@pytest.fixture
def copied(finished_run: RunDir, tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "runs" / "tiny_coqa" / "main")
    shutil.copytree(finished_run.root, run.root)
    for folder in (run.root, run.root.parent, run.root.parent.parent):
        folder.chmod(0o700)
    return run


def changed(words: Sequence[str], *more: str) -> list[str]:
    given = {word.partition("=")[0]: word for word in (*words, *more)}
    return list(given.values())


def test_trained_is_what_says_so_and_has_its_last_checkpoint(copied: RunDir) -> None:
    assert is_trained(copied)
    status = copied.status_file("train", 0)
    whole = read_json(status)
    write_status(status, {**whole, "state": "stopped"})
    assert not is_trained(copied)
    write_status(status, whole)
    (copied.checkpoints / "step-00000008" / "MANIFEST.json").unlink()
    assert not is_trained(copied)
    shutil.rmtree(copied.status)
    assert not is_trained(copied)


def test_only_what_is_missing_is_done(
    zygote: Zygote, launch_words: list[str], copied: RunDir
) -> None:
    before = artefacts(copied)
    lost = copied.predictions_file(6, "dev-00000-of-00001")
    lost.unlink()
    copied.scores_file(8).unlink()
    child = zygote.run("launch", *launch_words, f"runs_dir={copied.root.parents[1]}")
    assert child.status == 0, child.text
    assert "train: nothing to do" in child.text
    assert "evaluate (1 elements)" in child.text and "aggregate (1 elements)" in child.text

    def without_events(hashes: dict[str, str]) -> dict[str, str]:
        return {name: sha for name, sha in hashes.items() if "tfevents" not in name}

    assert without_events(artefacts(copied)) == without_events(before)


def test_other_evaluation_settings_evaluate_anew(
    zygote: Zygote, launch_words: list[str], copied: RunDir
) -> None:
    words = changed(
        launch_words, f"runs_dir={copied.root.parents[1]}", "evaluation.max_answer_tokens=1"
    )
    weights = {k: v for k, v in artefacts(copied).items() if k.startswith("checkpoints")}
    child = zygote.run("launch", *words)
    assert child.status == 0, child.text
    assert "train: nothing to do" in child.text and "evaluate (2 elements)" in child.text
    assert load_saved_recipe(copied.recipe).evaluation.max_answer_tokens == 1
    lines = copied.predictions_file(8, "dev-00000-of-00001").read_text().splitlines()
    spans = [t for line in lines for t, _, span in json.loads(line)["n_best"] if span]
    assert spans and all(len(text.split()) == 1 for text in spans)
    after = {k: v for k, v in artefacts(copied).items() if k.startswith("checkpoints")}
    assert after == weights
    child = zygote.run("launch", *words)
    assert "evaluate: nothing to do" in child.text and "aggregate: nothing to do" in child.text


def test_each_checkpoint_is_evaluated_before_it_is_rotated_away(
    zygote: Zygote, launch_words: list[str], finished_run: RunDir, tmp_path: Path
) -> None:
    runs = f"runs_dir={tmp_path / 'runs'}"
    each = ("evaluation.when=each_checkpoint", "train.keep_checkpoints=1", runs)
    words = changed(launch_words, *each)
    run = RunDir(tmp_path / "runs" / "tiny_coqa" / "main")
    child = zygote.run("launch", *words, "stages=prepare,train")
    assert child.status == 0, child.text
    assert list_steps(run.checkpoints) == [3, 6, 8]
    child = zygote.run("launch", *words)
    assert child.status == 0, child.text
    assert "evaluate (3 elements)" in child.text
    best = read_json(run.checkpoints / "step-00000008" / "train_state.json")["best_step"]
    assert list_steps(run.checkpoints) == sorted({best, 8})
    assert sorted(path.name for path in run.scores.iterdir()) == [
        "step-00000003.json", "step-00000006.json", "step-00000008.json",
    ]  # fmt: skip
    assert read_json(run.scores_file(6)) == read_json(finished_run.scores_file(6))
    child = zygote.run("launch", *words)
    assert "evaluate: nothing to do" in child.text and "aggregate: nothing to do" in child.text
    kept = {name: sha for name, sha in artefacts(run).items() if "predictions" in name}
    child = zygote.run("launch", *changed(words, "evaluation.when=at_end"))
    assert child.status == 0 and "train: nothing to do" in child.text
    assert "evaluate: nothing to do" in child.text, "the same predictions, counted otherwise"
    assert {name: sha for name, sha in artefacts(run).items() if "predictions" in name} == kept


def test_only_the_stages_asked_for_are_run(
    zygote: Zygote, launch_words: list[str], tmp_path: Path
) -> None:
    words = [*launch_words, f"runs_dir={tmp_path / 'runs'}"]
    run = RunDir(tmp_path / "runs" / "tiny_coqa" / "main")
    child = zygote.run("launch", *words, "stages=evaluate")
    assert child.status == 2, child.text
    assert "no finished checkpoint to evaluate; run the train stage first" in child.text
    child = zygote.run("launch", *words, "stages=prepare,train")
    assert child.status == 0 and list_steps(run.checkpoints)
    assert not run.predictions.exists() and "evaluate" not in child.text


# ---- the report


def test_the_report_shows_each_checkpoint_and_where_to_look(
    finished_run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished_run.root.parent)
    stream = io.StringIO()
    recipe = load_saved_recipe(finished_run.recipe)
    pipeline.report(finished_run, recipe, Console(file=stream, width=120))
    text = stream.getvalue()
    assert "tiny_coqa, step 8: 48 questions" in text
    assert "step 6: EM " in text
    for path in ("scores/step-00000008.json", "predictions/step-00000008/official.json"):
        assert f"main/{path}" in text and (finished_run.root / path).is_file()
    assert "tensorboard --logdir main/tensorboard" in text


def test_without_scores_there_is_no_report(tmp_path: Path) -> None:
    stream = io.StringIO()
    pipeline.report(RunDir(tmp_path), Recipe(name="none"), Console(file=stream))
    assert stream.getvalue() == ""


# ---- one stage here


def here(stage: str, *words: str) -> int:
    return run_stage_here(stage, words, "usage of the job")


def test_a_stage_that_is_done_says_so(copied: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    for stage in ("prepare", "train", "evaluate", "aggregate"):
        assert here(stage, f"run={copied.root}") == 0
        assert capsys.readouterr().out == f"{stage}: nothing to do, it is all there\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run={root}/none"], "holds no run.json; give the folder of a launched run"),
        (["run={root}", "element=7"], "element=7: evaluate has elements 0 to 1"),
        (["run={root}", "element=x"], "element=x: expected a whole number"),
    ],
)
def test_mistakes_are_said_in_one_line(
    copied: RunDir, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert here("evaluate", *(word.format(root=copied.root) for word in words)) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and message in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "status"),
    [([], 0), (["--help"], 0), (["run="], 2), (["runs=x"], 2), (["run=x", "steps=2"], 2)],
)
def test_wrong_words_show_the_usage(
    capsys: pytest.CaptureFixture[str], words: list[str], status: int
) -> None:
    assert here("evaluate", *words) == status
    assert "usage of the job" in capsys.readouterr().out


def test_a_folder_that_others_can_write_to_is_not_trusted(
    copied: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    copied.root.chmod(0o777)
    assert here("train", f"run={copied.root}") == 2
    assert "others can write to it" in capsys.readouterr().err


def test_one_element_is_done_alone(copied: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    shard = "dev-00000-of-00001"
    for step in (6, 8):
        copied.predictions_file(step, shard).unlink()
    assert here("evaluate", f"run={copied.root}", "element=1") == 0
    assert "evaluate: done" in capsys.readouterr().out
    assert is_evaluated(copied, 8, shard) and not is_evaluated(copied, 6, shard)
