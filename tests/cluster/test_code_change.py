"""A launch with other code says so, once, and names what changed where the run has a copy."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
from rich.console import Console
from runs import make_run

from qa_dist.attempts import update_run
from qa_dist.cluster.code_change import note_code
from qa_dist.code_version import PACKAGE, code_version
from qa_dist.files import read_json
from qa_dist.run_dir import RunDir


@pytest.fixture
def run(launch_words: list[str], tmp_path: Path) -> RunDir:
    return make_run(launch_words, tmp_path)


def note(run: RunDir) -> str:
    console = Console(file=io.StringIO(), width=60)
    note_code(run, console)
    assert read_json(run.run_json)["code"] == code_version()
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_new_run_and_the_same_code_give_no_warning(run: RunDir) -> None:
    assert [note(run), note(run)] == ["", ""]


def test_t21_changed_code_is_said_once(run: RunDir) -> None:
    update_run(run, code="0123456789ab")
    said = note(run)
    change = f"0123456789ab -> {code_version()}"
    assert said.startswith(
        f"warning: the code has changed since this run was last launched ({change})"
    )
    assert said.count("\n") == 1 and "name=..." in said
    assert note(run) == ""


def test_t21_changed_files_are_named_three_at_most(run: RunDir) -> None:
    update_run(run, code="0123456789ab")
    copy = shutil.copytree(PACKAGE, run.root / "code" / "qa_dist")
    for name in ("e.py", "b.py", "d.py", "c.py", "a.py"):
        (copy / name).touch()
    assert ": qa_dist/a.py, qa_dist/b.py, qa_dist/c.py and 2 more)" in note(run)
