"""Which scores are current, and which have to be made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qa_dist.evaluation.elements import marker_file
from qa_dist.evaluation.scored import is_scored, mark_scored
from qa_dist.files import read_json, write_json
from qa_dist.run_dir import RunDir

SHARD = "dev-00001-of-00002"
RESAMPLES = 50


def test_what_was_marked_is_current(copied: RunDir) -> None:
    assert is_scored(copied, 8, RESAMPLES)
    assert not is_scored(copied, 6, RESAMPLES)
    assert not is_scored(copied, 8, RESAMPLES + 1), "other intervals"


@pytest.mark.parametrize("what", ["scores", "scores gone", "predictions", "marker"])
def test_what_was_changed_since_is_not(copied: RunDir, what: str) -> None:
    path: Path = copied.scores_file(8)
    if what == "scores":
        path.write_text(path.read_text() + "\n")
    elif what == "scores gone":
        path.unlink()
    elif what == "predictions":
        marker = marker_file(copied, 8, SHARD)
        write_json(marker, {**read_json(marker), "sha256": "0" * 64})
    else:
        (copied.predictions / "step-00000008" / "scored.json").unlink()
    assert not is_scored(copied, 8, RESAMPLES)
    if path.exists():
        mark_scored(copied, 8, RESAMPLES)
        assert is_scored(copied, 8, RESAMPLES)


def test_the_marker_is_json_beside_the_predictions(copied: RunDir) -> None:
    facts = json.loads((copied.predictions / "step-00000008" / "scored.json").read_text())
    assert set(facts) == {"of", "sha256"}
