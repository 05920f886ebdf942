"""Steps are counted, and what is validated is the same for any number of ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from runs import make_run

from qa_dist.data.prepared import read_prepared
from qa_dist.recipe import Recipe, Train
from qa_dist.recipe_loading import load_saved_recipe
from qa_dist.records import InputError
from qa_dist.training.batches import Batches, count_steps
from qa_dist.training.engine import Engine


def make(launch_words: list[str], folder: Path, engine: Engine, *more: str) -> Batches:
    run = make_run(launch_words, folder, *more)
    return Batches(load_saved_recipe(run.recipe), read_prepared(run), engine)


def test_the_validated_windows_are_a_fixed_sample_each_once(
    launch_words: list[str], tmp_path: Path, engine: Engine
) -> None:
    batches = make(launch_words, tmp_path, engine)
    first = [number for windows in batches.validation_micro_batches() for number in windows]
    again = [number for windows in batches.validation_micro_batches() for number in windows]
    assert first == again and len(first) == len(set(first)) == batches.num_validated == 16
    assert sorted(first) != list(range(16)), "drawn from all of the split"


def test_without_dev_windows_asked_for_nothing_is_validated(
    launch_words: list[str], tmp_path: Path, engine: Engine
) -> None:
    assert make(launch_words, tmp_path, engine, "train.validation_windows=0").num_validated == 0


def test_no_windows_become_the_tensors_of_one(
    launch_words: list[str], tmp_path: Path, engine: Engine
) -> None:
    batches = make(launch_words, tmp_path, engine)
    empty, first = (batches.collate(batches.train_split, windows) for windows in ((), (0,)))
    assert torch.equal(empty.input_ids, first.input_ids)


def test_steps_are_counted_from_epochs_or_given() -> None:
    def count(num_windows: int, **settings: float) -> int:
        return count_steps(Recipe(train=Train(batch_windows=8, **settings)), num_windows)

    assert count(80, epochs=2) == 20
    assert count(83, epochs=2) == 2 * 11, "an epoch's last batch may be short"
    assert count(80, max_steps=7) == 7
    assert count(3, epochs=0.1) == 1
    with pytest.raises(InputError, match="not one window"):
        count(0, epochs=2)
