"""A run's folder is made, found again, or refused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from runs import make_run

from qa_dist.cluster.open_run import open_root
from qa_dist.files import read_json
from qa_dist.records import InputError


def changed(words: Sequence[str], *more: str) -> list[str]:
    given = {word.partition("=")[0]: word for word in (*words, *more)}
    return list(given.values())


def test_a_runs_folder_is_its_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        run = open_root(tmp_path / "runs", "main", "tiny")
    finally:
        os.umask(before)
    assert run.root == tmp_path / "runs" / "tiny" / "main"
    for folder in (run.root, run.root.parent, run.root.parent.parent):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs" / "tiny").mkdir(parents=True, mode=0o700)
    (tmp_path / "runs" / "tiny").chmod(0o777)
    with pytest.raises(InputError, match="others can write to it"):
        open_root(tmp_path / "runs", "main", "tiny")


def test_attempts_are_counted_and_the_id_stays(launch_words: list[str], tmp_path: Path) -> None:
    run = make_run(launch_words, tmp_path)
    first = read_json(run.run_json)
    assert make_run(launch_words, tmp_path) == run
    second = read_json(run.run_json)
    assert (first["attempt"], second["attempt"]) == (1, 2)
    assert first["id"] == second["id"] and len(first["id"]) == 32


def test_changed_data_is_refused_although_no_setting_changed(
    launch_words: list[str], tmp_path: Path
) -> None:
    source = next(word for word in launch_words if word.startswith("sources.0.dev="))
    path = tmp_path / "dev.json"
    shutil.copy(source.partition("=")[2], path)
    words = changed(launch_words, f"sources.0.dev={path}")
    make_run(words, tmp_path)
    content = json.loads(path.read_text())
    content["data"] = content["data"][1:]
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="the input or the tokenizer was changed"):
        make_run(words, tmp_path)


# ---- what is missing
