"""Curves: resumed equals uninterrupted, TensorBoard shows each point once and no zig-zag."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.metadata import parse_session_start_info_plugin_data

from qa_dist import scalars
from qa_dist.scalars import (
    ScalarWriter,
    read_scalars,
    rebuild_tensorboard,
    write_hparams,
    write_scores,
)

SOURCE = Path(__file__).parents[1]


def loss_at(step: int) -> float:
    return 1 / (step + 1)


def train(root: Path, first: int, last: int, resume_step: int | None = None) -> None:
    with ScalarWriter(root / "tensorboard", root / "scalars.jsonl", resume_step) as writer:
        for step in range(first, last + 1):
            writer.write(step, {"loss": loss_at(step), "lr": step * 1e-5})


def curve(folder: Path, name: str = "loss") -> list[tuple[int, float]]:
    """What TensorBoard shows."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def steps(folder: Path, name: str = "loss") -> list[int]:
    return [step for step, _ in curve(folder, name)]


def test_writes_lines_and_events(tmp_path: Path) -> None:
    train(tmp_path, 1, 3)
    lines = (tmp_path / "scalars.jsonl").read_text().splitlines()
    assert json.loads(lines[1]) == {"step": 2, "loss": loss_at(2), "lr": 2e-5}
    shown = curve(tmp_path / "tensorboard" / "train")
    assert shown == [(step, pytest.approx(loss_at(step))) for step in (1, 2, 3)]


def test_each_write_is_there_at_once(tmp_path: Path) -> None:
    writer = ScalarWriter(tmp_path / "tensorboard", tmp_path / "scalars.jsonl")
    writer.write(1, {"loss": 0.5})
    assert read_scalars(tmp_path / "scalars.jsonl") == [{"step": 1, "loss": 0.5}]
    assert steps(tmp_path / "tensorboard" / "train") == [1]
    writer.close()


@settings(max_examples=15, deadline=None)
@given(interruptions=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 5)), max_size=3))
def test_resumed_equals_uninterrupted(
    tmp_path_factory: pytest.TempPathFactory, interruptions: list[tuple[int, int]]
) -> None:
    """Each attempt goes on from a checkpoint and dies some steps later, in the middle of a line."""
    whole, resumed = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("resumed")
    train(whole, 1, 12)
    reached = 0
    for checkpoint, more in interruptions:
        start = min(checkpoint, reached)
        reached = min(start + more, 12)
        train(resumed, start + 1, reached, start)
        with (resumed / "scalars.jsonl").open("a") as stream:
            stream.write('{"step": 1')
    start = reached // 2
    train(resumed, start + 1, 12, start)
    expected = (whole / "scalars.jsonl").read_bytes()
    assert (resumed / "scalars.jsonl").read_bytes() == expected
    assert curve(resumed / "tensorboard/train") == curve(whole / "tensorboard/train")


def test_control_without_resume_step_both_would_zigzag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: with purging switched off, the two checks above fail."""
    train(tmp_path, 1, 6)
    monkeypatch.setattr(scalars, "_drop_lines_after", lambda *_: None)
    monkeypatch.setattr(scalars._EventFile, "__init__", _without_purge(scalars._EventFile.__init__))
    train(tmp_path, 4, 8, 3)
    zigzag = [1, 2, 3, 4, 5, 6, 4, 5, 6, 7, 8]
    assert [line["step"] for line in read_scalars(tmp_path / "scalars.jsonl")] == zigzag
    assert steps(tmp_path / "tensorboard/train") == zigzag


def _without_purge(original):  # type: ignore[no-untyped-def]
    def init(self, folder, first_step, is_hidden=False):  # type: ignore[no-untyped-def]
        original(self, folder, 1 << 40, is_hidden)

    return init


@pytest.mark.parametrize("resume_step", [None, 0])
def test_a_start_from_the_beginning_forgets_everything(
    tmp_path: Path, resume_step: int | None
) -> None:
    train(tmp_path, 1, 3)
    train(tmp_path, 1, 2, resume_step)
    assert [line["step"] for line in read_scalars(tmp_path / "scalars.jsonl")] == [1, 2]
    assert steps(tmp_path / "tensorboard/train") == [1, 2]


def test_a_clock_set_back_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tmp_path, 1, 6)
    monkeypatch.setattr(scalars.time, "time", lambda: 1_000_000.0)
    train(tmp_path, 4, 8, 3)
    assert steps(tmp_path / "tensorboard/train") == list(range(1, 9))


def test_an_older_attempt_that_still_lives_writes_to_the_old_file(tmp_path: Path) -> None:
    zombie = ScalarWriter(tmp_path / "tensorboard", tmp_path / "scalars.jsonl")
    zombie.write(1, {"loss": 1.0})
    train(tmp_path, 2, 3, 1)
    zombie.write(2, {"loss": 99.0})
    zombie.close()
    assert [line["loss"] for line in read_scalars(tmp_path / "scalars.jsonl")] == [
        1.0,
        1 / 3,
        1 / 4,
    ]


def test_not_finite_is_null_in_json_and_a_mark_in_tensorboard(tmp_path: Path) -> None:
    with ScalarWriter(tmp_path / "tensorboard", tmp_path / "scalars.jsonl") as writer:
        writer.write(1, {"loss": math.nan, "norm": math.inf, "lr": 1})
    text = (tmp_path / "scalars.jsonl").read_text()
    assert text == '{"step": 1, "loss": null, "norm": null, "lr": 1.0}\n'
    [(step, value)] = curve(tmp_path / "tensorboard/train")
    assert step == 1 and math.isnan(value)


def test_step_is_no_scalar(tmp_path: Path) -> None:
    with (
        ScalarWriter(tmp_path / "tensorboard", tmp_path / "scalars.jsonl") as writer,
        pytest.raises(ValueError, match="step"),
    ):
        writer.write(1, {"step": 2})


def test_rebuilt_from_scalars_as_it_was(tmp_path: Path) -> None:
    train(tmp_path, 1, 6)
    train(tmp_path, 4, 8, 3)
    before = curve(tmp_path / "tensorboard/train")
    for _ in range(2):
        rebuild_tensorboard(tmp_path / "tensorboard", tmp_path / "scalars.jsonl")
        assert curve(tmp_path / "tensorboard/train") == before
        assert len(list((tmp_path / "tensorboard/train").iterdir())) == 1


def test_aggregated_twice_is_not_doubled(tmp_path: Path) -> None:
    write_scores(tmp_path, {200: {"F1": 0.5, "EM": 0.4}, 100: {"F1": 0.25, "EM": None}})
    write_scores(tmp_path, {300: {"F1": 0.75}, 200: {"F1": 0.5, "EM": 0.4}, 100: {"F1": 0.25}})
    assert curve(tmp_path / "scores", "F1") == [(100, 0.25), (200, 0.5), (300, 0.75)]
    assert steps(tmp_path / "scores", "EM") == [200]


def test_killed_before_the_old_file_is_deleted_is_not_doubled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_scores(tmp_path, {1: {"F1": 0.25}, 2: {"F1": 0.5}})
    with monkeypatch.context() as patch:
        patch.setattr(scalars.Path, "unlink", _die)
        with pytest.raises(KeyboardInterrupt):
            write_scores(tmp_path, {1: {"F1": 0.25}, 2: {"F1": 0.5}})
    assert len(list((tmp_path / "scores").iterdir())) == 2, "control: both files are there"
    assert steps(tmp_path / "scores", "F1") == [1, 2]


def _die(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_torn_and_foreign_lines_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "scalars.jsonl"
    path.write_bytes(b'{"step": 1}\n\x00\x00\n[3]\n{"loss": 1}\n\xff\n{"step": 2}\n{"step": 3}')
    assert [line["step"] for line in read_scalars(path)] == [1, 2]
    assert read_scalars(tmp_path / "nothing.jsonl") == []


def test_needs_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys, qa_dist.scalars as s; assert 'tensorboard' not in sys.modules\n"
        "from pathlib import Path; s.write_scores(Path(sys.argv[1]), {1: {'a': 1.0}})\n"
        "print('torch' in sys.modules, 'tensorflow' in sys.modules)"
    )
    environ = {**os.environ, "PYTHONPATH": str(SOURCE)}
    command = [sys.executable, "-c", code, str(tmp_path)]
    result = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert result.stdout == "False False\n", result.stderr


def test_hyper_parameters_and_results_are_one_row_however_often_written(tmp_path: Path) -> None:
    settings = {"train.seed": 3, "model.lower_case": True, "model.name": "bert", "train.rate": 1e-5}
    for f1 in (50.0, 60.0):
        write_hparams(tmp_path, settings, 8, {"final/f1": f1})
    assert curve(tmp_path / "hparams", "final/f1") == [(8, 60.0)]
    assert len(list((tmp_path / "hparams").iterdir())) == 1
    events = EventAccumulator(str(tmp_path / "hparams")).Reload()
    found = events.SummaryMetadata("_hparams_/session_start_info").plugin_data
    hparams = parse_session_start_info_plugin_data(found.content).hparams
    assert {k: getattr(v, v.WhichOneof("kind")) for k, v in hparams.items()} == settings
