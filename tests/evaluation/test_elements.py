"""Which elements the evaluate stage has, and which of them are done."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from qa_dist.evaluation.elements import elements, finished_steps, is_evaluated, marker_file
from qa_dist.run_dir import RunDir

ROOT = Path(__file__).resolve().parents[2]
SHARD = "dev-00001-of-00002"


def test_elements_are_checkpoints_times_shards_heldout_first(evaluated: RunDir) -> None:
    names = [f"{split}-{i:05d}-of-00002" for split in ("heldout", "dev") for i in range(2)]
    splits = ["heldout", "heldout", "dev", "dev"]
    assert elements(evaluated) == [(8, s, n) for s, n in zip(splits, names, strict=True)]


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
