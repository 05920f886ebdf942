"""Errors that mean too little memory are known as such, and say what to try."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qa_dist.cluster.job import report_failure
from qa_dist.cluster.out_of_memory import is_out_of_memory
from qa_dist.files import read_status
from qa_dist.recipe_loading import load_recipe, recipe_to_yaml
from qa_dist.run_dir import RunDir

ROOT = Path(__file__).resolve().parents[2]


def make_run(folder: Path, *words: str) -> RunDir:
    run = RunDir(folder)
    run.status.mkdir(parents=True)
    recipe = load_recipe("tiny_coqa", words, ROOT / "configs" / "recipes")
    run.recipe.write_text(recipe_to_yaml(recipe))
    return run


def real_error() -> BaseException:
    """What torch raises when a tensor is larger than memory."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    return caught.value


def said(run: RunDir, stage: str, error: BaseException) -> str:
    report_failure(run, stage, 0, error)
    return str(read_status(run.status_file(stage, 0))["error"])


def test_training_is_told_which_micro_batch_to_try(tmp_path: Path) -> None:
    run = make_run(tmp_path, "train.micro_batch_tokens=16384", "data.max_length_tokens=384")
    text = said(run, "train", real_error())
    assert text.startswith("out of memory (") and "Traceback" not in text
    assert "train.micro_batch_tokens=8192" in text and "fresh=true" in text
    assert "train.engine=zero1 or fsdp" in text


def test_one_window_at_a_time_can_not_be_halved(tmp_path: Path) -> None:
    words = ("train.micro_batch_tokens=384", "data.max_length_tokens=384", "train.engine=fsdp")
    text = said(make_run(tmp_path, *words), "train", torch.OutOfMemoryError("CUDA out of memory"))
    assert "micro_batch_tokens" not in text
    assert "train.engine=zero3" in text and "data.max_length_tokens below 384" in text


def test_evaluation_and_prepare_have_settings_of_their_own(tmp_path: Path) -> None:
    run = make_run(tmp_path, "evaluation.batch_tokens=8192", "data.max_length_tokens=384")
    assert "evaluation.batch_tokens=4096" in said(run, "evaluate", MemoryError())
    assert "data.num_shards" in said(run, "prepare", MemoryError("x"))


def test_other_errors_are_not_taken_for_it(tmp_path: Path) -> None:
    error = RuntimeError("gloo: Connection closed by peer, memory of which fades")
    assert not is_out_of_memory(error)
    assert "RuntimeError" in said(make_run(tmp_path), "train", error)
