"""What training writes into its run's folder: saved, told, rotated, and fenced off."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from qa_dist.attempts import FencedError, new_attempt
from qa_dist.checkpoint import list_steps
from qa_dist.files import read_json, read_status, write_json
from qa_dist.recipe import Train
from qa_dist.run_dir import RunDir
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


def test_the_heart_beats_once_a_second(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    journal, beats = open_journal(run), []
    monkeypatch.setattr(journal, "beat", lambda state, step: beats.append(step))
    journal._last_beat = now
    for step, now in enumerate((100.5, 101.0, 101.5)):  # noqa: B007
        journal.beat_if_due(step)
    assert beats == [1, 2]
