"""Names and paths: what becomes a folder is checked, and job folders are private."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qa_dist import run_dir
from qa_dist.records import InputError
from qa_dist.run_dir import (
    PreparedDir,
    RunDir,
    check_name,
    check_private_folder,
    make_private_folder,
    shard_name,
    step_name,
)


@pytest.mark.parametrize("name", ["a", "0", "coqa_electra", "v1.0-b", "A" * 64, "x.yaml"])
def test_good_names(name: str) -> None:
    assert check_name(name, "name") == name


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "a/b", "../a", "a..b", ".a", "-a", "_a", "a b", "a\n", "a\x00", "a'"),
        *('a"', "a\\", "%j", "a%", "$(x)", "`x`", "a;b", "é", "A" * 65, "x" * 300, "٤", "ａ"),
    ],
)
def test_bad_names_are_shown_on_one_short_line(name: str) -> None:
    with pytest.raises(InputError) as caught:
        check_name(name, "recipe")
    message = str(caught.value)
    assert message.startswith("recipe=") and "starts with a letter or digit" in message
    assert "\n" not in message and "\x00" not in message and len(message) < 220


@given(st.text(max_size=80))
def test_a_checked_name_is_one_path_part(name: str) -> None:
    try:
        check_name(name, "name")
    except InputError:
        return
    path = Path("/runs") / name
    assert path.parent == Path("/runs") and os.path.normpath(path) == str(path)
    assert name.isascii() and 1 <= len(name) <= 64


def test_numbers_have_fixed_widths_so_that_names_sort() -> None:
    assert shard_name("train", 3, 32) == "train-00003-of-00032"
    assert step_name(4000) == "step-00004000"
    assert sorted(map(step_name, (10, 9, 100000))) == [step_name(n) for n in (9, 10, 100000)]


def test_every_path_of_a_run() -> None:
    run = RunDir(Path("/runs/coqa/first"))
    assert run.recipe == run.root / "recipe.yaml"
    assert run.run_json == run.root / "run.json"
    assert run.status_file("train", 0) == run.root / "status" / "train-0.json"
    assert run.checkpoints == run.root / "checkpoints"
    assert run.scores_file(40) == run.root / "scores" / "step-00000040.json"
    shard = shard_name("dev", 0, 4)
    wanted = run.root / "predictions" / "step-00000040" / "dev-00000-of-00004.jsonl"
    assert run.predictions_file(40, shard) == wanted
    assert run.predictions in wanted.parents and run.scores in run.scores_file(1).parents
    assert run.tensorboard == run.root / "tensorboard"
    assert run.scalars == run.root / "scalars.jsonl"
    assert run.logs == run.root / "logs"
    prepared = PreparedDir(Path("/prepared"), "abc")
    assert prepared.folder == Path("/prepared/abc")
    assert prepared.shard("dev", 0, 4) == Path("/prepared/abc/dev-00000-of-00004")


def test_made_folders_are_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        folder = make_private_folder(tmp_path / "run")
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert make_private_folder(folder) == folder


def test_folders_that_others_could_write_to_are_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o770)
    with pytest.raises(InputError, match="others can write to it; run `chmod go-w"):
        make_private_folder(tmp_path)
    tmp_path.chmod(0o702)
    with pytest.raises(InputError, match="others can write to it"):
        check_private_folder(tmp_path)
    tmp_path.chmod(0o755)
    check_private_folder(tmp_path)


def test_links_and_files_are_refused(tmp_path: Path) -> None:
    real = make_private_folder(tmp_path / "real")
    (tmp_path / "link").symlink_to(real)
    with pytest.raises(InputError, match="is a symbolic link"):
        make_private_folder(tmp_path / "link")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is not a folder"):
        check_private_folder(tmp_path / "file")


def test_another_users_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = os.getuid()
    monkeypatch.setattr(run_dir.os, "getuid", lambda: own + 1)
    with pytest.raises(InputError, match=rf"belongs to another user \(uid {own}\)"):
        check_private_folder(tmp_path)
