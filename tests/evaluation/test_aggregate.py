"""Totals: refused if partial, each id once, idempotent, and what the official scripts would say."""

from __future__ import annotations

import gc
import json
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runs import (
    add_noisy_checkpoint,
    artefacts,
    evaluate_all,
    fault_environ,
    fired,
    with_each_checkpoint,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from zygote import Zygote

from qa_dist.checkpoint import list_steps
from qa_dist.evaluation import aggregate as aggregates
from qa_dist.evaluation.aggregate import aggregate, rebuild_tensorboard
from qa_dist.evaluation.elements import marker_file
from qa_dist.files import file_sha256, read_json, read_status, write_json, write_status
from qa_dist.records import InputError
from qa_dist.run_dir import RunDir, step_name

ROOT = Path(__file__).resolve().parents[2]
SHARD = "dev-00001-of-00002"
NewRun = Callable[..., RunDir]


def rewrite(run: RunDir, shard: str, rows: list[dict[str, Any]]) -> None:
    """Put other predictions there, with a marker that fits them."""
    path = run.predictions_file(8, shard)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    marker = marker_file(run, 8, shard)
    facts = {"bytes": path.stat().st_size, "sha256": file_sha256(path), "rows": len(rows)}
    write_json(marker, {**read_json(marker), **facts})


def tensorboard_points(run: RunDir) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(run.tensorboard / "scores"), size_guidance={"scalars": 0})
    events.Reload()
    tags = events.Tags()["scalars"]
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags}


# ---- partial totals


def test_e01_a_missing_predictions_file_is_refused_by_the_shards_name(copied: RunDir) -> None:
    before = copied.scores_file(8).read_bytes()
    copied.predictions_file(8, SHARD).unlink()
    with pytest.raises(InputError, match=f"no total, since 1 of 2 shards of dev .*: {SHARD}"):
        aggregate(copied)
    assert copied.scores_file(8).read_bytes() == before


def test_e01_changed_predictions_are_refused_by_the_shards_name(copied: RunDir) -> None:
    path = copied.predictions_file(8, SHARD)
    path.write_bytes(path.read_bytes().replace(b'"f1": 0', b'"f1": 1', 1))
    with pytest.raises(InputError, match=SHARD):
        aggregate(copied)


def test_e01_of_many_shards_just_those_that_changed_are_named(copied: RunDir) -> None:
    for name in ("dev-00000-of-00002", SHARD):
        path = copied.predictions_file(8, name)
        path.write_bytes(path.read_bytes()[:-1] + b" ")
    with pytest.raises(InputError, match=f"2 of 2 shards of dev .*: dev-00000-of-00002, {SHARD}"):
        aggregate(copied)


def test_e01_missing_heldout_predictions_are_refused_too(copied: RunDir) -> None:
    copied.predictions_file(8, "heldout-00000-of-00002").unlink()
    with pytest.raises(InputError, match="heldout-00000-of-00002"):
        aggregate(copied)


def test_a_question_without_prediction_is_refused_by_its_id(copied: RunDir) -> None:
    rows = [json.loads(x) for x in copied.predictions_file(8, SHARD).read_text().splitlines()]
    rewrite(copied, SHARD, rows[1:])
    with pytest.raises(InputError, match=f"1 questions have no prediction: {rows[0]['id']}"):
        aggregate(copied)
    assert gc.isenabled(), "scoring stops it, and an error must not leave it so"


def test_a_row_loses_its_n_best_but_not_what_follows_them() -> None:
    row = {"id": "a", "text": ', "n_best": [', "n_best": [["x", 1.0, [0, 1]]]}
    line = json.dumps(row).encode() + b"\n"
    assert json.loads(aggregates._without_n_best(line)) == {"id": "a", "text": row["text"]}
    asked_again = {**row, "own": {"text": "y", "n_best": []}}
    for kept in (asked_again, {"id": "a", "text": "b"}):
        assert json.loads(aggregates._without_n_best(json.dumps(kept).encode() + b"\n")) == kept


def test_without_any_predictions_it_says_what_to_run(copied: RunDir) -> None:
    shutil.rmtree(copied.predictions)
    with pytest.raises(InputError, match="run the evaluate stage first"):
        aggregate(copied)


def test_half_evaluated_checkpoints_that_are_gone_do_not_block_the_others(copied: RunDir) -> None:
    half = copied.predictions / step_name(4)
    half.mkdir()
    shutil.copy(copied.predictions_file(8, SHARD), half)
    shutil.copytree(copied.predictions / step_name(8), copied.predictions / step_name(6))
    (copied.predictions / "step-notes").mkdir()
    assert aggregate(copied) == [6, 8], "6 is complete, although its checkpoint is gone"
    assert not copied.scores_file(4).exists()


# ---- each id once, and the same again


def test_e02_doubled_ids_count_once(copied: RunDir) -> None:
    before = copied.scores_file(8).read_bytes()
    rows = [json.loads(x) for x in copied.predictions_file(8, SHARD).read_text().splitlines()]
    wrong = [{**row, "f1": 1 - row["f1"], "text": "?"} for row in rows]
    rewrite(copied, SHARD, [*rows, *wrong])
    aggregate(copied)
    assert copied.scores_file(8).read_bytes() == before


def test_e03_aggregated_twice_gives_the_same_bytes_and_points(copied: RunDir) -> None:
    before, points = artefacts(copied), tensorboard_points(copied)
    assert points["dev/f1"][0][0] == 8
    assert aggregate(copied) == [8]
    after = artefacts(copied)

    def without_events(hashes: dict[str, str]) -> dict[str, str]:
        return {name: sha for name, sha in hashes.items() if "tfevents" not in name}

    assert without_events(after) == without_events(before)
    assert tensorboard_points(copied) == points
    assert all(len(values) == 1 for values in points.values())


def test_e03_killed_between_json_and_tensorboard_ends_with_each_point_once(
    zygote: Zygote, finished_run: RunDir, launch_words: list[str], tmp_path: Path
) -> None:
    run, log = RunDir(tmp_path / "runs" / "tiny_coqa" / "main"), tmp_path / "faults.log"
    shutil.copytree(finished_run.root, run.root)
    shutil.rmtree(run.scores)
    run.status_file("aggregate", 0).unlink()
    points = tensorboard_points(run)
    words = [*launch_words, f"runs_dir={tmp_path / 'runs'}"]
    fault = fault_environ("point=aggregate.after_json;step=6;action=kill9", log)
    child = zygote.run("launch", *words, env=fault)
    assert child.status == -signal.SIGKILL, child.text
    assert fired(log) == [("aggregate.after_json", "kill9", 6)]
    assert [path.name for path in run.scores.iterdir()] == ["step-00000006.json"]
    child = zygote.run("launch", *words)
    assert child.status == 0, child.text
    assert tensorboard_points(run) == points
    assert [step for step, _ in points["dev/em"]] == [6, 8]
    for step in (6, 8):
        assert run.scores_file(step).read_bytes() == finished_run.scores_file(step).read_bytes()


# ---- one aggregate for each checkpoint


@pytest.fixture
def each(copied: RunDir) -> RunDir:
    """Two checkpoints, of which step 8 is evaluated and step 2 isn't; training goes on."""
    with_each_checkpoint(copied, every=2)
    write_status(copied.status_file("train", 0), {"state": "running", "step": 8, "of": 10})
    add_noisy_checkpoint(copied, step=2)
    return copied


def test_what_is_still_being_evaluated_is_left_to_the_aggregate_behind_it(
    each: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    each.scores_file(8).unlink()
    assert aggregate(each) == [8] and each.scores_file(8).exists()
    assert "not scored yet: step-00000002: no total" in capsys.readouterr().out
    status = read_status(each.status_file("aggregate", 0))
    assert (status["state"], status["step"], status["of"]) == ("done", 1, 2)
    write_status(each.status_file("train", 0), {"state": "done", "step": 8, "of": 8})
    write_status(each.status_file("evaluate", 0), {"state": "running"})
    assert aggregate(each) == [8]


@pytest.mark.parametrize("said", ["failed", None])
def test_e01_after_training_what_nobody_evaluates_is_refused_once_others_are_scored(
    each: RunDir, said: str | None
) -> None:
    each.scores_file(8).unlink()
    write_status(each.status_file("train", 0), {"state": "done", "step": 8, "of": 8})
    if said:
        write_status(each.status_file("evaluate", 1), {"state": said})
        write_status(each.status_file("evaluate", 2), {"state": "running"})
    with pytest.raises(InputError, match="step-00000002: no total, since 2 of 2 shards of heldout"):
        aggregate(each)
    assert each.scores_file(8).exists() and not each.scores_file(2).exists()
    assert list_steps(each.checkpoints) == [2, 8], "it may still be evaluated"


def test_the_last_aggregate_leaves_what_a_single_one_would_and_rotates(
    each: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aggregate(each)
    write_status(each.status_file("train", 0), {"state": "done", "step": 8, "of": 8})
    evaluate_all(each)
    settings = each.recipe.read_text()
    each.recipe.write_text(re.sub("keep_checkpoints: .*", "keep_checkpoints: 1", settings))
    single = RunDir(tmp_path / "single")
    shutil.copytree(each.root, single.root)
    shutil.rmtree(single.scores)
    scored: list[int] = []
    score = aggregates._score_step
    monkeypatch.setattr(aggregates, "_score_step", lambda *a: [scored.append(a[3]), score(*a)][1])
    assert aggregate(each) == [2, 8]
    assert scored == [2], "what is current isn't computed again"
    assert list_steps(each.checkpoints) == [8]
    assert aggregate(single) == [2, 8] and scored == [2, 2, 8]
    for step in (2, 8):
        ours, theirs = (read_json(run.scores_file(step)) for run in (each, single))
        assert {**ours, "run": ""} == {**theirs, "run": ""}
    assert tensorboard_points(each) == tensorboard_points(single)
    assert aggregate(each) == [2, 8], "the predictions of step 2 stay"


def test_aggregates_at_the_same_time_take_turns(
    zygote: Zygote, evaluated: RunDir, tmp_path: Path
) -> None:
    run, log = RunDir(tmp_path / "main"), tmp_path / "faults.log"
    shutil.copytree(evaluated.root, run.root)
    run.root.chmod(0o700)
    points = tensorboard_points(run)
    shutil.rmtree(run.scores)
    run.status_file("aggregate", 0).unlink()
    fault = fault_environ("point=aggregate.after_json;action=sleep:1", log)
    children = [
        zygote.start("aggregate", f"run={run.root}", "element=0", env=fault) for _ in range(3)
    ]
    assert [child.wait() for child in children] == [0, 0, 0], children[0].text
    assert fired(log) == [("aggregate.after_json", "sleep:1", 8)], "the others found it scored"
    assert run.scores_file(8).read_bytes() == evaluated.scores_file(8).read_bytes()
    assert tensorboard_points(run) == points


def test_tensorboard_is_rebuilt_from_the_scores_alone(copied: RunDir) -> None:
    points = tensorboard_points(copied)
    shutil.rmtree(copied.tensorboard)
    rebuild_tensorboard(copied)
    assert tensorboard_points(copied) == points
    scores = read_json(copied.scores_file(8))["scores"]
    assert points["dev/f1"] == [(8, pytest.approx(scores["tuned"]["f1"]))]
    assert points["dev_oracle/em"] == [(8, pytest.approx(scores["oracle"]["em"]))]
    assert len(list((copied.tensorboard / "hparams").iterdir())) == 1
