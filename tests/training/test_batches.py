"""Steps are counted, and what is validated is the same for any number of ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from runs import make_run

from qa_dist.data.prepared import read_prepared
from qa_dist.recipe_loading import load_saved_recipe
from qa_dist.training.batches import Batches
from qa_dist.training.engine import Engine


def make(launch_words: list[str], folder: Path, engine: Engine, *more: str) -> Batches:
    run = make_run(launch_words, folder, *more)
    return Batches(load_saved_recipe(run.recipe), read_prepared(run), engine)


def test_the_validated_windows_are_a_fixed_sample_each_once(
    launch_words: list[str], tmp_path: Path, engine: Engine
) -> None:
    batches = make(launch_words, tmp_path, engine)
    (source,) = batches.sources
    first = [number for windows in source.validation(0).micro_batches for number in windows]
    again = [number for windows in source.validation(0).micro_batches for number in windows]
    assert first == again and len(first) == len(set(first)) == 16
    assert source.validation(0).num_targets == 16, "one for each window"
    assert sorted(first) != list(range(16)), "drawn from all of the split"


def test_without_dev_windows_asked_for_nothing_is_validated(
    launch_words: list[str], tmp_path: Path, engine: Engine
) -> None:
    batches = make(launch_words, tmp_path, engine, "train.validation_windows=0")
    assert batches.sources[0].validation(0).micro_batches == []


def test_no_windows_become_the_tensors_of_one(
    launch_words: list[str], tmp_path: Path, engine: Engine
) -> None:
    batches = make(launch_words, tmp_path, engine)
    (source,) = batches.sources
    empty, first = (source.collate(source.train_split, windows) for windows in ((), (0,)))
    assert torch.equal(empty.input_ids, first.input_ids)


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        (("train.epochs=2", "train.batch_windows=8"), 2 * 16),
        (("train.epochs=2", "train.batch_windows=7"), 2 * 19),  # an epoch's last batch is short
        (("train.max_steps=3",), 3),
        (("train.epochs=0.01",), 1),
    ],
)
def test_steps_are_counted_from_epochs_or_given(
    launch_words: list[str],
    tmp_path: Path,
    engine: Engine,
    settings: tuple[str, ...],
    steps: int,
) -> None:
    batches = make(launch_words, tmp_path, engine, "train.max_steps=0", *settings)
    assert batches.sources[0].train_split.num_windows == 128
    assert batches.num_steps == steps
