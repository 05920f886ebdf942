"""The code is copied into the run; a launch with other code says so, once, and names what
changed where the run has a copy."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from runs import make_run

from qa_dist.attempts import update_run
from qa_dist.cluster.snapshot import note_code, save_code
from qa_dist.code_version import PACKAGE, code_version
from qa_dist.files import read_json
from qa_dist.profile import Profile
from qa_dist.records import InputError
from qa_dist.run_dir import RunDir

PROFILE = Profile(name="here", where="slurm")


def test_the_code_is_copied_into_the_run(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    run.root.mkdir()
    save_code(run, PROFILE)
    code = run.root / "code"
    assert (code / "qa_dist" / "training" / "loop.py").is_file()
    assert "module load" in (code / "slurm" / "env.sh").read_text()
    assert not list(code.rglob("*.pyc"))
    env_file = tmp_path / "mine.sh"
    env_file.write_text("export A=1\n")
    save_code(run, replace(PROFILE, env_file=str(env_file)))
    assert (code / "slurm" / "env.sh").read_text() == "export A=1\n"
    with pytest.raises(InputError, match="env_file=/nowhere: there is no such file"):
        save_code(run, replace(PROFILE, env_file="/nowhere"))
    assert (code / "slurm" / "env.sh").read_text() == "export A=1\n", "the old one stays"
    assert [path.name for path in run.root.iterdir()] == ["code"]


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
