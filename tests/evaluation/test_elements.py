"""Which elements the evaluate stage has, and which of them are done."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from runs import with_each_checkpoint

from qa_dist.evaluation.elements import (
    awaited_steps,
    elements,
    finished_steps,
    is_evaluated,
    marker_file,
)
from qa_dist.files import write_json, write_status
from qa_dist.run_dir import RunDir, step_name

ROOT = Path(__file__).resolve().parents[2]
SHARD = "dev-00001-of-00002"


def test_elements_are_checkpoints_times_shards_heldout_first(evaluated: RunDir) -> None:
    names = [f"{split}-{i:05d}-of-00002" for split in ("heldout", "dev") for i in range(2)]
    splits = ["heldout", "heldout", "dev", "dev"]
    assert elements(evaluated) == {
        i: (8, split, name) for i, (split, name) in enumerate(zip(splits, names, strict=True))
    }


def test_numbers_of_each_checkpoint_stay_when_checkpoints_come_and_go(copied: RunDir) -> None:
    with_each_checkpoint(copied, every=2)
    write_status(copied.status_file("train", 0), {"state": "running", "of": 9})
    assert [(n, step) for n, (step, _, _) in elements(copied).items()] == [
        (12, 8), (13, 8), (14, 8), (15, 8),
    ]  # fmt: skip
    for step in (2, 5, 9):  # 5 was saved because of a stop, 9 is the last
        folder = copied.checkpoints / step_name(step)
        folder.mkdir()
        write_json(folder / "MANIFEST.json", {"files": {}})
    there = elements(copied)
    assert {n: step for n, (step, _, _) in there.items()} == (
        {n: 2 for n in range(4)} | {n: 8 for n in range(12, 16)} | {n: 9 for n in range(16, 20)}
    )
    shutil.rmtree(copied.checkpoints / step_name(8))
    assert elements(copied) == there, "its predictions are all there"
    marker_file(copied, 8, SHARD).unlink()
    assert 12 not in elements(copied), "half of what can't be made any more"


def test_a_checkpoint_is_awaited_until_all_its_predictions_are_there(copied: RunDir) -> None:
    path = copied.predictions_file(8, SHARD)
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    assert awaited_steps(copied) == set(), "at_end: nobody waits for it while training goes on"
    with_each_checkpoint(copied, every=2)
    assert awaited_steps(copied) == {8}
    path.write_bytes(whole)
    assert awaited_steps(copied) == set()


def test_steps_count_that_carry_a_marker_and_a_right_name(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    for name in ("step-00000012", "step-00000004", "step-4", "step-old", "step-00000004.bak"):
        (run.checkpoints / name).mkdir(parents=True)
        (run.checkpoints / name / "MANIFEST.json").write_text('{"files": {}}')
    (run.checkpoints / "step-00000020").mkdir()
    assert finished_steps(run) == [4, 12]
    assert finished_steps(RunDir(tmp_path / "none")) == []


def test_whole_predictions_count_as_evaluated(copied: RunDir) -> None:
    assert is_evaluated(copied, 8, SHARD)
    assert not is_evaluated(copied, 6, SHARD)


def test_predictions_without_marker_file_size_or_hash_do_not_count(copied: RunDir) -> None:
    path, marker = copied.predictions_file(8, SHARD), marker_file(copied, 8, SHARD)
    whole, text = path.read_bytes(), marker.read_text()
    path.write_bytes(whole[:-5])
    assert not is_evaluated(copied, 8, SHARD)
    path.write_bytes(whole[:-5] + b"xxxxx")
    assert not is_evaluated(copied, 8, SHARD), "the same size, another hash"
    path.unlink()
    assert not is_evaluated(copied, 8, SHARD)
    path.write_bytes(whole)
    marker.unlink()
    assert not is_evaluated(copied, 8, SHARD)
    marker.write_text(text)
    assert is_evaluated(copied, 8, SHARD)


def test_asking_needs_no_torch() -> None:
    code = "import sys, qa_dist.evaluation.elements; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
