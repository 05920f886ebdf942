"""What training writes into its run's folder: saved, told, rotated, and fenced off."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from qa_dist import faults
from qa_dist.attempts import FencedError, new_attempt
from qa_dist.checkpoint import SaveError, list_steps, load_checkpoint
from qa_dist.files import read_json, read_status, write_json
from qa_dist.recipe import Train
from qa_dist.run_dir import RunDir, step_name
from qa_dist.training import journal as module
from qa_dist.training.journal import Journal, Readers

SETTINGS = replace(Train(), checkpoint_every_steps=2, keep_checkpoints=1)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path)
    write_json(run.run_json, {"id": "a", "attempt": 0})
    new_attempt(run)
    return run


def open_journal(run: RunDir) -> Journal:
    return Journal(run, SETTINGS, read_json(run.run_json), "data", 8)


def save(journal: Journal, step: int, is_periodic: bool = True) -> None:
    weights = {"weight": torch.full((2,), float(step))}
    journal.save(weights, {}, {"step": step, "best_step": 0}, is_periodic)


def test_what_is_saved_is_found_and_the_oldest_goes(run: RunDir) -> None:
    journal = open_journal(run)
    assert journal.find() is None
    save(journal, 2)
    save(journal, 4)
    assert list_steps(run.checkpoints) == [4]
    assert read_json(run.run_json)["has_checkpoint"] is True
    status = read_status(run.status_file("train", 0))
    assert (status["state"], status["step"], status["saved_step"]) == ("running", 4, 4)
    found = open_journal(run).find()
    assert found and found.name == "step-00000004"


def test_readers_are_told_of_periodic_checkpoints_and_keep_what_they_await(run: RunDir) -> None:
    told: list[bool] = []
    journal = open_journal(run)
    journal.readers = Readers(lambda run: {2}, told.append)
    save(journal, 2)
    save(journal, 3, is_periodic=False)
    save(journal, 4)
    assert told == [False, False]
    assert list_steps(run.checkpoints) == [2, 4], "3 was only there because of a stop"


def test_an_older_attempt_neither_saves_nor_beats(run: RunDir) -> None:
    journal = open_journal(run)
    save(journal, 2)
    new_attempt(run)
    with pytest.raises(FencedError):
        save(journal, 4)
    with pytest.raises(FencedError):
        journal.beat("running", 4)
    assert list_steps(run.checkpoints) == [2]
    assert read_status(run.status_file("train", 0))["step"] == 2


# ---- behind training


@pytest.fixture(autouse=True)
def disarm() -> Iterator[None]:
    yield
    faults.arm("")


def save_behind(journal: Journal, step: int) -> torch.Tensor:
    """Begin to save weights; return them."""
    weight = torch.full((2,), float(step))
    progress = {"step": step, "best_step": 0}
    journal.save_behind({"weight": weight}, {"exp_avg/weight": weight}, progress, True)
    return weight


def test_a_checkpoint_is_told_of_when_it_is_there(run: RunDir) -> None:
    told: list[bool] = []
    is_rotating, go = threading.Event(), threading.Event()

    def awaited(run: RunDir) -> tuple[int, ...]:
        is_rotating.set()
        go.wait()
        return ()

    journal = open_journal(run)
    journal.readers = Readers(awaited, told.append)
    save_behind(journal, 2)
    is_rotating.wait()
    assert not journal.look() and told == []
    journal.beat("running", 3)
    assert read_status(run.status_file("train", 0))["saved_step"] == 0
    go.set()
    journal.finish()
    assert told == [False] and list_steps(run.checkpoints) == [2]
    status = read_status(run.status_file("train", 0))
    assert (status["step"], status["saved_step"]) == (3, 2), "training is further"
    assert not journal.look() and told == [False]


@pytest.mark.parametrize("is_copied", [True, False])
def test_the_next_step_doesnt_change_what_is_being_written(run: RunDir, is_copied: bool) -> None:
    faults.arm("point=checkpoint.before_files;action=sleep:0.2")
    journal = open_journal(run)
    if not is_copied:  # control
        journal._weights.take = dict  # type: ignore[method-assign,assignment]
    weight = save_behind(journal, 2)
    weight += 1
    journal.finish()
    written = load_checkpoint(run.checkpoints / step_name(2))
    assert written.model_state["weight"].eq(2).all() == is_copied
    assert written.optimizer_state["exp_avg/weight"].eq(2).all()


def test_the_next_save_waits_for_the_one_before(run: RunDir) -> None:
    faults.arm("point=checkpoint.after_files;step=2;action=sleep:0.2")
    journal = open_journal(run)
    save_behind(journal, 2)
    save_behind(journal, 4)
    assert journal.saved_step == 2
    save(journal, 6)
    assert journal.saved_step == 6 and list_steps(run.checkpoints) == [6]


def test_t23_what_went_wrong_is_raised_to_who_waits(run: RunDir) -> None:
    faults.arm("point=checkpoint.mid_file;step=4;action=enospc")
    told: list[bool] = []
    journal = open_journal(run)
    journal.readers = Readers(saved=told.append)
    save(journal, 2)
    save_behind(journal, 4)
    while not journal.look():
        pass
    with pytest.raises(SaveError, match="checkpoint not written"):
        journal.finish()
    assert (told, journal.saved_step) == ([False], 2)
    assert [path.name for path in run.checkpoints.iterdir()] == [step_name(2)]


def test_t15_an_older_attempt_is_fenced_off_behind_training_too(run: RunDir) -> None:
    journal = open_journal(run)
    new_attempt(run)
    save_behind(journal, 2)
    with pytest.raises(FencedError):
        journal.finish()
    assert list_steps(run.checkpoints) == []


def test_who_leaves_by_an_error_waits_for_what_is_being_written(
    run: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    faults.arm(
        "point=checkpoint.after_files;action=sleep:0.2|"
        "point=checkpoint.mid_file;step=4;action=enospc"
    )
    for step, there in ((2, [2]), (4, [2])):
        with pytest.raises(ZeroDivisionError), open_journal(run) as journal:
            save_behind(journal, step)
            raise ZeroDivisionError
        assert list_steps(run.checkpoints) == there
    assert "checkpoint not written" in capsys.readouterr().out
    faults.arm("point=checkpoint.mid_file;step=6;action=enospc")
    with pytest.raises(SaveError), open_journal(run) as journal:
        save_behind(journal, 6)


# ---- the heartbeat


def test_the_heart_beats_once_a_second(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    journal, beats = open_journal(run), []
    monkeypatch.setattr(journal, "beat", lambda state, step: beats.append(step))
    journal._last_beat = now
    for step, now in enumerate((100.5, 101.0, 101.5)):  # noqa: B007
        journal.beat_if_due(step)
    assert beats == [1, 2]
